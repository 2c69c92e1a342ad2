from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from greenhouse_logs import record_greenhouse
from tests.data.stores import stored

from worldline.data.conversion import with_moved_actions
from worldline.data.quality.alignment import Alignment, AlignmentVerdict, alignment, judge
from worldline.data.quality.segments import track
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.labs.two_rooms import TwoRooms
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.record import record

Policy = Callable[[np.ndarray, np.random.Generator, dict[str, float]], float]

CART = Schema(
    signals=(
        Signal(name="cart", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), precision="float64"),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), precision="float64"),
    )
)
WORDS = {0: AlignmentVerdict.ALIGNED, 1: AlignmentVerdict.LAG, -1: AlignmentVerdict.LEAD}


def shifted(episode: Episode, by: int) -> Episode:
    """As if actions had been logged `by` rows late."""
    if by == 0:
        return episode
    seen, taken = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
    return replace(
        episode,
        observations={k: v[seen] for k, v in episode.observations.items()},
        observed={k: v[seen] for k, v in episode.observed.items()},
        actions={k: v[taken] for k, v in episode.actions.items()},
        exogenous={k: v[seen] for k, v in episode.exogenous.items()},
        rewards={k: v[seen] for k, v in episode.rewards.items()},
        step_s=None,
    )


def verdict(episodes: list[Episode], schema: Schema, by: int = 0, seed: int = 0) -> Alignment:
    return judge([track(i, shifted(episode, by), schema) for i, episode in enumerate(episodes)], seed)


def drive(policy: Policy, seed: int, *, noise: float = 0.05, sensor: float = 0.0, effect: float = 0.3) -> list[Episode]:
    """A noisy double integrator: position and speed, and a push that changes the speed."""
    draw, episodes = np.random.default_rng(seed), []
    for _ in range(30):
        x, v, seen, taken, memory = draw.normal(), 0.3 * draw.normal(), [], [], dict[str, float]()
        for _ in range(50):
            seen.append(np.array([x, v]) + sensor * draw.normal(size=2))
            taken.append([policy(seen[-1], draw, memory)])
            x, v = x + 0.3 * v + 0.3 * noise * draw.normal(), 0.95 * v + effect * taken[-1][0] + noise * draw.normal()
        seen.append(np.array([x, v]))
        episodes.append(Episode(observations={"cart": np.array(seen)}, actions={"push": np.array(taken)}))
    return episodes


def white(_: np.ndarray, draw: np.random.Generator, memory: dict[str, float]) -> float:
    return float(draw.normal())


def smooth(_: np.ndarray, draw: np.random.Generator, memory: dict[str, float]) -> float:
    memory["a"] = 0.95 * memory.get("a", draw.normal()) + 0.31 * draw.normal()
    return memory["a"]


def held(_: np.ndarray, draw: np.random.Generator, memory: dict[str, float]) -> float:
    if memory.get("left", 0) <= 0:
        memory["left"], memory["a"] = draw.integers(1, 12), draw.normal()
    memory["left"] -= 1
    return memory["a"]


def closed_loop(exploration: float) -> Policy:
    return lambda seen, draw, memory: float(-0.8 * seen[0] - 0.9 * seen[1] + exploration * draw.normal())


def bang_bang(seen: np.ndarray, draw: np.random.Generator, memory: dict[str, float]) -> float:
    return float(np.sign(-seen[0] - seen[1]))


@pytest.mark.parametrize(("policy", "by"), [*product((white, smooth, held), (0, 1, -1)), (smooth, 2), (smooth, -3)])
def test_a_shift_is_caught_whatever_the_policy(policy: Policy, by: int) -> None:
    found = verdict(drive(policy, 1), CART, by)
    assert (found.verdict, found.shift) == (WORDS[int(np.sign(by))], by), found.reason
    assert [one.shift for one in found.shifts] == list(range(-3, 4))
    best = next(one for one in found.shifts if one.shift == by)
    assert best.added.low <= best.added.value <= best.added.high
    assert best.added.value == max(one.added.value for one in found.shifts)
    assert f"--action-lag {by}" in found.fix if by else not found.fix


def test_a_late_log_of_a_closed_loop_is_not_called_aligned() -> None:
    """Late actions and the echo of a change look alike, where a policy answers to what it sees."""
    for exploration in (0.1, 0.5):
        found = verdict(drive(closed_loop(exploration), 1), CART, 1)
        assert found.verdict in (AlignmentVerdict.LAG, AlignmentVerdict.UNKNOWN)
        assert "action t+1" in found.reason


@pytest.mark.parametrize("lag", [1, -1])
def test_the_fix_mends_the_log(lag: int) -> None:
    late = [shifted(episode, lag) for episode in drive(white, 3)]
    found = verdict(late, CART)
    assert found.fix.endswith(f"--action-lag {lag}")
    assert ("change nothing, and check with --delay 1" in found.fix) == (lag < 0)
    mended = [with_moved_actions(episode, lag) for episode in late]
    assert verdict(mended, CART).verdict is AlignmentVerdict.ALIGNED


@pytest.mark.parametrize(("policy", "noise"), [
    (closed_loop(0.0), 0.05),
    (closed_loop(0.02), 0.3),
    (closed_loop(0.1), 0.3),
    (closed_loop(0.1), 0.05),
    (bang_bang, 0.3),
])  # fmt: skip
def test_feedback_is_not_taken_for_a_shift(policy: Policy, noise: float) -> None:
    found = verdict(drive(policy, 0, noise=noise), CART)
    assert found.shift == 0
    assert found.verdict in (AlignmentVerdict.ALIGNED, AlignmentVerdict.UNKNOWN)


def test_noisy_sensors_and_a_noisy_world_are_no_shift() -> None:
    assert verdict(drive(smooth, 0, sensor=0.2), CART).verdict is AlignmentVerdict.ALIGNED
    assert verdict(drive(held, 0, noise=0.2), CART).verdict is AlignmentVerdict.ALIGNED


def test_what_the_data_cannot_tell_is_said() -> None:
    nothing = verdict(drive(white, 0, effect=0.0), CART)
    assert nothing.verdict is AlignmentVerdict.UNKNOWN
    assert "no row of the actions explains the change" in nothing.reason
    constant = verdict(drive(lambda *_: 1.0, 0), CART)
    assert constant.verdict is AlignmentVerdict.UNKNOWN
    assert "no action ever changes" in constant.reason
    short = verdict([shifted(episode, 46) for episode in drive(white, 0)], CART)
    assert short.verdict is AlignmentVerdict.UNKNOWN
    assert "too few" in short.reason


@pytest.mark.parametrize("wild", [1e6, np.nan])
def test_missing_values_are_left_out(wild: float) -> None:
    draw, masked = np.random.default_rng(0), []
    for episode in drive(white, 4):
        known = draw.random(51) < 0.8
        cart = np.where(known[:, None], episode.observations["cart"], wild)
        masked.append(replace(episode, observations={"cart": cart}, observed={"cart": known}))
    for by in (0, 1, -1):
        assert verdict(masked, CART, by).shift == by


def test_a_slow_sensor_is_left_out_and_named() -> None:
    signals = (*CART.signals, Signal(name="slow", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)))
    mask = np.arange(51) % 5 == 0
    episodes = [
        replace(e, observations={**e.observations, "slow": np.zeros((51, 1), np.float32)}, observed={"slow": mask})
        for e in drive(white, 4)
    ]
    for by in (0, 1, -1):
        found = verdict(episodes, Schema(signals=signals), by)
        assert (found.shift, found.left_out) == (by, ("slow",))


def test_a_few_long_episodes_are_enough() -> None:
    draw = np.random.default_rng(0)
    x, v, seen, taken = 0.0, 0.0, [[0.0, 0.0]], []
    for _ in range(380):
        taken.append([draw.normal()])
        x, v = 0.9 * x + 0.3 * v, 0.9 * v + 0.3 * taken[-1][0] + 0.05 * draw.normal()
        seen.append([x, v])
    one = Episode(observations={"cart": np.array(seen)}, actions={"push": np.array(taken)})
    for by in (0, 1, -1):
        assert verdict([one], CART, by).shift == by


def test_signals_that_no_action_reaches_do_not_hide_the_effect() -> None:
    draw = np.random.default_rng(0)
    signals = (*CART.signals, Signal(name="noise", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(12,)))
    noisy = [
        replace(e, observations={**e.observations, "noise": draw.normal(size=(51, 12)).astype(np.float32)})
        for e in drive(held, 0, noise=0.1)[:20]
    ]
    for by in (0, 1, -1):
        assert verdict(noisy, Schema(signals=signals), by).shift == by


def with_signal(episodes: list[Episode], name: str, follow: Callable[[Episode], np.ndarray]) -> list[Episode]:
    """The episodes with one more observation, which follows from each of them."""
    return [replace(e, observations={**e.observations, name: follow(e)}) for e in episodes]


def scalar(name: str) -> Schema:
    return Schema(signals=(*CART.signals, Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))))


@pytest.mark.parametrize("by", [0, 1, -2])
def test_a_displayed_action_is_no_effect(by: int) -> None:
    """A display shows the action that is chosen in the same row."""
    shown = with_signal(drive(held, 0), "display", lambda e: np.append(e.actions["push"], e.actions["push"][-1:], 0))
    assert verdict(shown, scalar("display"), by).shift == by


def test_a_log_with_nothing_but_a_display_is_still_measured() -> None:
    """The last command is displayed in the next row, and no other signal is logged."""
    commands = [
        replace(e, observations={"cart": np.append([[0.0, 0.0]], np.repeat(e.actions["push"], 2, 1), 0)})
        for e in drive(held, 0)
    ]
    assert verdict(commands, CART).verdict is AlignmentVerdict.ALIGNED


def test_a_signal_that_responds_at_once_does_not_accuse_the_log() -> None:
    """A pressure follows the action of its own row; position and speed follow the action before."""
    draw = np.random.default_rng(0)

    def pressure(e: Episode) -> np.ndarray:
        push = np.append(e.actions["push"], e.actions["push"][-1:], 0)
        return 0.5 * push + 0.01 * draw.normal(size=push.shape)

    episodes = with_signal(drive(white, 0), "pressure", pressure)
    assert verdict(episodes, scalar("pressure")).verdict is AlignmentVerdict.ALIGNED
    assert verdict(episodes, scalar("pressure"), 1).shift == 1


def test_a_store_is_measured_and_the_seed_decides(tmp_path: Any) -> None:
    store = stored(tmp_path / "store", CART, drive(white, 5)[:12])
    found = alignment(store, seed=3)
    assert (found, found.verdict) == (alignment(store, seed=3), AlignmentVerdict.ALIGNED)


def logs(name: str, path: Any, seed: int, num_episodes: int) -> Store:
    if name == "greenhouse":
        pytest.importorskip("lettuce_greenhouse_gym")
        return record_greenhouse(path, num_episodes=max(8, num_episodes // 3), seed=seed)
    worlds: dict[str, tuple[Any, str | None]] = {
        "two-rooms": (TwoRooms(), None),
        "two-rooms, random policy": (TwoRooms(), "random"),
        "two-rooms, random walls": (TwoRooms("random"), None),
    }
    world, policy = worlds.get(name, (name, None))
    return record(world, path, policy=policy, num_episodes=num_episodes, max_steps=50, seed=seed)


def assert_all_told(name: str, store: Store, views: tuple[str, ...]) -> None:
    """Nothing is found in the logs as they are, and a shift by one is found in both directions."""
    episodes = [store.episode(number) for number in range(len(store))]
    for view in views:
        kept = {"numbers": (Kind.VECTOR, Kind.DISCRETE), "pictures": (Kind.IMAGE,), "all": tuple(Kind)}[view]
        signals = tuple(s for s in store.schema.signals if s.role is not Role.OBSERVATION or s.kind in kept)
        for by in (0, 1, -1):
            found = verdict(episodes, replace(store.schema, signals=signals), by)
            assert (found.verdict, found.shift) == (WORDS[by], by), (name, view, by, found.reason)


ROOMS = ("two-rooms", "two-rooms, random policy", "two-rooms, random walls")
OTHERS = ("greenhouse", "Pendulum-v1", "CartPole-v1", "MountainCarContinuous-v0")


@pytest.mark.parametrize(("name", "views"), [("two-rooms, random walls", ("pictures",)), ("CartPole-v1", ("all",))])
def test_shifts_are_caught_in_a_lab_and_in_gymnasium(name: str, views: tuple[str, ...], tmp_path: Any) -> None:
    assert_all_told(name, logs(name, tmp_path / "store", 0, 12), views)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ROOMS + OTHERS)
def test_shifts_are_caught_in_every_world(name: str, seed: int, tmp_path: Any) -> None:
    views = ("numbers", "pictures", "all") if name in ROOMS else ("all",)
    assert_all_told(name, logs(name, tmp_path / "store", seed, 40), views)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("noise", [0.05, 0.3])
@pytest.mark.parametrize("exploration", [0.0, 0.02, 0.1, 0.5])
def test_no_closed_loop_is_accused(exploration: float, noise: float, seed: int) -> None:
    assert verdict(drive(closed_loop(exploration), seed, noise=noise), CART, seed=seed).shift == 0
