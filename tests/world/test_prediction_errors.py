from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from worldline.data.windows import forecast_windows
from worldline.engines.base import Card, EngineBelief, Noise, Samples
from worldline.engines.baselines import Persistence
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Episode, Future, History
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.prediction_errors import errors, mean_of, num_samples

SCHEMA = Schema(
    signals=(
        Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="view", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(2, 2, 1)),
        Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,)),
    )
)
LEVEL = np.arange(8, dtype=np.float32)[:, None]
EPISODE = Episode(
    observations={
        "level": LEVEL,
        "view": (np.arange(8, dtype=np.uint8) * 10)[:, None, None, None] * np.ones((2, 2, 1), np.uint8),
        "gear": np.array([0, 0, 0, 1, 1, 2, 2, 2]),
    },
    actions={"push": 10 + LEVEL[:-1]},
    exogenous={"wind": 20 + LEVEL[:-1]},
    observed={"level": np.arange(8) != 4},
)


def test_errors_of_each_kind() -> None:
    engine = Persistence.fit([EPISODE], SCHEMA)
    windows = forecast_windows([(EPISODE, 2)], length=1, horizon=3)
    found = errors(engine, windows, seed=0)
    np.testing.assert_array_equal(found["level"][0, :, 0], [1, 0, 3])  # the middle one is missing
    np.testing.assert_array_equal(found["view"][0, :, 0], [10, 20, 30])
    np.testing.assert_array_equal(found["gear"][0, :, 0], [1, 1, 1])
    assert num_samples(engine.describe()) == 1


HEADING = Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), low=(-180.0,), period=360.0)


@dataclass(frozen=True)
class Compass(NumpyEngine):
    """Says the same headings whatever happens, one a sample."""

    says: tuple[float, ...]

    schema = Schema(signals=(HEADING, SCHEMA["push"]))

    def describe(self) -> Card:
        return Card(
            name="compass",
            engine="toy",
            schema=self.schema,
            inputs=("heading",),
            predicts=("heading",),
            context=1,
            deterministic=False,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        return None

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        worlds, versions, horizon = future.actions["push"].shape[:3]
        said = np.array(self.says, np.float32)[:, None, None]
        return Samples(
            signals={"heading": np.broadcast_to(said, (worlds, versions, len(self.says), horizon, 1)).copy()}
        )


@pytest.mark.parametrize(
    ("says", "truth", "due"),
    [
        ((170.0, -170.0), -175.0, 5.0),  # the mean is 180, not 0
        ((170.0,), -170.0, 20.0),
        ((-90.0,), 90.0, 180.0),
        ((10.0, 20.0), 25.0, 10.0),
        ((0.0,), 720.0, 0.0),
    ],
)
def test_the_error_of_an_angle_is_the_shorter_way_round(says: tuple[float, ...], truth: float, due: float) -> None:
    episode = Episode(
        observations={"heading": np.full((4, 1), truth, np.float32)}, actions={"push": np.zeros((3, 1), np.float32)}
    )
    windows = forecast_windows([(episode, 1)], length=1, horizon=2)
    np.testing.assert_allclose(errors(Compass(says), windows, seed=0)["heading"][0, :, 0], [due, due], atol=1e-4)


def test_the_mean_of_angles_is_where_they_point_together() -> None:
    samples = np.array([[170.0, -150.0], [-170.0, 150.0]], np.float32)[None, :, :, None]
    np.testing.assert_allclose(mean_of(HEADING, samples)[0, :, 0] % 360, [180, 180], atol=1e-4)
    low = mean_of(HEADING, np.full((1, 3, 1, 1), -180.0))
    assert -180 <= float(low.item()) < 180
    plain = Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    np.testing.assert_allclose(mean_of(plain, samples)[0, :, 0], [0, 0])
