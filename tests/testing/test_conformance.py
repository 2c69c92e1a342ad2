"""Every part in the registry against the conformance kit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from tests.testing.planted import named

from worldline.engines.base import Engine
from worldline.engines.oracle import OracleEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Episode
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.planning.base import Goal
from worldline.planning.planners.small_searches import Shooting
from worldline.registry import load, names
from worldline.testing import check_engine, check_planner, check_world
from worldline.testing.clauses import breaches
from worldline.testing.planners import PlannerCase
from worldline.testing.toys import Integrator
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.2)


class Walk(gymnasium.Env[Any, Any]):
    """A point that is pushed: the smallest environment that can be reset into an observed state."""

    observation_space = gymnasium.spaces.Dict({"position": gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)})
    action_space = gymnasium.spaces.Dict({"push": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        start = self.np_random.uniform(-2, 2, 2) if options is None else options["position"]
        self.position = np.asarray(start, np.float32)
        return {"position": self.position.copy()}, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.position = np.float32(0.9) * self.position + action["push"]
        return {"position": self.position.copy()}, 0.0, False, False, {}


def walk(seed: int) -> Episode:
    walker, pushes = Walk(), np.random.default_rng(seed).uniform(-1, 1, (12, 2)).astype(np.float32)
    seen = [walker.reset(seed=seed)[0], *(walker.step({"push": push})[0] for push in pushes)]
    position = np.stack([one["position"] for one in seen])
    return Episode(observations={"position": position}, actions={"push": pushes}, seed=seed)


def fitted(name: str) -> tuple[Engine, Sequence[Episode]]:
    return load("engine", name).fit(TOY.episodes(60, 14, seed=1), TOY.schema), TOY.episodes(20, 14, seed=2)


def oracle() -> tuple[Engine, Sequence[Episode]]:
    """The lab, and episodes of it."""
    lab = TwoRooms(camera=False)
    return OracleEngine(lab=lab), [explore(lab, seed, 12) for seed in range(12)]


ENGINES: dict[str, Callable[[], tuple[Engine, Sequence[Episode]]]] = {
    "action_blind": lambda: fitted("action_blind"),
    "constant_velocity": lambda: fitted("constant_velocity"),
    "linear": lambda: fitted("linear"),
    "persistence": lambda: fitted("persistence"),
    "oracle": oracle,
}
"""Per name, what builds the engine and episodes of a world that it knows."""

TRAINED = {"learned"}
"""Engines that need training; checked in tests of their own."""

SERVED = {"language"}
"""Engines that need a server; checked where one runs, in tests/engines/language/test_engine.py."""

PRETRAINED = {"forecast"}
"""Checked with their networks, in tests/engines/forecast."""


SEARCHES = {
    "categorical": 0.2, "cem": 0.2, "gradient": 0.01, "guided": 0.4, "icem": 0.2, "lagrangian": 0.2, "mppi": 0.2,
    "predictive_sampling": 0.2, "shooting": 0.6,
}  # fmt: skip
"""Per planner how near the optimum of a bowl it has to get; see `PlannerCase.optimality`."""


@pytest.mark.parametrize("name", sorted(set(names("planner")) - {"first_proposal"}))
def test_planners(name: str) -> None:
    check_planner(load("planner", name)(), optimality=SEARCHES[name])


def test_a_planner_that_does_not_search() -> None:
    # It keeps what does not depend on searching: the rest of the contract is given up on purpose, as it says.
    case = PlannerCase(planner=load("planner", "first_proposal")())
    assert breaches(case, [named("planner", name) for name in ("bounds", "deterministic")]) == []


@pytest.mark.parametrize("name", sorted({*names("engine"), "oracle"} - TRAINED - SERVED - PRETRAINED))
def test_engines(name: str) -> None:
    check_engine(*ENGINES[name]())


@pytest.mark.parametrize(("name", "num_windows"), [
    ("linear", 4),
    pytest.param("linear", 1, marks=pytest.mark.slow),
    *(pytest.param("persistence", number, marks=pytest.mark.slow) for number in (1, 4)),
])  # fmt: skip
def test_local_world(name: str, num_windows: int) -> None:
    engine, _ = fitted(name)
    calibration = calibrate(engine, TOY.episodes(60, 14, seed=4), horizon=6, num_windows=num_windows, seed=0)
    world = LocalWorld(engine, calibration, load("planner", "cem")())
    goal = Goal(targets={"position": np.array([1.0, -0.5], np.float32)})
    check_world(world, TOY.episodes(30, 14, seed=5), goal, horizon=6, num_calibration=calibration.num_episodes)


def test_local_world_without_calibration() -> None:
    engine, episodes = fitted("linear")
    goal = Goal(targets={"position": np.array([1.0, -0.5], np.float32)}, tolerance={"position": 1.0})
    check_world(LocalWorld(engine, None, load("planner", "cem")()), episodes, goal)


def test_local_world_over_a_simulator() -> None:
    schema = Integrator(wind=False, camera=False).schema
    engine = SimulatorEngine(make_environment=Walk, schema=schema, locate=dict)
    calibration = calibrate(engine, [walk(seed) for seed in range(100, 140)], horizon=4, num_windows=1, seed=0)
    world = LocalWorld(engine, calibration, Shooting(num_candidates=16))
    goal = Goal(targets={"position": np.array([1.0, -0.5], np.float32)})
    check_world(world, [walk(seed) for seed in range(12)], goal, num_calibration=calibration.num_episodes)
