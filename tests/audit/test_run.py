"""What an audit could not measure, it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.audit.carts import Cart, CartTwins, cart, carts, world
from tests.audit.test_twins import MARKED, Forgetful, MarkedCart, ShortTwins
from tests.report.test_audit_page import material

from worldline.audit.advice import decide
from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.measured import Advice, Audit
from worldline.audit.queries import window_forecasts
from worldline.audit.run import comparisons, measure
from worldline.audit.twins import TwinSource, twin_horizon
from worldline.data.windows import evenly_spaced_windows
from worldline.engines.base import Card, EngineBelief, Samples
from worldline.episode import Arrays, Episode, Future
from worldline.report.audit_page import render_audit


class Broken(CartTwins):
    """Raises what is not an error of this package."""

    def run(self, seed: int, actions: Arrays) -> Episode:
        raise RuntimeError("no licence.")


@pytest.mark.parametrize(
    ("source", "verdict", "reason"),
    [
        (Broken(), Verdict.ERROR, "RuntimeError: no licence."),
        (Forgetful(), Verdict.UNSUPPORTED, "the environment cannot be replayed: "),
        (ShortTwins(far=0.0), Verdict.UNSUPPORTED, "in 0 of 400 starts the environment runs"),
    ],
    ids=["raises", "draws anew", "ends early"],
)
def test_twins_that_cannot_be_run_leave_what_was_measured(source: TwinSource, verdict: Verdict, reason: str) -> None:
    found = measure(world(Cart()), material(carts(0, 40)), source=source, seed=0)
    assert [(one.name, one.verdict) for one in found.twins] == [(name, verdict) for name in ("C1", "T1", "T3")]
    decision = decide(found)
    assert decision.advice is Advice.LIMITS
    assert decision.cause is verdict
    assert any(line.startswith(f"No test against twins was run: {reason}") for line in decision.limits)
    audit = Audit(world="cart", logs="logs", decision=decision, measured=found, facts={})
    assert f"C1 (effect of other actions): {verdict}" in render_audit(audit)


def test_twins_reach_no_further_than_the_logs() -> None:
    episodes = [cart(number, num_steps=12) for number in range(40)]
    asked = replace(material(episodes, level=None), horizon=8, horizons=(1, 8))
    found = measure(as_world(Cart()), asked, source=CartTwins(), seed=0)
    assert {one.verdict for one in found.twins} == {Verdict.PASS}
    assert twin_horizon(episodes, 3, 8) == 5
    assert twin_horizon(carts(0, 2), 3, 30) == 20
    assert twin_horizon(episodes, 9, 8) == 1


class Twofold(Cart):
    """Says that the mark goes where the cart goes."""

    def describe(self) -> Card:
        return replace(super().describe(), schema=MARKED, inputs=("place", "mark"), predicts=("place", "mark"))

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        place = super().imagine(belief, future, **options).signals["place"]
        return Samples(signals={"place": place, "mark": place})


def sampled(episode: Episode, every: int, first: int) -> Episode:
    """Beside a mark that goes with the cart, and is read every so many steps."""
    seen = np.arange(episode.num_steps + 1) % every == first
    mark = episode.observations["place"].astype(np.float32)
    return replace(episode, observations={**episode.observations, "mark": mark}, observed={"mark": seen})


def test_a_signal_that_is_seldom_seen_leaves_the_others_their_rivals() -> None:
    episodes, plain = [sampled(one, 4, 2) for one in carts(0, 20)], carts(0, 20)
    found, due = (comparisons(some, engine().describe()) for some, engine in ((episodes, Twofold), (plain, Cart)))
    windows = [evenly_spaced_windows(some, length=3, horizon=6, per_episode=2) for some in (episodes, plain)]
    for name in ("action_blind", "linear"):
        one, other = (window_forecasts(w[name], c) for w, c in zip((found, due), windows, strict=True))
        assert set(one) == {"place"}
        np.testing.assert_allclose(one["place"].mean, other["place"].mean, rtol=1e-6)


def test_a_signal_that_is_compared_with_persistence_alone_is_named() -> None:
    episodes = [sampled(one, 3, 2) for one in carts(0, 40)]
    found = measure(as_world(Twofold()), material(episodes, level=None), source=None, seed=0)
    assert {one.signal: one.steps > 0 for one in found.trusted} == {"place": True, "mark": True}
    assert any("Predictions of mark were compared with persistence only" in line for line in decide(found).limits)
    reason = decide(found).reasons[0]
    assert reason.startswith("It predicts place better than persistence and an action-blind model")


def marked(number: int, episode: Episode) -> Episode:
    """Beside a mark that lies still and is read seldom, and in half of the episodes."""
    seen = (np.arange(episode.num_steps + 1) % 12 == 0) & (number % 2 == 0)
    mark = np.full((episode.num_steps + 1, 1), number, np.float32)
    return replace(episode, observations={**episode.observations, "mark": mark}, observed={"mark": seen})


def test_a_signal_without_a_placebo_is_named() -> None:
    episodes = [marked(number, one) for number, one in enumerate(carts(0, 40))]
    found = measure(as_world(MarkedCart()), material(episodes, level=None), source=None, seed=0)
    assert {one.signal for one in found.placebo} == {"place"}
    assert any("common causes of the actions and mark were not checked" in line for line in found.unchecked)
