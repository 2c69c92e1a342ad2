from __future__ import annotations

import numpy as np
import pytest
from tests.testing.exact_world import Exact, share_within, toy_case, toy_episodes

from worldline.testing.clauses import breaches
from worldline.testing.confidence import trust_depends_on_steps


class TrustOfThePresent(Exact):
    """Judges where it is, not how it got there."""

    def trust(self, history):
        position, _ = self.seen(history)
        return 1 - share_within(np.abs(position[:, -1]).max(1) / self.spread()) ** 2


class TrustFallsWithLength(Exact):
    """Many steps, each of which may be a little odd, and nothing that corrects for it."""

    def trust(self, history):
        position, _ = self.seen(history)
        moved = self.toy.step(position[:, :-1], history.actions["push"], history.exogenous["wind"])
        odd = (np.abs(position[:, 1:] - moved) / 0.3).max((1, 2), initial=0.0)
        return 1 - share_within(odd) ** 2


class Surprised(TrustOfThePresent):
    """By nothing: it cannot tell steps that do not follow."""

    def p_values(self, episode):
        return np.random.default_rng(episode.num_steps).uniform(size=episode.num_steps)


@pytest.mark.parametrize("seed", range(3))
def test_trust_in_steps_passes(seed: int) -> None:
    assert breaches("exact", toy_case(Exact(), toy_episodes(seed)), [trust_depends_on_steps]) == []


def test_what_surprise_cannot_tell_is_not_asked_of_trust() -> None:
    assert breaches("surprised", toy_case(Surprised(), toy_episodes()), [trust_depends_on_steps]) == []


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (TrustOfThePresent, "one observation is from another episode: surprise detects it in 9"),
        (TrustFallsWithLength, "trust of long histories are at most 0.1"),
    ],
)
def test_a_planted_fault_is_caught(fault: type[Exact], seen: str) -> None:
    with pytest.raises(AssertionError, match=rf"\[world.trust\] .*{seen}"):
        trust_depends_on_steps(toy_case(fault(), toy_episodes()))
