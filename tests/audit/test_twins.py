from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from tests.audit.carts import DECAY, GAIN, SCHEMA, Cart, CartTwins, carts

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.audit.measured import TwinTest
from worldline.audit.twins import branches, pulses, twin_tests
from worldline.engines.base import Card, EngineBelief, Samples
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError, UnsupportedError
from worldline.schema import Kind, Role, Schema, Signal

EPISODES = carts(0, 20)


def graded(engine: Cart, source: CartTwins) -> tuple[TwinTest, ...]:
    return twin_tests(as_world(engine), source, EPISODES, context=3, horizon=6, seed=0)


@pytest.mark.parametrize(
    ("engine", "verdicts"),
    [
        (Cart(), [Verdict.PASS, Verdict.PASS, Verdict.PASS]),
        (Cart(gain=0.0), [Verdict.FAIL, None, Verdict.FAIL]),
        (Cart(gain=-1.0), [Verdict.FAIL, Verdict.FAIL, Verdict.FAIL]),
        (Cart(gain=0.5), [Verdict.PARTIAL, None, Verdict.PARTIAL]),
    ],
)
def test_the_law_passes_and_what_is_wrong_does_not(engine: Cart, verdicts: list[Verdict | None]) -> None:
    found = graded(engine, CartTwins())
    assert [one.name for one in found] == ["C1", "T1", "T3"]
    for one, due in zip(found, verdicts, strict=True):
        assert due is None or (one.verdict in (due, Verdict.PASS) if one.name == "T3" and due is Verdict.PARTIAL
                               else one.verdict is due), (one.name, one.verdict)  # fmt: skip


def test_a_step_late_in_the_actions_is_noticed() -> None:
    """The answers of a world that takes each action for the one after it."""

    class Late(CartTwins):
        def run(self, seed: int, actions: Arrays) -> Episode:
            episode = super().run(seed, actions)
            return replace(episode, actions={k: np.roll(v, 1, axis=0) for k, v in episode.actions.items()})

    found = graded(Cart(), Late())
    assert found[0].verdict is not Verdict.PASS
    assert found[2].verdict is not Verdict.PASS


def test_twins_share_everything_up_to_the_branch() -> None:
    found = branches(CartTwins(), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    assert found.truth["place"].shape == (40, 4, 6, 1)
    gaps = np.diff(found.truth["place"][:, :, 0, 0].astype(float), axis=1)
    pushes = np.diff(found.actions["push"][:, :, 0, 0].astype(float), axis=1)
    np.testing.assert_allclose(gaps, pushes, atol=1e-5)  # the noise of the first step is the same
    pulsed = pulses(CartTwins(), SCHEMA, EPISODES, context=3, horizon=6, seed=0)
    changed = pulsed.actions["push"][:, 1] != pulsed.actions["push"][:, 0]
    assert changed[:, 0].all()
    assert not changed[:, 1:].any()


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
    source = ShortTwins(far=4.0)
    for found in (draw(source, SCHEMA, EPISODES, context=3, horizon=6, seed=0) for draw in (branches, pulses)):
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

    def imagine(self, belief: EngineBelief, future: Future, **options: Any) -> Samples:
        place = super().imagine(belief[:, :1], future, **options).signals["place"]
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
    assert [one.verdict for one in found] == [Verdict.PASS] * 3, found
    for one in found:
        place, mark = one.grade.cells
        assert place.score is not None
        assert mark.score is None
        assert mark.note == "gated: the best trivial model is as good as can be"
        assert not any("mark" in condition.name for condition in one.grade.conditions)


def test_a_large_effect_that_is_made_up_is_found_out() -> None:
    found = graded(MarkedCart(invents=1.0), MarkedTwins())
    assert [one.verdict for one in found[:2]] == [Verdict.PARTIAL] * 2
    assert found[0].grade.cells[1].note.endswith("this one is worse")


def test_steps_by_which_nothing_has_moved_do_not_count() -> None:
    """A mark that moves by rounding at first, and then by much."""

    class Late(MarkedTwins):
        def run(self, seed: int, actions: Arrays) -> Episode:
            episode = super().run(seed, actions)
            mark, last = episode.observations["mark"].copy(), len(actions["push"])
            mark[last - 1] += 1e-7
            mark[last] += np.random.default_rng([seed, 2]).normal()
            return replace(episode, observations={**episode.observations, "mark": mark})

    cell = graded(MarkedCart(error=1e-4), Late())[1].grade.cells[1]
    assert cell.score.value == pytest.approx(0.0, abs=1e-3)
