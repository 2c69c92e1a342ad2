"""Worlds of a known gain, some of which explode, calibrated on logs of a toy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from worldline.engines.base import Parts
from worldline.engines.fixed_lag import FixedLagBaseline
from worldline.episode import Arrays, Future, History
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Schema
from worldline.testing.toys import Integrator
from worldline.world.calibration import p_value
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)
WIDE = replace(TOY.schema, signals=tuple(replace(signal, precision="float64") for signal in TOY.schema.signals))


@dataclass(frozen=True, kw_only=True, eq=False)
class Gain(FixedLagBaseline):
    """Multiplies the toy's position by `gain` in each step, and adds the push; the toy itself has 0.9."""

    gain: float

    @property
    def kind(self) -> str:
        return f"gain {self.gain}"

    def path(self, past: Arrays, future: Future) -> Arrays:
        push = future.actions["push"].astype(np.float64)
        place, steps = np.repeat(past["position"][:, -1][:, None], push.shape[1], 1).astype(np.float64), []
        for step in range(push.shape[2]):
            place = self.gain * place + push[:, :, step]
            steps.append(place)
        return {"position": np.stack(steps, 2)}

    def to_parts(self) -> Parts:
        return Parts(config={"gain": self.gain})

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> Gain:
        return cls(schema=schema, typical={"position": np.zeros(2, np.float32)}, context=1, **parts.config)


LOGS = TOY.episodes(60, 12, seed=1)


@cache
def world_with(gain: float) -> LocalWorld:
    """A world of this gain, calibrated on logs of the toy. Double precision holds 500 steps of any of them."""
    engine = Gain.from_parts(WIDE, Parts(config={"gain": gain}))
    calibration = calibrate(engine, LOGS, horizon=8, num_windows=1, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy(num_candidates=16, num_iterations=2))


def smallest_trust(world: LocalWorld) -> float:
    assert world.calibration is not None
    return float(p_value(world.calibration.novelty, np.array(np.inf), world.calibration.num_windows))


def at(x: float, y: float) -> History:
    return History(observations={"position": np.array([[x, y]], np.float32)}, actions={})
