"""A calibrated toy world with exogenous inputs, services of it, and steps of its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from worldline.catalog.versions import Catalog
from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.callers import Caller, Scope
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.service import Service
from worldline.serve.sessions import ObservedStep, Sessions
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False)
ANN = Caller(id="ann", name="ann", scopes=frozenset(Scope))
BOB = Caller(id="bob", name="bob", scopes=frozenset(Scope))
AHEAD = {"actions": {"push": [[0.5, 0.5]] * 3}, "exogenous": {"wind": [[0.0, 0.0]] * 3}}
"""The body of a prediction from a session of the toy world."""
BODY = {
    "history": {"observations": {"position": [[0.0, 0.0]]}, "actions": {}},
    **{group: {name: rows[:1] for name, rows in signals.items()} for group, signals in AHEAD.items()},
}
"""The body of a prediction of one step."""


@cache
def toy_world(seed: int = 0) -> LocalWorld:
    """A world with bands up to 4 steps; another one for another seed."""
    engine = Linear.fit(TOY.episodes(30, 30, seed=10 * seed), TOY.schema, context=1)
    found = calibrate(
        engine, TOY.episodes(60, 12, seed=10 * seed + 1), horizon=4, num_windows=2, seed=0, with_causes=False
    )
    return LocalWorld(engine, found, CrossEntropy(num_candidates=16, num_iterations=2))


@dataclass
class SwitchedWorld:
    """A served world whose version can be changed, as by moving its alias."""

    version: int
    world: World
    name: str = "toy"
    reference: str = "toy@prod"

    @property
    def card(self) -> Card:
        return self.world.describe()

    def current(self) -> tuple[int, World]:
        return self.version, self.world


@contextmanager
def opened(
    database: Database, limits: Limits | None = None, hosted: SwitchedWorld | None = None
) -> Iterator[tuple[Service, Sessions]]:
    """A service of the toy world with its sessions, as in one process."""
    hosts = Hosts(lambda reference: toy_world())
    hosts.add(HostedWorld("toy", None, toy_world()) if hosted is None else hosted)
    service = Service(hosts, limits)
    try:
        yield service, Sessions(service, database)
    finally:
        service.close()


def steps_of(episode: Episode, *, gaps: bool = False) -> list[ObservedStep]:
    """The steps of an episode; with gaps, every seventh observation is missing."""
    return [
        ObservedStep(
            observations={"position": episode.observations["position"][now]},
            actions={"push": episode.actions["push"][now - 1]} if now else {},
            exogenous={"wind": episode.exogenous["wind"][now - 1]} if now else {},
            observed={"position": now % 7 != 3} if gaps else {},
        )
        for now in range(episode.num_steps + 1)
    ]


def changing(num_steps: int) -> Episode:
    """An episode of a world that behaves in another way from its middle on, so that bands widen and alarms are raised.

    Each half has its own law; the path is continuous.
    """
    rng, half = np.random.default_rng(3), num_steps // 2
    push = rng.uniform(-1, 1, (num_steps, 2)).astype(np.float32)
    wind = 0.2 * rng.standard_normal((num_steps, 2)).astype(np.float32)
    path = [np.zeros(2)]
    for now in range(num_steps):
        law = Integrator(decay=0.9 if now < half else 0.3)
        path.append(law.step(path[-1], push[now], wind[now]) + 0.1 * rng.standard_normal(2))
    return Episode(
        observations={"position": np.stack(path).astype(np.float32)}, actions={"push": push}, exogenous={"wind": wind}
    )


def publish(folder: Path) -> None:
    """Publishes two versions of the toy world as `toy@prod` and `toy@next` in the catalog."""
    catalog = Catalog()
    for seed, alias in enumerate(("prod", "next")):
        save_world(folder / alias, toy_world(seed))
        catalog.publish(folder / alias, "toy", alias=alias)
