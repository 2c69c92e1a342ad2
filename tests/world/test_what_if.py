from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.world.wrapped import Wrapped

from worldline.engines.base import Card, Engine, EngineBelief, Samples
from worldline.engines.baselines import Linear, Persistence
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Episode, Future, History
from worldline.errors import StoppedError
from worldline.labs.base import NoisyLab
from worldline.planning.planners.cem import CrossEntropy
from worldline.progress import interruptible
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.base import Abduction
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.what_if import causes_of
from worldline_exam.labs.gusty_puck import GustyPuck

SEEDS = st.integers(0, 2**31)
TOY = Integrator(noise=0.1, camera=False)


@pytest.fixture(scope="module")
def linear() -> Linear:
    return Linear.fit(TOY.episodes(40, 30, seed=0), TOY.schema, context=2)


def open_over(engine: Engine) -> LocalWorld:
    return LocalWorld(engine, None, CrossEntropy())


def pushes(seed: int, num_steps: int) -> dict[str, np.ndarray]:
    return {"push": np.random.default_rng(seed).uniform(-1, 1, (num_steps, 2)).astype(np.float32)}


def without(episode: Episode, name: str, *places: int) -> Episode:
    seen = np.asarray(episode.observed.get(name, np.ones(episode.num_steps + 1, bool))).copy()
    seen[list(places)] = False
    values = np.where(seen[:, None], episode.observations[name], np.nan).astype(np.float32)
    return replace(
        episode, observations={**episode.observations, name: values}, observed={**episode.observed, name: seen}
    )


def played(lab: NoisyLab, seed: int, num_steps: int, others: np.ndarray | None = None, at: int = 0) -> Episode:
    """An episode under the explorer, or, from step `at` on, under other actions."""
    rng, (shown, _) = np.random.default_rng((1, seed)), lab.reset(seed=seed)
    policy, seen, taken = lab.explorer(), [shown], list[np.ndarray]()
    name = lab.schema.actions[0].name
    policy.reset(rng)
    for step in range(num_steps):
        action = policy.act(seen[-1], rng)
        if others is not None and step >= at:
            action = {name: others[step - at]}
        taken.append(action[name])
        seen.append(lab.step(action)[0])
    return Episode(
        observations={s.name: np.stack([one[s.name] for one in seen]) for s in lab.schema.observations},
        actions={name: np.stack(taken)},
        seed=seed,
    )


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 9), st.integers(1, 3))
def test_the_actions_that_were_taken_lead_to_the_log(linear: Linear, seed: int, at: int, num_steps: int) -> None:
    episode = TOY.episodes(1, 12, seed=seed)[0]
    taken = {"push": episode.actions["push"][at : at + num_steps]}
    found = open_over(linear).what_if(episode, at, taken)
    assert found.abduction is Abduction.FULL
    assert not found.reason
    logged = episode.observations["position"][at + 1 : at + 1 + num_steps]
    np.testing.assert_array_equal(found.factual["position"], logged)
    np.testing.assert_allclose(found.signals["position"], logged, atol=1e-5)


class Heeding(Wrapped):
    """Says of another engine that it heeds actions."""

    def describe(self) -> Card:
        return replace(super().describe(), action_conditioned=True)


@dataclass(frozen=True)
class Told(NumpyEngine):
    """Knows the toy's law but not what is added to it, and by how much velocity fades."""

    toy: Integrator
    drawn: float = 0.0

    def describe(self) -> Card:
        return Card(
            name="told", engine="told", schema=self.toy.schema, inputs=("position",), predicts=("position",),
            context=1, deterministic=self.drawn == 0,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return steps.observations["position"][:, -1].astype(np.float64)

    def imagine(self, belief: EngineBelief, future: Future, *, num_samples: int, seed: int, **rest: Any) -> Samples:
        assert isinstance(belief, np.ndarray)
        push, wind = future.actions["push"], future.exogenous["wind"][:, None]
        now, path = np.repeat(belief[:, None], push.shape[1], 1), []
        for step in range(push.shape[2]):
            now = self.toy.step(now, push[:, :, step], wind[:, :, step])
            path.append(now)
        draws = 1 if self.drawn == 0 else num_samples
        samples = np.repeat(np.stack(path, 2)[:, :, None], draws, 2)
        worlds = np.random.default_rng(seed).standard_normal((len(belief), 1, draws, 1, 2))  # other ones for each world
        return Samples(signals={"position": (samples + self.drawn * worlds).astype(np.float32)})


def hidden_episode(seed: int, num_steps: int, *, noise: float, bias: float, drag: float, gain: float) -> Episode:
    """The toy with a constant added, a part of the position taken away, and pushes that do more than they should."""
    rng = np.random.default_rng(seed)
    push = rng.uniform(-1, 1, (num_steps, 2)).astype(np.float32)
    wind = 0.2 * rng.standard_normal((num_steps, 2)).astype(np.float32)
    path = [rng.standard_normal(2)]
    for step, gust in enumerate(noise * rng.standard_normal((num_steps, 2))):
        law = TOY.step(path[-1], push[step], wind[step])
        path.append(law + bias - drag * path[-1] + gain * push[step] + gust)
    return Episode(
        observations={"position": np.stack(path).astype(np.float32)}, actions={"push": push}, exogenous={"wind": wind}
    )


def twin_of(episode: Episode, others: np.ndarray, at: int, *, drag: float, gain: float) -> np.ndarray:
    """What the other pushes lead to, by the toy's law and the episode's own hidden causes and noise: it is linear."""
    change, now = np.zeros(2), []
    for step, push in enumerate(others):
        change = (TOY.decay - drag) * change + (1 + gain) * (push - episode.actions["push"][at + step])
        now.append(change)
    return np.asarray(episode.observations["position"][at + 1 : at + 1 + len(others)] + np.array(now))


CAUSES = st.tuples(st.floats(-2, 2), st.sampled_from([0.0, 0.3]), st.sampled_from([0.0, 0.5]))


@settings(max_examples=25, deadline=None)
@given(SEEDS, CAUSES, st.sampled_from([0.0, 0.02]))
def test_what_is_hidden_is_carried_over(seed: int, causes: tuple[float, float, float], noise: float) -> None:
    """A constant, a drag and a gain that the engine does not know, and the noise of every step."""
    bias, drag, gain = causes
    episode = hidden_episode(seed, 60, noise=noise, bias=bias, drag=drag, gain=gain)
    others = pushes(seed + 1, 20)["push"]
    found = open_over(Told(TOY)).what_if(episode, 3, {"push": others})
    assert found.abduction is Abduction.FULL
    due = twin_of(episode, others, 3, drag=drag, gain=gain)
    spread = np.abs(due - episode.observations["position"][4:24]).mean()
    np.testing.assert_allclose(found.signals["position"], due, atol=0.01 + 15 * noise)
    assert np.abs(found.signals["position"] - due).mean() < 0.01 + 4 * noise < spread


def test_draws_are_the_same_for_both() -> None:
    """An engine that draws otherwise for each world of a batch leads to the log all the same."""
    episode = hidden_episode(0, 40, noise=0.1, bias=0.5, drag=0.0, gain=0.0)
    world = open_over(Told(TOY, drawn=0.5))
    found = world.what_if(episode, 5, {"push": episode.actions["push"][5:25]})
    assert found.abduction is Abduction.FULL
    np.testing.assert_allclose(found.signals["position"], episode.observations["position"][6:26], atol=1e-5)
    others = pushes(1, 20)["push"]
    other = world.what_if(episode, 5, {"push": others}).signals["position"]
    due = twin_of(episode, others, 5, drag=0.0, gain=0.0)
    assert np.abs(other - due).mean() < 0.1


def test_a_missing_value_costs_the_noise_from_there() -> None:
    episode = hidden_episode(0, 60, noise=0.1, bias=1.0, drag=0.0, gain=0.0)
    world, others = open_over(Told(TOY)), pushes(1, 12)["push"]
    found = world.what_if(without(episode, "position", 10), 4, {"push": others})
    assert found.abduction is Abduction.HIDDEN_CAUSE
    assert found.reason == "'position' is missing at observation 10, so the noise of step 9 is not known"
    due = twin_of(episode, others, 4, drag=0.0, gain=0.0)
    error = np.abs(found.signals["position"] - due).max(1)
    assert (error[:5] < 0.1).all()
    assert 0.1 < error[5:].max() < 0.6  # the noise since; without the hidden cause it would be 1 a step
    np.testing.assert_array_equal(found.factual["position"][:5], episode.observations["position"][5:10])
    assert np.abs(found.factual["position"][5:] - episode.observations["position"][10:17]).max() > 0.1
    same = world.what_if(without(episode, "position", 10), 4, {"push": episode.actions["push"][4:16]})
    np.testing.assert_array_equal(same.signals["position"], same.factual["position"])


def test_too_few_known_steps_tell_nothing(linear: Linear) -> None:
    episode = without(TOY.episodes(1, 12, seed=0)[0], "position", 4, 6, 8, 10)
    found = open_over(linear).what_if(episode, 3, pushes(1, 5))
    assert found.abduction is Abduction.NONE
    assert "'position' is missing at observation 4" in found.reason
    assert "at least 8 complete steps; the episode has 4" in found.reason


def test_no_later_value_matters_where_nothing_can_be_inferred() -> None:
    """Pictures are taken: the past alone is used, and the reason says what stands in the way and what would help."""
    toy = Integrator(noise=0.1)
    engine = Heeding(Persistence.fit(toy.episodes(4, 12, seed=0), toy.schema))
    episode = toy.episodes(1, 12, seed=1)[0]
    later = {name: np.concatenate([value[:5], value[5:] * 0]) for name, value in episode.observations.items()}
    found, changed = (
        open_over(engine).what_if(one, 4, pushes(0, 3)) for one in (episode, replace(episode, observations=later))
    )
    assert found.abduction is Abduction.NONE
    assert "takes 'camera', which is an image" in found.reason
    assert "Use a simulator that replays the episode" in found.reason
    for name in ("position", "camera"):
        np.testing.assert_array_equal(found.signals[name], changed.signals[name])
        np.testing.assert_array_equal(found.factual[name], changed.factual[name])


@dataclass(frozen=True)
class Dial(NumpyEngine):
    """A dial [deg] that turns by what it is told, and a lamp and a level that it shows; reads what `inputs` says."""

    inputs: tuple[str, ...] = ("dial",)
    predicts: tuple[str, ...] = ("dial",)

    schema = Schema(
        signals=(
            Signal(name="dial", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0,
                   low=(0.0,), high=(360.0,)),
            Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m", low=(0.0,)),
            Signal(name="lamp", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=2),
            Signal(name="turn", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="deg"),
            Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
        )
    )  # fmt: skip

    def describe(self) -> Card:
        return Card(
            name="dial", engine="dial", schema=self.schema, inputs=self.inputs, predicts=self.predicts, context=2,
            deterministic=True,
        )  # fmt: skip

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return steps.observations["dial"][:, -1]

    def imagine(self, belief: EngineBelief, future: Future, *, num_samples: int, seed: int, **rest: Any) -> Samples:
        assert isinstance(belief, np.ndarray)
        turned = np.mod(belief[:, None, None, None] + future.actions["turn"].cumsum(2)[:, :, None], 360)
        every = {"dial": turned.astype(np.float32), "level": np.ones_like(turned), "lamp": (turned[..., 0] > 180) * 1}
        return Samples(signals={name: every[name] for name in self.predicts})


def dial_episode(seed: int, num_steps: int, *, more: float) -> Episode:
    """In mode 2 each turn is `more` degrees further than it should be."""
    rng = np.random.default_rng(seed)
    turn = rng.uniform(-90, 90, (num_steps, 1)).astype(np.float32)
    mode = rng.integers(0, 3, num_steps)
    noise = 3 * rng.standard_normal((num_steps, 1))
    dial = np.mod(np.cumsum(np.concatenate([[[350.0]], turn + noise + more * (mode == 2)[:, None]]), 0), 360)
    return Episode(
        observations={
            "dial": dial.astype(np.float32),
            "level": rng.uniform(0, 0.2, (num_steps + 1, 1)).astype(np.float32),
            "lamp": (dial[:, 0] > 180).astype(np.int64),
        },
        actions={"turn": turn, "mode": mode},
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS)
@example(4377)  # a value that single precision rounds to the end of the turn
def test_angles_go_the_shorter_way_and_stay_in_their_turn(seed: int) -> None:
    episode = dial_episode(seed, 40, more=20.0)
    rng = np.random.default_rng(seed + 1)
    others = {"turn": rng.uniform(-90, 90, (25, 1)).astype(np.float32), "mode": rng.integers(0, 3, 25)}
    found = open_over(Dial()).what_if(episode, 5, others).signals["dial"]
    extra = 20.0 * ((others["mode"] == 2) * 1.0 - (episode.actions["mode"][5:30] == 2))[:, None]
    due = episode.observations["dial"][6:31] + np.cumsum(others["turn"] - episode.actions["turn"][5:30] + extra, 0)
    assert ((found >= 0) & (found < 360)).all()
    assert np.abs(Dial.schema["dial"].difference(found, due)).max() < 50  # 20 degrees at most a step, 25 steps
    assert (
        np.abs(Dial.schema["dial"].difference(found, due)).mean() < 25
    )  # the wrong way round would be off by some 180
    taken = {name: value[5:30] for name, value in episode.actions.items()}
    same = open_over(Dial()).what_if(episode, 5, taken).signals["dial"]
    np.testing.assert_allclose(same, episode.observations["dial"][6:31], atol=1e-3)


def test_what_is_only_shown_leaves_the_rest_in_full() -> None:
    """A vector that is not taken has its noise too, within its bounds; a label has none, and the reason says so."""
    episode = dial_episode(0, 40, more=0.0)
    others = {"turn": np.full((10, 1), 5.0, np.float32), "mode": np.zeros(10, np.int64)}
    found = open_over(Dial(predicts=("dial", "level"))).what_if(episode, 5, others)
    assert found.abduction is Abduction.FULL
    np.testing.assert_allclose(found.signals["level"], episode.observations["level"][6:16], atol=0.1)
    assert (found.signals["level"] >= 0).all()
    labelled = open_over(Dial(predicts=("dial", "lamp"))).what_if(episode, 5, others)
    assert labelled.abduction is Abduction.HIDDEN_CAUSE
    assert labelled.reason == "'lamp' is discrete, so its own noise is not known"
    np.testing.assert_allclose(labelled.signals["dial"], found.signals["dial"], atol=1e-4)
    assert labelled.signals["lamp"].shape == (10,)
    late = without(episode, "level", 8)
    gap = open_over(Dial(predicts=("dial", "level"))).what_if(late, 5, others)
    assert gap.abduction is Abduction.HIDDEN_CAUSE
    assert "'level' is missing at observation 8" in gap.reason
    np.testing.assert_allclose(gap.signals["dial"], found.signals["dial"], atol=1e-4)  # it does not depend on the level
    np.testing.assert_array_equal(gap.factual["level"][[0, 1, 3]], episode.observations["level"][[6, 7, 9]])
    assert gap.factual["level"][2] != episode.observations["level"][8]


@pytest.mark.parametrize(("engine", "why"), [
    (Dial(inputs=("dial", "lamp"), predicts=("dial", "lamp")), "takes 'lamp', which is discrete"),
    (Dial(inputs=("dial", "level")), "takes 'level' and does not predict it"),
])  # fmt: skip
def test_what_stands_in_the_way_is_named(engine: Dial, why: str) -> None:
    found = open_over(engine).what_if(
        dial_episode(0, 40, more=0.0), 5, {"turn": np.zeros((2, 1), np.float32), "mode": np.zeros(2, np.int64)}
    )
    assert found.abduction is Abduction.NONE
    assert why in found.reason
    assert "a world that takes only vectors that it predicts" in found.reason


@pytest.fixture(scope="module")
def puck() -> LocalWorld:
    """A linear world of the puck, with causes that were learned from other logs."""
    lab = GustyPuck()
    engine = Linear.fit([played(lab, seed, 60) for seed in range(100)], lab.schema, context=1)
    logs = [played(lab, seed, 60) for seed in range(200, 260)]
    return LocalWorld(engine, calibrate(engine, logs, horizon=4, num_windows=1, seed=0), CrossEntropy())


def test_how_episodes_differ_tells_the_noise_too(puck: LocalWorld) -> None:
    """Noise, from knowing the friction alone (0) to the twin (1)."""
    lab, at, num_steps = GustyPuck(), 2, 40
    assert puck.calibration.causes is not None
    told, found = [], []
    for seed in range(1000, 1020):
        episode = played(lab, seed, num_steps)
        others = played(lab, seed + 9000, num_steps).actions["push"][at:]
        twin = played(lab, seed, num_steps, others, at).observations["puck_position"][at + 1 :]
        start = {name: value[at : at + 1] for name, value in episode.observations.items()}
        friction = {"friction": np.array([lab.hidden(seed)["friction"]])}
        told.append((lab.expected(start, {"push": others[None]}, friction)["puck_position"][0] - twin) ** 2)
        found.append((puck.what_if(episode, at, {"push": others}).signals["puck_position"] - twin) ** 2)
    assert np.mean(found) < 0.2 * np.mean(told)


def test_an_episode_unlike_all_others_is_explained_by_itself(puck: LocalWorld) -> None:
    """Its friction lies far from those that were learned from; it is found from this episode alone."""
    other = GustyPuck((4.0, 4.0))
    episode, pushed = played(other, 5, 60), played(other, 6, 40).actions["push"]
    with_others, alone = (
        world.what_if(episode, 2, {"push": pushed}).signals["puck_velocity"] for world in (puck, open_over(puck.engine))
    )
    np.testing.assert_array_equal(with_others, alone)


def test_who_heeds_no_actions_says_that_others_change_nothing() -> None:
    """A line that is found beside it would heed them, and answer for a model that does not."""
    held, toy = TOY.episodes(100, 24, seed=1), TOY.episodes(1, 24, seed=2)[0]
    still = Persistence.fit(held, TOY.schema)
    calibration = calibrate(still, held, horizon=4, num_windows=1, seed=0)
    assert calibration.causes is None
    world = LocalWorld(still, calibration, CrossEntropy())
    assert "abducts" not in world.describe().abilities
    found = world.what_if(toy, 4, pushes(0, 3))
    assert found.abduction is Abduction.NONE
    assert "persistence is not action-conditioned, so other actions change nothing" in found.reason
    np.testing.assert_array_equal(found.signals["position"], found.factual["position"])


def test_an_engine_that_nothing_can_be_inferred_with_has_no_causes(linear: Linear) -> None:
    toy = Integrator(noise=0.1)
    engine = Persistence.fit(toy.episodes(4, 12, seed=0), toy.schema)
    assert causes_of(engine, toy.episodes(40, 12, seed=1), seed=0) is None
    assert causes_of(linear, TOY.episodes(10, 12, seed=1), seed=0) is None


def test_a_long_call_can_be_interrupted(linear: Linear) -> None:
    calls = list[int]()

    class Counting(Wrapped):
        def observe(self, *arguments: Any, **options: Any) -> Any:
            calls.append(1)
            return super().observe(*arguments, **options)

    episode = TOY.episodes(1, 60, seed=1)[0]
    world, others = open_over(Counting(linear)), {name: value[:30] for name, value in episode.actions.items()}
    world.what_if(episode, 30, others)
    whole = len(calls)
    calls.clear()
    with pytest.raises(StoppedError, match="nobody waits"), interruptible(lambda: len(calls) > whole // 2):
        world.what_if(episode, 30, others)
    assert len(calls) < whole
