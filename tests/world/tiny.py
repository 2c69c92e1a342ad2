"""Worlds of every kind that answer in a few milliseconds, and everything that they can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial

import numpy as np
import pytest
import torch
from tests.engines.test_simulator import Gusts

from worldline.config import replace_at
from worldline.engines.base import Engine
from worldline.engines.baselines import Linear
from worldline.engines.learned import LearnedEngine
from worldline.engines.oracle import OracleEngine
from worldline.engines.simulator import SimulatorEngine
from worldline.episode import Arrays, Episode
from worldline.labs.playing import explore
from worldline.labs.two_rooms import TwoRooms
from worldline.models.base import WorldModel
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.rssm import Rssm, RssmConfig
from worldline.planning.base import Goal
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.training.heads.base import by_name
from worldline.training.heads.distance import Distance, DistanceConfig
from worldline.training.heads.inverse import Inverse, InverseConfig
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

CALM = Integrator(camera=False, wind=False, noise=0.1)
NUM_STEPS, HORIZON = 8, 3


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A world and what it may be asked.

    Args:
        world: calibrated.
        episodes: logged in it.
        goal: that it can measure.
    """

    world: LocalWorld
    episodes: tuple[Episode, ...]
    goal: Callable[[Episode], Goal]

    def asked(self) -> dict[str, Callable[[], object]]:
        """Each verb with the inputs of each episode, by a name of its own."""
        found = dict[str, Callable[[], object]]()
        for number, episode in enumerate(self.episodes):
            history = episode.history(2, 3)
            ahead = {name: value[2 : 2 + HORIZON] for name, value in episode.actions.items()}
            plans = {name: np.stack([value, value[::-1]]) for name, value in ahead.items()}
            goal = self.goal(episode)
            found |= {
                f"predict {number}": partial(self.world.predict, history, ahead, level=0.5),
                f"score {number}": partial(self.world.score, history, plans, goal),
                f"plan {number}": partial(
                    self.world.plan, history, goal, horizon=HORIZON, proposals=plans, seed=number
                ),
                f"what_if {number}": partial(self.world.what_if, episode, 2, {n: v[::-1] for n, v in ahead.items()}),
                f"surprise {number}": partial(self.world.surprise, episode),
            }
        return found


def answer(value: object) -> object:
    """What can be compared to the last bit: arrays as bytes; without the time that it took."""
    if isinstance(value, np.ndarray | np.generic):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Mapping):
        return {name: answer(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(answer(each) for each in value)
    if is_dataclass(value):
        return {f.name: answer(getattr(value, f.name)) for f in fields(value) if f.name != "elapsed_s"}
    return value


def _learned(model: WorldModel, schema: Schema, inputs: tuple[str, ...], latent: int) -> LearnedEngine:
    present = latent - (model.present.start or 0)
    signals = tuple(one for one in schema.observations if one.kind is Kind.VECTOR)
    readout = Readout(ReadoutConfig(latent_size=latent, signals=signals, width=8))
    readout.normaliser.fit(torch.randn(50, sum(one.size for one in signals)))
    mahalanobis = MahalanobisScore(MahalanobisConfig(latent_size=latent))
    mahalanobis.fit(torch.randn(100, latent))
    low = tuple(bound for signal in schema.actions for bound in signal.low or ())
    high = tuple(bound for signal in schema.actions for bound in signal.high or ())
    return LearnedEngine(
        model=model.eval().requires_grad_(False),
        schema=schema,
        inputs=inputs,
        heads=by_name(
            readout,
            mahalanobis,
            Distance(DistanceConfig(latent_size=present, width=8, size=8)),
            Inverse(InverseConfig(latent_size=present, width=8, low=low, high=high)),
        ),
    )


def _jepa(schema: Schema, inputs: tuple[str, ...]) -> LearnedEngine:
    config = replace_at(
        JepaConfig(inputs=inputs, latent_size=8), {"encoder.channels": 4, "encoder.width": 16, "predictor.width": 16}
    )
    return _learned(Jepa(schema=schema, config=config), schema, inputs, 8)


def _rssm(schema: Schema, inputs: tuple[str, ...]) -> LearnedEngine:
    config = RssmConfig(inputs=inputs, hidden_size=16, num_groups=4, num_classes=4, width=16, num_samples=2, context=3)
    return _learned(Rssm(schema=schema, config=config), schema, inputs, 32)


def _world(engine: Engine, episodes: list[Episode], goal: Callable[[Episode], Goal], *, proposals: int = 1) -> Tiny:
    calibration = calibrate(engine, episodes[4:], horizon=HORIZON, num_windows=1, seed=0)
    planner = CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2)
    world = LocalWorld(engine, calibration, planner, num_proposals=proposals)
    return Tiny(world=world, episodes=tuple(episodes[:4]), goal=goal)


def _rooms() -> list[Episode]:
    return [explore(TwoRooms("random"), seed, NUM_STEPS) for seed in range(16)]


def _gusts() -> list[Episode]:
    environment, rng, logged = Gusts(), np.random.default_rng(0), []
    for seed in range(16):
        places = [environment.reset(seed=seed)[0]["place"]]
        pushes = rng.uniform(-1, 1, (NUM_STEPS, 1)).astype(np.float32)
        places += [environment.step({"push": push})[0]["place"] for push in pushes]
        logged.append(Episode(observations={"place": np.stack(places)}, actions={"push": pushes}, seed=seed))
    return logged


def _last(*names: str, **tolerance: float) -> Callable[[Episode], Goal]:
    return lambda episode: Goal(targets={n: episode.observations[n][-1] for n in names}, tolerance=dict(tolerance))


def _simulator() -> SimulatorEngine:
    push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
    place = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))

    def locate(seen: Arrays) -> dict[str, object]:
        return {"place": seen["place"]}

    return SimulatorEngine(make_environment=Gusts, schema=Schema(signals=(place, push)), locate=locate)


def _toy() -> list[Episode]:
    return CALM.episodes(16, NUM_STEPS, seed=0)


TINY: dict[str, Callable[[], Tiny]] = {
    "jepa on pictures": lambda: _world(_jepa(TwoRooms().schema, ("camera",)), _rooms(), _last("camera")),
    "jepa on vectors": lambda: _world(_jepa(CALM.schema, ("position",)), _toy(), _last("position")),
    "rssm that draws": lambda: _world(_rssm(CALM.schema, ("position",)), _toy(), _last("position")),
    "linear": lambda: _world(Linear.fit(CALM.episodes(30, 20, seed=1), CALM.schema), _toy(), _last("position")),
    "simulator": lambda: _world(_simulator(), _gusts(), _last("place", place=1.0)),
    "oracle": lambda: _world(OracleEngine(lab=TwoRooms("random")), _rooms(), _last("position")),
}


SLOW = {"jepa on pictures", "rssm that draws", "oracle"}
"""Which of them take long to be asked many times."""


def each_tiny() -> list[object]:
    """Their names, for tests that ask them many times."""
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(TINY)]


def tiny(name: str) -> Tiny:
    """The world of this name, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TINY[name]()
