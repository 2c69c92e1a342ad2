from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from worldline.bundle import read_bundle, write_bundle
from worldline.engines.base import Parts
from worldline.engines.baselines import Linear
from worldline.engines.fixed_lag import FixedLagBaseline
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import BundleError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Schema
from worldline.testing.toys import Integrator
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Biased(FixedLagBaseline):
    """The toy without its noise, off by `bias` metres more with each step; or one that fails."""

    bias: float
    fails: str = ""

    @property
    def kind(self) -> str:
        return f"biased by {self.bias}"

    def path(self, past: Arrays, future: Future) -> Arrays:
        if self.fails == "imagine":
            raise RuntimeError("out of luck")
        if self.fails == "exit":
            raise SystemExit
        push = future.actions["push"]
        place, steps = np.repeat(past["position"][:, -1][:, None], push.shape[1], 1), []
        for step in range(push.shape[2]):
            place = TOY.step(place, push[:, :, step], np.zeros(2)) + self.bias
            steps.append(place * np.nan if self.fails == "nan" else place)
        return {"position": np.stack(steps, 2).astype(np.float32)}

    def to_parts(self) -> Parts:
        return Parts(config={"bias": self.bias, "fails": self.fails})

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> Biased:
        return cls(schema=schema, typical={"position": np.zeros(2, np.float32)}, context=1, **parts.config)


def open_toy(path: Path) -> LocalWorld:
    """The world in a bundle that `toy_bundle` wrote."""
    about = json.loads(read_bundle(path).text("toy.json"))
    if about["fails"] == "open":
        raise BundleError("no key fits")
    engine = Biased.from_parts(TOY.schema, Parts(config=about))
    return LocalWorld(engine, None, CrossEntropy(num_candidates=8, num_iterations=2))


def write_toy(folder: Path, bias: float = 0.0, fails: str = "") -> Path:
    write_bundle(folder, {"toy.json": json.dumps({"bias": bias, "fails": fails})}, model="toy", notes={})
    return folder


@pytest.fixture
def toy_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle that `open_toy` opens; its world is off by `bias`, or fails to "open", "imagine", ..."""

    def write(bias: float = 0.0, fails: str = "") -> Path:
        return write_toy(tmp_path / f"toy {bias} {fails}", bias, fails)

    return write


@pytest.fixture(name="open_toy")
def open_toy_fixture() -> Callable[[Path], LocalWorld]:
    return open_toy


@pytest.fixture(scope="session")
def engine() -> Linear:
    """All but exact: the toy is linear, so what is left is its noise."""
    return Linear.fit(TOY.episodes(60, 50, seed=0), TOY.schema, context=1)


@pytest.fixture(scope="session")
def calibration(engine: Linear) -> Calibration:
    return calibrate(engine, TOY.episodes(132, 12, seed=1), horizon=8, num_windows=1, seed=0)


@pytest.fixture(scope="session")
def world(engine: Linear, calibration: Calibration) -> LocalWorld:
    return LocalWorld(engine, calibration, CrossEntropy())


@pytest.fixture(scope="session")
def fresh() -> list[Episode]:
    return TOY.episodes(400, 12, seed=2)


@pytest.fixture
def history() -> History:
    """One world, at (1, -1) metres."""
    position = np.array([[1.0, -1.0], [0.9, -0.9]], np.float32) / np.float32(0.9)
    return History(observations={"position": position}, actions={"push": np.zeros((1, 2), np.float32)})


@pytest.fixture
def histories() -> History:
    """Three worlds, the last at (1, -1) metres."""
    position = np.array([[[0, 2], [0, 1.8]], [[-1, 1], [-0.9, 0.9]], [[1, -1], [0.9, -0.9]]], "f4") / np.float32(0.9)
    return History(observations={"position": position}, actions={"push": np.zeros((3, 1, 2), np.float32)})
