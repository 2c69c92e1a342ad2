from __future__ import annotations

import numpy as np
import pytest

from worldline.data.windows import forecast_windows
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.prediction_errors import differences, mean_of, num_samples, residuals

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
    found = {name: np.abs(value) for name, value in residuals(engine, windows, seed=0).items()}
    np.testing.assert_array_equal(found["level"][0, :, 0], [1, 0, 3])  # the middle one is missing
    np.testing.assert_array_equal(found["view"][0, :, 0], [10, 20, 30])
    np.testing.assert_array_equal(found["gear"][0, :, 0], [1, 1, 1])
    assert num_samples(engine.describe()) == 1


HEADING = Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), low=(-180.0,), period=360.0)


@pytest.mark.parametrize(("says", "truth", "due"), [
    ((170.0, -170.0), -175.0, 5.0),  # the mean is 180, not 0
    ((170.0,), -170.0, 20.0),
    ((-90.0,), 90.0, 180.0),
    ((10.0, 20.0), 25.0, 10.0),
    ((0.0,), 720.0, 0.0),
])  # fmt: skip
def test_the_error_of_an_angle_is_the_shorter_way_round(says: tuple[float, ...], truth: float, due: float) -> None:
    schema, shape = Schema(signals=(HEADING, SCHEMA["push"])), (1, len(says), 2, 1)
    predicted = {"heading": np.broadcast_to(np.array(says)[None, :, None, None], shape)}
    known = {"heading": np.ones((1, 2), bool)}
    found = differences(schema, predicted, {"heading": np.full((1, 2, 1), truth)}, known)
    np.testing.assert_allclose(np.abs(found["heading"][0, :, 0]), [due, due], atol=1e-4)


def test_the_mean_of_angles_is_where_they_point_together() -> None:
    samples = np.array([[170.0, -150.0], [-170.0, 150.0]], np.float32)[None, :, :, None]
    np.testing.assert_allclose(mean_of(HEADING, samples)[0, :, 0] % 360, [180, 180], atol=1e-4)
    low = mean_of(HEADING, np.full((1, 3, 1, 1), -180.0))
    assert -180 <= float(low.item()) < 180
    plain = Signal(name="x", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    np.testing.assert_allclose(mean_of(plain, samples)[0, :, 0], [0, 0])
