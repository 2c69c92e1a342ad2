from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes

from worldline.engines.base import CallCost
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.testing.cards import card_honest, inputs_honest, short_history
from worldline.testing.clauses import breaches
from worldline.testing.world_case import WorldCase


def with_card(**changes: Any) -> Exact:
    """The toy with another card."""

    class Carded(Exact):
        def describe(self):
            return replace(super().describe(), **changes)

    return Carded()


class AnotherCardEachTime(Exact):
    asked = 0

    def describe(self):
        self.asked += 1
        return replace(super().describe(), notes={"asked": str(self.asked)})


class LooksAtTheCamera(Exact):
    """Not on its card."""

    def path(self, history, push, wind):
        bright = history.observations["camera"].mean() if "camera" in history.observations else 0.0
        return super().path(history, push, wind) + bright / 1e3


class NeedsTheCamera(Exact):
    """Not on its card."""

    def check_present(self, history):
        super().check_present(history)
        if "camera" not in history.observations:
            raise InputError("observation 'camera' is missing. Add it.")


class ListsTheCamera(Exact):
    """And goes on without it."""

    def describe(self):
        return replace(super().describe(), inputs=("position", "camera"))


class WithoutPositionFromZero(Exact):
    def check_present(self, history):
        pass

    def seen(self, history):
        zero = np.zeros((*history.observations["camera"].shape[:2], 2), np.float32)
        given = {"position": zero, **history.observations}
        return super().seen(replace(history, observations=given))

    def check(self, history, actions, exogenous, *, plans):
        if "position" in history.observations:
            super().check(history, actions, exogenous, plans=plans)

    def batched(self, history, actions, exogenous, *, plans=False):
        zero = np.zeros((*history.observations["camera"].shape[:-3], 2), np.float32)
        given = {"position": zero, **history.observations}
        return super().batched(replace(history, observations=given), actions, exogenous, plans=plans)


class RefusesShortHistories(Exact):
    def check_present(self, history):
        if history.observations["position"].shape[-2] < 3:
            raise InputError("three observations are needed. Give more.")


class NanOfShortHistories(Exact):
    def path(self, history, push, wind):
        lost = np.nan if history.observations["position"].shape[-2] < 3 else 0.0
        return super().path(history, push, wind) + lost


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize(
    "call",
    [
        None,
        CallCost(latency_s=0.01),
        CallCost(latency_s=0.0, price=0.002, currency="EUR"),
    ],
)
def test_an_honest_card_passes(call: CallCost | None, episodes: Sequence[Episode]) -> None:
    case = toy_case(with_card(call=call, abilities=("abducts", "novelty")), episodes)
    assert breaches("honest", case, [card_honest]) == []


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"name": ""}, "name '' or engine 'exact' is empty"),
        ({"predicts": ()}, "Card.predicts is empty"),
        ({"predicts": ("position", "speed")}, "predicts .*'speed'.*, expected a subset of the observations .*'camera'"),
        ({"predicts": ("position", "position")}, "a name occurs twice"),
        ({"inputs": ("speed",)}, "inputs .*'speed'.*, expected a subset of the observations"),
        ({"inputs": ("push",)}, "inputs .*'push'"),
        ({"context": 0}, "context is 0"),
        ({"abilities": ("abduct",)}, r"unknown abilities \['abduct'\]; known are .*'abducts'"),
        ({"call": CallCost(latency_s=0.1, price=0.1, currency="dollars")}, "in the currency 'dollars'"),
        ({"call": CallCost(latency_s=0.1, currency="USD")}, "a call costs 0.0 in the currency 'USD'"),
    ],
    ids=str,
)
def test_a_false_card_is_caught(changes: dict[str, Any], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.card\] .*{seen}"):
        card_honest(toy_case(with_card(**changes), episodes))


@pytest.mark.parametrize(
    ("fault", "clause", "seen"),
    [
        (AnotherCardEachTime, card_honest, r"\[world.card\] two calls of describe returned different cards"),
        (
            LooksAtTheCamera,
            inputs_honest,
            r"\[world.inputs\] the prediction changes without 'camera', which is not an input",
        ),
        (
            NeedsTheCamera,
            inputs_honest,
            r"\[world.inputs\] the prediction changes without 'camera', .* InputError \(obs",
        ),
        (ListsTheCamera, inputs_honest, r"\[world.inputs\] the history lacks 'camera'.*expected InputError"),
        (WithoutPositionFromZero, inputs_honest, r"\[world.inputs\] the history lacks 'position'.*expected InputError"),
        (RefusesShortHistories, short_history, r"\[world.context\] 1 of the 3 observations .* InputError"),
        (NanOfShortHistories, short_history, r"\[world.context\] 1 of the 3 observations .*'position' is not finite"),
    ],
)
def test_a_planted_fault_is_caught(
    fault: type[Exact], clause: Callable[[WorldCase], None], seen: str, episodes: Sequence[Episode]
) -> None:
    clause(toy_case(Exact(), episodes))
    with pytest.raises(AssertionError, match=seen):
        clause(toy_case(fault(), episodes))
