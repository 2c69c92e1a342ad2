"""Judgements: true closed loops are predicted, and unstable, distant and hopeless controllers are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.control.controllers import (
    Controller,
    ControlRule,
    FunctionController,
    PidController,
    PidLoop,
    RuleController,
    ValueRange,
)
from worldline.control.imagination import ImaginedEpisodes, Runs
from worldline.control.judgement import Judgement, RunVerdict
from worldline.control.judging import too_far
from worldline.control.linear_loops import NUM_FOLDS, LinearLoops, lasting
from worldline.control.run_goal import RunGoal, run_figures
from worldline.data.store import Store
from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError, InputError, UnreadableError
from worldline.planning.calls import ScoreCall
from worldline.planning.costs import AtMost
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.judge import judge, next_experiments
from worldline.world.base import Scores, World
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m", precision="float64")
VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
WANTED = Signal(name="wanted", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), unit="m", precision="float64")
KNOWN = Schema(signals=(LEVEL, VALVE), step_s=2.0)
LOGGED = Schema(signals=(LEVEL, VALVE, WANTED), step_s=2.0)
GOAL = RunGoal(targets={"level": "wanted"}, tolerance={"level": 0.2}, constraints=(AtMost(signal="level", bound=1.5),))
STEPS = 80


def run(gain: float, seed: int, *, noise: float = 0.02, explored: float = 0.3, effect: float = 0.4) -> Episode:
    """A tank that keeps 0.9 of its level, under a proportional controller of the wanted level with exploration."""
    draw = np.random.default_rng(seed)
    start, wanted = draw.uniform(-1, 1), np.repeat(draw.uniform(-1, 1, 2), STEPS // 2)
    shakes, gusts = explored * draw.standard_normal(STEPS), noise * draw.standard_normal(STEPS)
    levels, valves = [start], list[float]()
    for step in range(STEPS):
        valves.append(float(np.float32(np.clip(gain * (wanted[step] - levels[-1]) + shakes[step], -1, 1))))
        levels.append(0.9 * levels[-1] + effect * valves[-1] + gusts[step])
    return Episode(
        observations={"level": np.array(levels)[:, None]},
        actions={"valve": np.array(valves, np.float32)[:, None]},
        exogenous={"wanted": wanted[:, None]},
    )


def pid(gain: float, integral_s: float | None = None) -> PidController:
    return PidController([PidLoop(reads="level", acts="valve", gain=gain, integral_s=integral_s)], KNOWN)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [run(0.1, seed) for seed in range(24)]


@pytest.fixture(scope="module")
def world(episodes: list[Episode]) -> LocalWorld:
    """Knows the tank."""
    known = [episode.select(["level", "valve"]) for episode in episodes]
    return LocalWorld(Linear.fit(known, KNOWN, context=1), None, CrossEntropy())


@pytest.fixture(scope="module")
def store(episodes: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("logs") / "logs", episodes)


def stored(path: Path, episodes: list[Episode]) -> Store:
    made = Store.create(path, LOGGED)
    for episode in episodes:
        made.append(episode)
    return made


def judged(store: Store, world: LocalWorld, goal: RunGoal = GOAL, **controllers: Controller) -> Judgement:
    return judge(controllers, world, store, goal)


def prepared(world: LocalWorld, episodes: list[Episode]) -> ImaginedEpisodes:
    targets = [GOAL.logged_targets(episode, KNOWN) for episode in episodes]
    return ImaginedEpisodes(world, [episode.select(["level", "valve"]) for episode in episodes], targets)


def test_linear_loops_show_gain_and_delay(world: LocalWorld, episodes: list[Episode]) -> None:
    logged = prepared(world, episodes).logged
    made = LinearLoops(KNOWN, logged).run(pid(0.5))
    costs = np.array([run_figures(each, GOAL, KNOWN).cost.mean() for each in made]).reshape(-1, NUM_FOLDS)

    def true_cost(effect: float) -> float:
        fresh = [run(0.5, seed, explored=0.0, effect=effect) for seed in range(24)]
        targets = [GOAL.logged_targets(episode, KNOWN) for episode in fresh]
        known = [episode.select(["level", "valve"]) for episode in fresh]
        return float(run_figures(ImaginedEpisodes(world, known, targets).logged, GOAL, KNOWN).cost.mean())

    np.testing.assert_allclose(costs[0], true_cost(0.4), rtol=0.02)
    assert costs[1].mean() < 0.95 * costs[0].mean()  # a larger effect makes the loop faster
    assert costs[2].mean() > 1.05 * costs[0].mean()  # a later action makes it slower


@pytest.mark.parametrize(("gain", "settles"), [(0.5, True), (2.0, True), (6.0, False)])
def test_only_loops_with_too_much_gain_shake(
    world: LocalWorld, episodes: list[Episode], gain: float, settles: bool
) -> None:
    """The pole of the loop is 0.9 - 0.4 gain, which is beyond -1 for a gain above 4.75."""
    loops = LinearLoops(KNOWN, prepared(world, episodes).logged)
    assert (loops.shakes(pid(gain)).max() == 0) == settles
    assert loops.shakes(None).max() == 0


def test_lasting_oscillations_differ_from_fading_ones() -> None:
    time = np.arange(200.0)
    paths = np.stack([np.sin(time), np.exp(-time / 30) * np.sin(time), time / 200, 0.05 * np.sin(time)])
    np.testing.assert_allclose(lasting(paths[:, :, None]), [np.sqrt(0.5), 0, 0, 0], rtol=0.01)


def test_intervals_hold_the_truth(store: Store, world: LocalWorld) -> None:
    result = judged(store, world, good=pid(0.5), same=pid(0.1), bad=pid(-0.05))
    truth = {"good": 0.5, "same": 0.1, "bad": -0.05}
    for each in result.controllers:
        fresh = [run(truth[each.name], 100 + seed, explored=0.0) for seed in range(200)]
        errors = np.array([e.observations["level"][1:] - e.exogenous["wanted"] for e in fresh])
        cost = float(np.square(errors / 0.2).mean())
        assert each.verdict is RunVerdict.JUDGED
        assert each.figures["cost"].fresh.low < cost < each.figures["cost"].fresh.high
        assert 0 <= each.figures["violations.0"].expected.low <= each.figures["violations.0"].expected.high <= 1
    better = {each.name: each.figures["cost"].better for each in result.controllers}
    assert better["good"] == "better"
    assert better["bad"] == "worse"
    pairs = {(each.first, each.second): each for each in result.differences}
    assert pairs["good", "bad"].verdict == "better"
    assert pairs["good", "bad"].cost.high < 0


def test_the_logged_behaviour_has_the_logged_figures(world: LocalWorld, episodes: list[Episode]) -> None:
    valves = np.stack([episode.actions["valve"] for episode in episodes])
    imagination = prepared(world, episodes)
    runs = imagination.run(FunctionController(lambda now: {"valve": valves[:, now.step]}))
    logged = run_figures(imagination.logged, GOAL, KNOWN)
    np.testing.assert_allclose(run_figures(runs, GOAL, KNOWN).cost, logged.cost, rtol=1e-6)


def test_an_unstable_loop_is_named(store: Store, world: LocalWorld) -> None:
    (wild,) = judged(store, world, wild=pid(7.0)).controllers
    assert wild.verdict is RunVerdict.UNSTABLE
    assert "keeps oscillating" in wild.reason
    assert not wild.figures


def test_a_switching_controller_may_oscillate(store: Store, world: LocalWorld) -> None:
    rules = [
        ControlRule(when={"level": ValueRange(below=-0.1)}, set={"valve": 0.3}),
        ControlRule(when={"level": ValueRange(above=0.1)}, set={"valve": -0.3}),
    ]
    (switching,) = judged(store, world, switching=RuleController(rules, KNOWN)).controllers
    assert switching.verdict is RunVerdict.JUDGED


def test_a_controller_outside_the_logs_is_refused_with_an_experiment(world: LocalWorld, tmp_path: Path) -> None:
    narrow = stored(tmp_path / "narrow", [run(0.05, seed, explored=0.02) for seed in range(24)])
    full = FunctionController(lambda now: {"valve": np.ones((now.history.num_worlds, 1), np.float32)}, "full")
    (far,) = judged(narrow, world, full=full).controllers
    assert far.verdict is RunVerdict.REFUSED
    assert "outside the logs" in far.reason
    assert too_far(0.34, 0.0)
    assert too_far(0.0, 0.26)
    assert not too_far(0.33, 0.25)
    assert far.outside > 0.9
    assert set(far.risky[0].signals) <= {"level", "valve"}
    assert far.experiment is not None
    assert far.experiment.actions["valve"] == (1.0, 1.0)
    assert far.experiment.num_episodes >= 5


def test_logs_of_a_constant_action_judge_nothing_else(world: LocalWorld, tmp_path: Path) -> None:
    constant = stored(tmp_path / "constant", [run(0.0, seed, explored=0.0) for seed in range(24)])
    kept, moved = judged(constant, world, kept=pid(0.0), moved=pid(0.5)).controllers
    assert kept.verdict is RunVerdict.JUDGED
    assert kept.figures["cost"].expected.value == pytest.approx(kept.figures["cost"].logged, rel=1e-3)
    assert moved.verdict is RunVerdict.REFUSED
    assert moved.risky[0].signals[0] == "valve"


def test_the_next_experiments_are_where_the_logs_do_not_suffice(world: LocalWorld, tmp_path: Path) -> None:
    narrow = stored(tmp_path / "narrow", [run(0.05, seed, explored=0.02) for seed in range(24)])
    needed = next_experiments(narrow, world)
    assert set(needed) == {"valve at -1", "valve at 1"}
    assert needed["valve at 1"].actions["valve"] == (1.0, 1.0)
    save_world(tmp_path / "world", world)
    result = CliRunner().invoke(app, ["check", str(narrow.path), "--world", str(tmp_path / "world")])
    assert "valve at -1: record" in " ".join(result.output.split())
    wide = stored(tmp_path / "wide", [run(0.0, seed, explored=2.0) for seed in range(24)])
    assert next_experiments(wide, world) == {}


def test_a_target_that_the_world_reads_is_a_limit(store: Store, episodes: list[Episode]) -> None:
    reads = LocalWorld(Linear.fit(episodes, LOGGED, context=1), None, CrossEntropy())
    assert "It may have learned what the logged controller" in judged(store, reads, good=pid(0.5)).notes[0]


@final
class Rewarding(World):
    """A world whose reward is minus the square of the next level."""

    def __init__(self, world: World, ends: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self._world, self._ends = world, ends

    def describe(self) -> Card:
        return self._world.describe()

    def answer(self, call: Any) -> Any:
        if not isinstance(call, ScoreCall):
            return self._world.answer(call)
        assert call.goal.reward
        path = self._world.predict(call.history, {name: value[:, 0] for name, value in call.actions.items()})
        squares = np.square(path.signals["level"].mean[:, :, 0])
        numbers: dict[str, Any] = {"violation": np.zeros((len(squares), 1, 0)), "trust": np.ones(len(squares))}
        survival = None if self._ends is None else 1.0 - self._ends(call.history.observations["level"][:, -1])
        return Scores(cost=squares, survival=survival, **numbers)


def test_a_predicted_end_cuts_off_later_rewards(world: LocalWorld, episodes: list[Episode]) -> None:
    """A run loses the rewards after its own end; an end that is also predicted for the log is none."""
    rewarded = [replace(one, rewards={"reward": -np.square(one.observations["level"][1:])}) for one in episodes]
    to_three = PidController([PidLoop(reads="level", acts="valve", gain=0.5, set_point=3.0)], KNOWN)

    def rewards(ends: Callable[[np.ndarray], np.ndarray] | None) -> tuple[Runs, np.ndarray]:
        imagination = ImaginedEpisodes(Rewarding(world, ends), rewarded)
        (runs,) = imagination.with_rewards([imagination.run(to_three)])
        assert runs.rewards is not None
        return runs, runs.rewards

    highest = max(float(one.observations["level"].max()) for one in episodes) + 1e-3
    runs, whole = rewards(None)
    _, cut = rewards(lambda level: (level > highest).astype(float))
    ends = runs.observations["level"][:, :-1, 0] > highest
    earlier = np.cumsum(ends, 1) - ends > 0
    assert earlier.any()
    np.testing.assert_allclose(cut, np.where(earlier, 0, whole), atol=1e-6)
    np.testing.assert_allclose(rewards(lambda level: np.full(level.shape, 0.3))[1], whole)


def test_predicted_rewards_count(world: LocalWorld, episodes: list[Episode], tmp_path: Path) -> None:
    reward = Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,), precision="float64")
    rewarded = Store.create(tmp_path / "rewarded", Schema(signals=(*LOGGED.signals, reward), step_s=2.0))
    for episode in episodes:
        rewarded.append(replace(episode, rewards={"reward": -np.square(episode.observations["level"][1:])}))
    goal = RunGoal(reward=True)
    to_zero = PidController([PidLoop(reads="level", acts="valve", gain=0.5, set_point=0.0)], KNOWN)
    (judged_,) = judge({"zero": to_zero}, Rewarding(world), rewarded, goal).controllers
    imagined = prepared(world, episodes).run(to_zero)
    expected = np.square(imagined.observations["level"][:, 1:]).mean()
    assert judged_.figures["cost"].expected.value == pytest.approx(expected, rel=0.05)
    assert judged_.figures["cost"].better == "better"
    with pytest.raises(ConfigError, match="the goal counts rewards, but the runs have none"):
        judge({"zero": to_zero}, Rewarding(world), stored(tmp_path / "plain", episodes), goal)


def test_workers_judge_as_one_process(store: Store, world: LocalWorld) -> None:
    controllers: dict[str, Controller] = {"weak": pid(0.1), "strong": pid(0.5)}
    alone, shared = (judge(controllers, world, store, GOAL, workers=count) for count in (1, 2))
    for one, other in zip(alone.controllers, shared.controllers, strict=True):
        assert replace(one, elapsed_s=0.0) == replace(other, elapsed_s=0.0)
    assert shared.differences == alone.differences


def test_what_cannot_be_judged_is_refused(store: Store, world: LocalWorld, tmp_path: Path) -> None:
    few = stored(tmp_path / "few", [run(0.1, seed) for seed in range(9)])
    with pytest.raises(DataError, match="9 of 9 episodes have 11 steps; 10 are needed"):
        judged(few, world, good=pid(0.5))
    with pytest.raises(InputError, match="there is no controller"):
        judged(store, world)
    with pytest.raises(ConfigError, match="num_episodes is 9"):
        judge({"good": pid(0.5)}, world, store, GOAL, num_episodes=9)
    bad: dict[str, Callable[..., dict[str, np.ndarray]]] = {
        "raises": lambda now: {}["valve"],
        "wide": lambda now: {"valve": np.full((now.history.num_worlds, 1), 2.0, np.float32)},
        "nothing": lambda now: {"valve": np.full((now.history.num_worlds, 1), np.nan, np.float32)},
    }
    for name, function in bad.items():
        with pytest.raises(InputError, match=f"controller '{name}' at step 0"):
            judged(store, world, **{name: FunctionController(function, name)})
    other = Schema(signals=(LEVEL, Signal(name="pump", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))))
    made = Store.create(tmp_path / "other", other)
    with pytest.raises(UnreadableError, match="signal 'valve' of the world is not in"):
        judged(made, world, good=pid(0.5))


def test_the_command_prints_and_writes(store: Store, world: LocalWorld, tmp_path: Path) -> None:
    save_world(tmp_path / "world", world)
    (tmp_path / "goal.toml").write_text('[targets]\nlevel = "wanted"\n[tolerance]\nlevel = 0.2\n')
    loop = '[[loops]]\nreads = "level"\nacts = "valve"\ngain = '
    for name, gain in (("good", 0.5), ("wild", 7.0)):
        (tmp_path / f"{name}.toml").write_text(f'kind = "pid"\n{loop}{gain}\n')
    files = {name: str(tmp_path / name) for name in ("good.toml", "wild.toml", "world", "goal.toml")}
    options = ["--world", files["world"], "--logs", str(store.path), "--goal", files["goal.toml"]]
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.json"
    output = ["--out", str(page), "--json", str(numbers)]
    result = CliRunner().invoke(app, ["judge", files["good.toml"], files["wild.toml"], *options, *output])
    assert result.exit_code == 1  # because one is unstable
    assert "wild is unstable" in " ".join(result.output.split())
    assert "good" in page.read_text()
    assert '"verdict": "judged"' in numbers.read_text()
    assert CliRunner().invoke(app, ["judge", files["good.toml"], *options]).exit_code == 0
