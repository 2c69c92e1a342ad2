"""A service with two toy worlds and their logs: `toy` has vectors only, `camera` predicts a picture too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from tests.serve.toy_sessions import TOY

from worldline.data.store import Store
from worldline.engines.base import Parts
from worldline.engines.baselines import Linear
from worldline.engines.fixed_lag import FixedLagBaseline, read_fixed_lag, typical_values
from worldline.episode import Arrays, Episode, Future
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Schema
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.jobs import JobSettings
from worldline.serve.logs import ServedLogs
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.testing.toys import Integrator, picture
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

CAMERA: Final = Integrator(noise=0.1)
HORIZON: Final = 12
"""Steps up to which the worlds have bands."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PictureEngine(FixedLagBaseline):
    """Integrates the pushes and the wind, and draws the camera picture of each predicted position."""

    kind = "picture"

    def path(self, past: Arrays, future: Future) -> Arrays:
        push, wind = future.actions["push"], future.exogenous["wind"][:, None]
        places = [np.repeat(past["position"][:, -1][:, None], push.shape[1], 1)]
        for step in range(push.shape[2]):
            places.append(CAMERA.step(places[-1], push[:, :, step], wind[:, :, step]))
        position = np.stack(places[1:], 2).astype(np.float32)
        return {"position": position, "camera": picture(position)}

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> PictureEngine:
        return cls(schema=schema, **read_fixed_lag(schema, parts))


@final
@dataclass(frozen=True, kw_only=True)
class StudioService:
    """What the browser tests talk to.

    Args:
        url: of the service, without a slash at its end.
        worlds: by name.
        stores: the logs, by name.
        folder: has logs, jobs, and a folder per world, in which pages may be added.
    """

    url: str
    worlds: dict[str, LocalWorld]
    stores: dict[str, Store]
    folder: Path


@contextmanager
def toy_studio(folder: Path, **job_settings: Any) -> Iterator[StudioService]:
    """Serves the worlds and logs; the folder holds the logs and the database. Jobs wait, unless there are `workers`."""
    plain, drawn = TOY.episodes(40, 40, seed=0), CAMERA.episodes(40, 20, seed=0)
    drawing = PictureEngine(
        schema=CAMERA.schema, typical=typical_values(drawn[:2], CAMERA.schema.observations), context=1
    )
    worlds = {
        "toy": _world(Linear.fit(plain[:20], TOY.schema, context=2), plain[20:]),
        "camera": _world(drawing, drawn[20:]),
    }
    hosts = Hosts(lambda reference: worlds[reference])
    for name, world in worlds.items():
        hosts.add(HostedWorld(name, None, world, folder / name))
    logs = folder / "logs"
    stores = {name: _store(logs / name, toy) for name, toy in (("toy", TOY), ("camera", CAMERA))}
    with Database(f"sqlite:///{folder / 'service.sqlite'}") as database:
        settings = JobSettings(**{"folder": folder, "workers": 0, **job_settings})
        with serving(Service(hosts, logs=ServedLogs(logs)), database, job_settings=settings) as url:
            yield StudioService(url=url, worlds=worlds, stores=stores, folder=folder)


def _world(engine: Linear | PictureEngine, episodes: list[Episode]) -> LocalWorld:
    calibration = calibrate(engine, episodes, horizon=HORIZON, num_windows=1, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=16, num_iterations=2))


def _store(path: Path, toy: Integrator) -> Store:
    """12 episodes of 20 to 42 steps. Some end in a terminal state; every tenth position of episode 3 is missing."""
    store = Store.create(path, toy.schema)
    for number in range(12):
        (episode,) = toy.episodes(1, 20 + 2 * number, seed=100 + number)
        if number == 3:
            episode = replace(episode, observed={"position": np.arange(episode.num_steps + 1) % 10 != 5})
        ending = {"terminated": number % 4 == 0, "truncated": number % 4 == 1}
        store.append(replace(episode, **ending), {"file": f"run-{number:02}.csv"})
    return store
