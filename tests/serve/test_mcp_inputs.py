from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from worldline.engines.base import Card
from worldline.errors import InputError, UnknownNameError, UnsupportedError
from worldline.planning.base import Chance
from worldline.planning.costs import AtLeast, AtMost
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.mcp_inputs import (
    BoundInput,
    GoalInput,
    HistoryInput,
    constraints_of,
    futures_of,
    goal_of,
    history_of,
)
from worldline.testing.toys import Integrator

MODE = Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
SPEED = Signal(name="speed", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m/s")
SCHEMA = Schema(signals=(*Integrator().schema.signals, MODE, SPEED))
CARD = Card(
    name="toy", engine="toy", schema=SCHEMA, inputs=("position",), predicts=("position",), context=1, deterministic=True
)


def history(**given: Any) -> Any:
    return history_of(CARD, HistoryInput.model_validate(given))


def test_rows_become_arrays_and_null_is_missing() -> None:
    found = history(
        observations={"position": [[1, 2], None, [3, 4]], "speed": [1, 2, None]},
        actions={"push": [0.5, -0.5], "mode": [2, 1]},
    )
    assert found.observations["position"].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert found.observed["position"].tolist() == [True, False, True]
    assert found.observed["speed"].tolist() == [True, True, False]
    assert found.actions["push"].tolist() == [[0.5, -0.5]] * 2  # one row, held
    assert found.actions["mode"].tolist() == [2, 1]
    assert found.actions["mode"].dtype == np.int64


def test_the_last_row_is_held_for_all_steps() -> None:
    plans = [{"push": [[1, 0], [0, 1]]}, {"push": [[1, 1]]}]
    (first, second), fixed = futures_of(CARD, plans, {"wind": [[0, 0]] * 3}, None, limit=10)
    assert first["push"].tolist() == [[1, 0], [0, 1], [0, 1]]
    assert second["push"].tolist() == [[1, 1]] * 3
    assert fixed is not None
    assert fixed["wind"].shape == (3, 2)


@pytest.mark.parametrize("steps", [0, 11, 10**12, -1])
def test_steps_are_limited_before_anything_is_built(steps: int) -> None:
    with pytest.raises(InputError, match="between 1 and 10"):
        futures_of(CARD, [{"push": [[0, 0]]}], {}, steps, limit=10)


def test_more_rows_than_steps_are_an_error() -> None:
    with pytest.raises(InputError, match=r"'push' has 3 rows, expected 1 to 2"):
        futures_of(CARD, [{"push": [[0, 0]] * 3}], {}, 2, limit=10)
    with pytest.raises(InputError, match=r"'push' has 0 rows"):
        futures_of(CARD, [{"push": []}], {}, 2, limit=10)


@pytest.mark.parametrize(
    ("observations", "error", "text"),
    [
        ({"position": [[1, 2, 3]]}, InputError, "row 0 has 3 numbers, expected 2 .m."),
        ({"positon": [[1, 2]]}, UnknownNameError, "Did you mean 'position'"),
        ({"push": [[1, 2]]}, UnknownNameError, "no observation signal is called 'push'"),
        ({"camera": [0]}, UnsupportedError, "'camera' is an image"),
    ],
)
def test_wrong_signals_are_named(observations: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        history(observations=observations)


@pytest.mark.parametrize("bad", ["1", True, {}, [["1"]], [[[1]]], 1e31, float("nan"), 10**400, ["x"] * 10_000])
def test_rows_are_numbers(bad: Any) -> None:
    with pytest.raises(ValidationError, match="Give a number") as caught:
        HistoryInput.model_validate({"observations": {"speed": bad}})
    assert caught.value.error_count() == 1  # also of a long list


def test_discrete_values_are_integers() -> None:
    with pytest.raises(InputError, match=r"'mode' is discrete, got \[0.5\]"):
        futures_of(CARD, [{"mode": [0.5]}], {}, None, limit=10)
    (found,), _ = futures_of(CARD, [{"mode": [1e29]}], {}, None, limit=10)
    assert found["mode"].tolist() == [2**53]  # the world refuses it


def test_goals_and_bounds() -> None:
    goal = goal_of(CARD, GoalInput.model_validate({"targets": {"speed": 3}, "tolerance": {"speed": 1}}))
    assert goal.targets["speed"].tolist() == [3]
    assert goal.tolerance == {"speed": 1}
    with pytest.raises(InputError, match="2 rows"):
        goal_of(CARD, GoalInput.model_validate({"targets": {"speed": [3, 4]}}))
    both = BoundInput(signal="speed", at_most=2, at_least=1)
    assert constraints_of([both]) == [AtMost(signal="speed", bound=2.0), AtLeast(signal="speed", bound=1.0)]
    sure = constraints_of([BoundInput(signal="speed", at_most=2, probability=0.9)])
    assert sure == [Chance(constraint=AtMost(signal="speed", bound=2.0), level=0.9)]
    with pytest.raises(InputError, match="no bound"):
        constraints_of([BoundInput(signal="speed")])
