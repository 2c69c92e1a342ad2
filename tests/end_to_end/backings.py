"""Every backing of the two worlds of the examples, made quickly: a name, and what makes the name that is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from worldline.contracts.engine import Engine
from worldline.contracts.episode import Episode
from worldline.contracts.planner import Planner
from worldline.contracts.world import World
from worldline.data.store import Store
from worldline.engines.oracle import OracleEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.labs.two_rooms import TwoRooms
from worldline.planners.cem import CrossEntropy
from worldline.recipes.greenhouse import greenhouse, record_greenhouse
from worldline.recipes.recipe import Recipe
from worldline.recipes.vectors import vectors
from worldline.registry import load
from worldline.workflows.learn import Options, learn_logs
from worldline.worlds.bundled import open_world
from worldline.worlds.calibration import calibrate
from worldline.worlds.local import LocalWorld

PLANNER = CrossEntropy(num_candidates=64, num_iterations=3)
FEW = CrossEntropy(num_candidates=32, num_iterations=2)
"""For engines that step an environment for every candidate."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Workshop:
    """Logs of one of the worlds, and a place for what is made from them.

    Args:
        kind: "greenhouse" or "two-rooms".
        folder: for bundles.
        store: the logs; the last quarter is for calibration.
        recipe: learns from the logs in seconds.
        horizon: that bands are calibrated for.
        shelf: worlds that are held in this process, by the name that opens them.
        made: the names of the backings that were made.
    """

    kind: str
    folder: Path
    store: Store
    recipe: Callable[[Store], Recipe]
    horizon: int
    shelf: dict[str, World] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    @cached_property
    def fitting(self) -> Sequence[Episode]:
        return [self.store.episode(number) for number in range(3 * len(self.store) // 4)]

    @cached_property
    def held_out(self) -> Sequence[Episode]:
        return [self.store.episode(number) for number in range(3 * len(self.store) // 4, len(self.store))]

    def name(self, backing: str) -> str:
        """The name that opens a backing, which is made when it is first asked for."""
        if backing not in self.made:
            self.made[backing] = BACKINGS[self.kind][backing](self)
        return self.made[backing]

    def keep(self, name: str, engine: Engine, *, planner: Planner = PLANNER, calibrated: bool = True) -> str:
        """The name that opens a world over this engine. The one place to change once bundles hold any engine."""
        calibration = None
        if calibrated:
            calibration = calibrate(engine, self.held_out, horizon=self.horizon, num_windows=8, seed=0)
        self.shelf[f"{self.kind}/{name}"] = LocalWorld(engine, calibration, planner)
        return f"{self.kind}/{name}"

    def open(self, name: str) -> World:
        """What the tests put in the place of `worldline.open`."""
        return self.shelf[name] if name in self.shelf else open_world(name)


def fitted(engine: str, **settings: Any) -> Callable[[Workshop], str]:
    """An engine that is fitted to logs, by its registered name."""

    def make(workshop: Workshop) -> str:
        return workshop.keep(engine, load("engine", engine).fit(workshop.fitting, workshop.store.schema, **settings))

    return make


def learned(workshop: Workshop) -> str:
    """A bundle."""
    bundle = workshop.folder / f"{workshop.kind}-learned"
    learn_logs(workshop.store.path, bundle, Options(recipe=workshop.recipe))
    return str(bundle)


def uncalibrated(workshop: Workshop) -> str:
    """No bands, and trust NaN."""
    engine = load("engine", "linear").fit(workshop.fitting, workshop.store.schema)
    return workshop.keep("uncalibrated", engine, calibrated=False)


def oracle(workshop: Workshop) -> str:
    return workshop.keep("oracle", OracleEngine(lab=TwoRooms(camera=False)))


def simulator(workshop: Workshop) -> str:
    """Resets the lab into what is seen."""
    lab = TwoRooms(camera=False)
    engine = SimulatorEngine(
        make_environment=lambda: TwoRooms(camera=False), schema=lab.schema, locate=lambda observation: observation
    )
    return workshop.keep("simulator", engine, planner=FEW, calibrated=False)


BLIND = ("action_blind", "persistence", "constant_velocity")
"""They do not heed actions, so there is nothing to plan with."""
EVERYWHERE: dict[str, Callable[[Workshop], str]] = {
    "learned": learned,
    "linear": fitted("linear"),
    "nearest": fitted("nearest"),
    "uncalibrated": uncalibrated,
    "action_blind": fitted("action_blind"),
    "persistence": fitted("persistence"),
    "constant_velocity": fitted("constant_velocity"),
}
BACKINGS: dict[str, dict[str, Callable[[Workshop], str]]] = {
    "greenhouse": EVERYWHERE,
    "two-rooms": {**EVERYWHERE, "oracle": oracle, "simulator": simulator},
}
"""Per world and backing what makes it and gives the name to pass to `worldline.open`. A backing more is a line here."""


def greenhouse_workshop(folder: Path) -> Workshop:
    def recipe(store: Store) -> Recipe:
        known = greenhouse(store)
        training = replace(known.training, num_updates=120, num_checks=1, window=5)
        return replace(known, training=training, horizon=12, num_windows=4, planner=PLANNER)

    store = record_greenhouse(folder / "greenhouse", num_episodes=16, seed=0)
    return Workshop(kind="greenhouse", folder=folder, store=store, recipe=recipe, horizon=12)


def two_rooms_workshop(folder: Path) -> Workshop:
    def recipe(store: Store) -> Recipe:
        known = vectors(store)
        training = replace(known.training, num_updates=120, num_checks=1, window=5)
        heads = replace(known.heads, distance_updates=20, inverse_updates=20, width=32)
        return replace(known, training=training, heads=heads, horizon=6, num_windows=2, planner=PLANNER)

    lab = TwoRooms(camera=False)
    store = Store.create(folder / "two-rooms", lab.schema)
    for seed in range(120):
        store.append(wander(lab, seed, num_steps=30))
    return Workshop(kind="two-rooms", folder=folder, store=store, recipe=recipe, horizon=6)


def wander(lab: TwoRooms, seed: int, num_steps: int) -> Episode:
    """What the lab's explorer does."""
    draws, policy = np.random.default_rng(seed), lab.explorer()
    policy.reset(draws)
    seen, moves = [lab.reset(seed=seed)[0]], []
    for _ in range(num_steps):
        moves.append(policy.act(seen[-1], draws)["move"])
        seen.append(lab.step({"move": moves[-1]})[0])
    return Episode(
        observations={name: np.stack([one[name] for one in seen]) for name in seen[0]},
        actions={"move": np.stack(moves)},
        seed=seed,
    )
