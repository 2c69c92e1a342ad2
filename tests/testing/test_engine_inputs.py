from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_engine import Exact

from worldline.engines.base import CallCost, Card
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.testing.clauses import breaches
from worldline.testing.engine_case import EngineCase
from worldline.testing.engine_inputs import fewer_observations, inputs_honest, messages_name_the_error
from worldline.testing.engines import card_honest
from worldline.testing.toys import Integrator


class Patient(Exact):
    """Wants three observations, and makes do with fewer."""

    def describe(self) -> Card:
        return replace(super().describe(), context=3)


class LooksAtTheCamera(Exact):
    """Not on its card."""

    def seen(self, steps):
        position, observed = super().seen(steps)
        bright = steps.observations["camera"].mean() if "camera" in steps.observations else 0.0
        return position + bright / 1e3, observed


class NeedsTheCamera(Exact):
    """Not on its card."""

    def observe(self, belief, steps, *, seed):
        if "camera" not in steps.observations:
            raise InputError("'camera' is missing. Add it.")
        return super().observe(belief, steps, seed=seed)


class ListsTheCamera(Exact):
    """And goes on without it."""

    def describe(self):
        return replace(super().describe(), inputs=("position", "camera"))


class RefusesShortHistories(Patient):
    def observe(self, belief, steps, *, seed):
        if belief is None and steps.observations["position"].shape[1] < 3:
            raise InputError("three observations are needed. Give more.")
        return super().observe(belief, steps, seed=seed)


class NanOfShortHistories(Patient):
    def observe(self, belief, steps, *, seed):
        lost = np.nan if steps.observations["position"].shape[1] < 3 else 0.0
        return super().observe(belief, steps, seed=seed) + lost


class Curt(Exact):
    def check(self, arrays, name, ndim):
        try:
            super().check(arrays, name, ndim)
        except InputError:
            raise InputError("bad input.") from None


class NamesNoShape(Exact):
    def check(self, arrays, name, ndim):
        try:
            super().check(arrays, name, ndim)
        except InputError:
            raise InputError(f"{name} is wrong.") from None


class CalmWithoutWind(Exact):
    def imagine(self, belief, future, **rest):
        push = future.actions["push"][:, 0] if "push" in future.actions else np.zeros((1, 1, 2))
        given = {"wind": np.zeros_like(push), **future.exogenous}
        return super().imagine(belief, replace(future, exogenous=given), **rest)


class PricedInDollars(Exact):
    def describe(self):
        return replace(super().describe(), call=CallCost(latency_s=0.1, price=0.2, currency="dollars"))


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return Integrator(noise=0.1).episodes(20, 12, seed=0)


CLAUSES = (card_honest, inputs_honest, fewer_observations, messages_name_the_error)


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("engine", [Exact, Patient])
def test_a_correct_engine_passes(
    engine: type[Exact], clause: Callable[[EngineCase], None], episodes: Sequence[Episode]
) -> None:
    assert breaches("correct", EngineCase(engine=engine(), episodes=episodes), [clause]) == []


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (PricedInDollars, card_honest, r"\[engine.card\] a call costs 0.2 in the currency 'dollars'"),
        (LooksAtTheCamera, inputs_honest, r"\[engine.inputs\] the prediction changes without 'camera', which is not"),
        (
            NeedsTheCamera,
            inputs_honest,
            r"\[engine.inputs\] the prediction changes without 'camera', .* InputError \('camera' is missing",
        ),
        (ListsTheCamera, inputs_honest, r"\[engine.inputs\] the history lacks 'camera', .*expected InputError"),
        (RefusesShortHistories, fewer_observations, r"\[engine.context\] 1 of the 3 observations .* InputError"),
        (NanOfShortHistories, fewer_observations, r"\[engine.context\] 1 of the 3 .*'position' is not finite"),
        (
            Curt,
            messages_name_the_error,
            r"\[engine.messages\] no 'position' in the history: the message 'bad input.' does not contain",
        ),
        (
            NamesNoShape,
            messages_name_the_error,
            r"\[engine.messages\] 'position' misshapen in the history.* contain \(2,\), \(20, 3, 3",
        ),
        (CalmWithoutWind, messages_name_the_error, r"\[engine.messages\] no 'wind' in the future: expected InputError"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[EngineCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    with pytest.raises(AssertionError, match=seen):
        clause(EngineCase(engine=fault(), episodes=episodes))
