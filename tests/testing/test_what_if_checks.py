from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.testing.exact_world import Exact, toy_case, toy_episodes

from worldline.episode import Episode
from worldline.testing.clauses import breaches
from worldline.testing.what_if_checks import abduction_honest
from worldline.world.base import Abduction


class FromThePast(Exact):
    """Predicts again from what was known at the branch."""

    abilities = ()

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.NONE, reason="exact keeps no noise.")

    def replayed(self, episode, at, actions):
        return self.rolled(episode, at, actions, np.zeros((len(actions["push"]), 2)))


class HiddenDrift(Exact):
    """Infers what stays the same, the mean of the noise, and leaves the rest of it out."""

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.HIDDEN_CAUSE, reason="steps are drawn anew.")

    def replayed(self, episode, at, actions):
        position, wind = episode.observations["position"].astype(float), episode.exogenous["wind"]
        left = position[1:] - self.toy.step(position[:-1], episode.actions["push"], wind)
        return self.rolled(episode, at, actions, np.tile(left.mean(0), (len(actions["push"]), 1)))


class SaysNoneAndPeeks(Exact):
    abilities = ()

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.NONE, reason="nothing was inferred.")


class HiddenCauseOfThePastAlone(FromThePast):
    abilities = ("abducts",)

    def what_if(self, *args):
        return replace(super().what_if(*args), abduction=Abduction.HIDDEN_CAUSE)


class AbductsUnlisted(Exact):
    abilities = ()


class ListsWhatItDoesNot(FromThePast):
    abilities = ("abducts",)


class NoReason(FromThePast):
    def what_if(self, *args):
        return replace(super().what_if(*args), reason="")


class FullWithAReason(Exact):
    def what_if(self, *args):
        return replace(super().what_if(*args), reason="well, nearly.")


@pytest.fixture(scope="module")
def episodes() -> Sequence[Episode]:
    return toy_episodes()


@pytest.mark.parametrize("world", [Exact, FromThePast, HiddenDrift])
def test_who_says_what_it_did_passes(world: type[Exact], episodes: Sequence[Episode]) -> None:
    assert breaches("honest", toy_case(world(), episodes), [abduction_honest]) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (SaysNoneAndPeeks, "abduction is none, but other observations after the branch change the answer"),
        (
            HiddenCauseOfThePastAlone,
            "abduction is hidden_cause, but the answer does not depend on observations after",
        ),
        (AbductsUnlisted, "the card does not list 'abducts', but abduction was full"),
        (ListsWhatItDoesNot, "the card lists 'abducts', but abduction was none"),
        (NoReason, "abduction is none with the reason ''"),
        (FullWithAReason, "abduction is full with the reason 'well, nearly.'"),
    ],
)
def test_a_planted_fault_is_caught(fault: type[Exact], seen: str, episodes: Sequence[Episode]) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.abduction\] {seen}"):
        abduction_honest(toy_case(fault(), episodes))
