from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from tests.audit.carts import DECAY, GAIN, SCHEMA, Cart, CartTwins, carts

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.measured import TwinTest
from worldline.audit.twins import branches, twin_test
from worldline.engines.base import Card, EngineBelief, Noise, Samples
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError, UnsupportedError
from worldline.schema import Kind, Role, Schema, Signal

EPISODES = carts(0, 20)


def graded(engine: Cart, source: CartTwins) -> TwinTest:
    return twin_test(as_world(engine), source, EPISODES, context=3, horizon=6, seed=0)


@pytest.mark.parametrize(
    ("gain", "verdict"), [(1.0, Verdict.PASS), (0.0, Verdict.FAIL), (-1.0, Verdict.FAIL), (0.5, Verdict.PARTIAL)]
)
def test_the_law_passes_and_what_is_wrong_does_not(gain: float, verdict: Verdict) -> None:
    assert graded(Cart(gain=gain), CartTwins()).verdict is verdict


def test_a_step_late_in_the_actions_is_noticed() -> None:
    """The answers of a world that takes each action for the one after it."""

    class Late(CartTwins):
        def run(self, seed: int, actions: Arrays) -> Episode:
            episode = super().run(seed, actions)
            return replace(episode, actions={k: np.roll(v, 1, axis=0) for k, v in episode.actions.items()})

    assert graded(Cart(), Late()).verdict is not Verdict.PASS


def test_twins_share_everything_up_to_the_branch() -> None:
    found = branches(CartTwins(), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    assert found.truth["place"].shape == (40, 4, 6, 1)
    gaps = np.diff(found.truth["place"][:, :, 0, 0].astype(float), axis=1)
    pushes = np.diff(found.actions["push"][:, :, 0, 0].astype(float), axis=1)
    np.testing.assert_allclose(gaps, pushes, atol=1e-5)  # the noise of the first step is the same


@dataclass(frozen=True, kw_only=True)
class ShortTwins(CartTwins):
    """The cart, which ends where it gets this far from the middle."""

    far: float

    def run(self, seed: int, actions: Arrays) -> Episode:
        episode = super().run(seed, actions)
        over = np.flatnonzero(np.abs(episode.observations["place"][:, 0]) > self.far)
        last = max(1, int(over[0])) if len(over) else episode.num_steps
        return Episode(
            observations={"place": episode.observations["place"][: last + 1]},
            actions={"push": episode.actions["push"][:last]},
        )


class Forgetful(CartTwins):
    """Draws some noise that no seed decides."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)

    def run(self, seed: int, actions: Arrays) -> Episode:
        found = super().run(seed, actions)
        place = found.observations["place"] + self.draw.normal(size=(len(found.observations["place"]), 1))
        return replace(found, observations={"place": place.astype(np.float32)})


def test_an_environment_that_does_not_do_the_same_again_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="cannot be replayed: 'place' differs after the same seed and actions"):
        graded(Cart(), Forgetful())


def test_twins_that_end_early_are_drawn_again() -> None:
    found = branches(ShortTwins(far=4.0), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    assert len(found.truth["place"]) == 40
    assert np.abs(found.truth["place"][:, :, :-1]).max() <= 4.0
    gone = found.truth["place"][:, :, 1:] - DECAY * found.truth["place"][:, :, :-1]
    rest = gone - GAIN * found.actions["push"][:, :, 1:]
    np.testing.assert_allclose(rest - rest[:, :1], 0.0, atol=1e-5)  # each step is by the law, with the same noise


def test_an_environment_that_always_ends_early_is_refused() -> None:
    with pytest.raises(DataError, match=r"in 0 of 400 starts .* 13.steps .* without --env"):
        branches(ShortTwins(far=0.0), SCHEMA, EPISODES, context=3, horizon=6, seed=0)


MARK = Signal(name="mark", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
MARKED = Schema(signals=(*SCHEMA.signals, MARK), step_s=1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkedCart(Cart):
    """The law of the cart beside a mark that lies still; `invents` is what it says that the last push does to it."""

    error: float = 0.0
    invents: float = 0.0

    def describe(self) -> Card:
        return replace(super().describe(), schema=MARKED, inputs=("place", "mark"), predicts=("place", "mark"))

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return np.concatenate([steps.observations[name][:, -1].astype(float) for name in ("place", "mark")], -1)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        assert isinstance(belief, np.ndarray)
        place = super().imagine(belief[:, :1], future, num_samples=num_samples, seed=seed).signals["place"]
        pushes = future.actions["push"].astype(float)[:, :, None]
        mark = belief[:, None, None, None, 1:] + self.error * np.sin(1e3 * pushes) + self.invents * pushes
        return Samples(signals={"place": place, "mark": mark})


@dataclass(frozen=True, kw_only=True)
class MarkedTwins(CartTwins):
    """The cart beside a mark that lies `far` times a draw of its seed from 0, moved a little by the last push."""

    far: float = 1.0
    moved: float = 0.0

    @property
    def schema(self) -> Schema:
        return MARKED

    def run(self, seed: int, actions: Arrays) -> Episode:
        episode = super().run(seed, actions)
        mark = np.full(len(episode.observations["place"]), self.far * np.random.default_rng([seed, 1]).normal())
        mark[1:] += self.moved * actions["push"][:, 0]
        return replace(episode, observations={**episode.observations, "mark": mark[:, None]})


@pytest.mark.parametrize(
    ("engine", "source"),
    [
        (MarkedCart(), MarkedTwins()),
        (MarkedCart(error=1e-7), MarkedTwins()),
        (MarkedCart(error=1e-7), MarkedTwins(far=0.0)),
        (MarkedCart(error=1e-4), MarkedTwins(moved=1e-6)),
    ],
    ids=["exact", "rounded", "rounded where nothing ever varies", "moved by next to nothing"],
)
def test_what_nothing_acts_on_takes_nothing_from_a_world(engine: MarkedCart, source: MarkedTwins) -> None:
    found = graded(engine, source)
    assert found.verdict is Verdict.PASS, found
    place, mark = found.grade.cells
    assert place.score is not None
    assert mark.score is None
    assert mark.note == "gated: the best trivial model is as good as can be"
    assert not any("mark" in condition.name for condition in found.grade.conditions)


def test_a_large_effect_that_is_made_up_is_found_out() -> None:
    found = graded(MarkedCart(invents=1.0), MarkedTwins())
    assert found.verdict is Verdict.PARTIAL
    assert found.grade.cells[1].note.endswith("this one is worse")
