from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from worldline.engines.base import Card
from worldline.errors import InputError, UnknownNameError
from worldline.planning.base import Goal
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.mcp_inputs import VERBS, call_of, input_schema
from worldline.testing.toys import Integrator

MODE = Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3)
SPEED = Signal(name="speed", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m/s")
SCHEMA = Schema(signals=(*Integrator().schema.signals, MODE, SPEED))
CARD = Card(
    name="toy", engine="toy", schema=SCHEMA, inputs=("position",), predicts=("position",), context=1, deterministic=True
)
NOW = {"observations": {"position": [[1, 2]]}}


def call(tool: str = "predict", limit: int = 10, **arguments: Any) -> Any:
    return call_of(tool, {"history": NOW, **arguments}, CARD, limit)[0]


def test_rows_become_arrays_and_null_is_missing() -> None:
    observations = {"position": [[1, 2], [None, None], [3, 4]], "speed": [1, 2, None]}
    past = {"observations": observations, "actions": {"push": [0.5, -0.5], "mode": [2, 1]}}
    history = call(history=past, actions={"push": [0, 0]}).history
    assert history.observations["position"].tolist() == [[1, 2], [0, 0], [3, 4]]
    assert history.observed["position"].tolist() == [True, False, True]
    assert history.observed["speed"].tolist() == [True, True, False]
    assert history.actions["push"].tolist() == [[0.5, -0.5]] * 2  # one row, held
    assert history.actions["mode"].tolist() == [2, 1]
    assert history.actions["mode"].dtype == np.int64


def test_the_last_row_is_held_for_all_steps() -> None:
    plans = {"one": {"push": [[1, 0], [0, 1]], "mode": 1}, "two": {"push": [[1, 1]], "mode": [0, 1, 2]}}
    asked = call("compare_plans", candidates=plans, goal={"targets": {"speed": 3}}, exogenous={"wind": [[0, 0]] * 3})
    assert asked.actions["push"].tolist() == [[[1, 0], [0, 1], [0, 1]], [[1, 1]] * 3]
    assert asked.actions["mode"].tolist() == [[1, 1, 1], [0, 1, 2]]
    assert asked.exogenous["wind"].shape == (3, 2)


def test_a_goal_may_be_a_reward() -> None:
    asked = call("plan", goal={"reward": True}, horizon=3)
    assert asked.goal == Goal(reward=True)
    assert input_schema("plan")["$defs"]["Goal"]["properties"]["reward"]["type"] == "boolean"


@pytest.mark.parametrize("steps", [0, 11, 10**12, -1])
def test_steps_are_limited_before_anything_is_built(steps: int) -> None:
    with pytest.raises(InputError, match="between 1 and 10"):
        call(actions={"push": [[0, 0]]}, steps=steps)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"actions": {"push": [[0, 0]] * 3}, "steps": 2}, InputError, "'push' has shape .3, 2., expected one row"),
        ({"actions": {"push": []}, "steps": 2}, InputError, "'push' has shape .0,."),
        ({"actions": {"push": [0, 0, 0, 0]}}, InputError, "'push' has shape .4,."),  # not two rows of two
        ({"actions": {"pull": [0, 0]}}, UnknownNameError, "'pull'"),
        ({"actions": {"push": ["1", 0]}}, InputError, "Expected"),
        ({"history": {"observations": {"positon": [[1, 2]]}}}, UnknownNameError, "Did you mean 'position'"),
        ({"history": {"observations": {"push": [[1, 2]]}}}, UnknownNameError, "'push'"),
        ({"history": {"observations": {"position": [[1, 2, 3]]}}}, InputError, "has shape .1, 3."),
        ({"history": {"observations": {"position": [[1], [1, 2]]}}}, InputError, "equal lengths"),
        ({"history": NOW, "images": True}, InputError, "unknown field `images`"),
        ({"history": NOW, "elsewhere": 1}, InputError, "unknown field `elsewhere`"),
    ],
)
def test_wrong_values_are_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(**{"actions": {"push": [0, 0]}, **arguments})


@pytest.mark.parametrize("tool", VERBS)
def test_schemas_are_closed_and_short(tool: str) -> None:
    text = json.dumps(schema := input_schema(tool))
    assert len(text) < 6000  # a language model reads them before each answer
    assert {"world"} < set(schema["required"]) <= schema["properties"].keys()
    for part in text.split('"$ref": "#/$defs/')[1:]:
        assert part.partition('"')[0] in schema["$defs"]
    assert "#/components" not in text
