from __future__ import annotations

import numpy as np
import pytest

from worldline.contracts.episode import Episode, History
from worldline.engines.trivial import Linear
from worldline.planners.cem import CrossEntropy
from worldline.testing.toys import Integrator
from worldline.worlds.calibration import Calibration, calibrate
from worldline.worlds.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)


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
    position = np.array([[[0, 2], [0, 1.8]], [[-1, 1], [-0.9, 0.9]], [[1, -1], [0.9, -0.9]]], np.float32) / np.float32(
        0.9
    )
    return History(observations={"position": position}, actions={"push": np.zeros((3, 1, 2), np.float32)})
