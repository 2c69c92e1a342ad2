"""A small world with every kind and role of signal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal

MakeEpisode = Callable[..., Episode]


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema(
        signals=(
            Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 5, 3)),
            Signal(name="position", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m"),
            Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=4),
            Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="N", low=(-1.2,), high=(1.2,)),
            Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(3,), unit="m/s", precision="float64"),
            Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)),
        ),
        step_s=0.5,
    )


@pytest.fixture(scope="session")
def make_episode() -> MakeEpisode:
    """Random content that is fixed by a number; `masked` names the observation signals with a mask."""

    def make(number: int, num_steps: int, masked: tuple[str, ...] = ()) -> Episode:
        draw = np.random.default_rng([number, num_steps])
        rows = num_steps + 1
        return Episode(
            observations={
                "camera": draw.integers(0, 256, (rows, 4, 5, 3)).astype(np.uint8),
                "position": draw.normal(size=(rows, 2)).astype(np.float32),
                "gear": draw.integers(0, 4, rows),
            },
            actions={"push": draw.uniform(-1.2, 1.2, (num_steps, 1)).astype(np.float32)},
            exogenous={"wind": draw.normal(size=(num_steps, 3))},
            rewards={"reward": draw.normal(size=(num_steps, 1)).astype(np.float32)},
            observed={name: np.arange(rows) % 3 != number % 2 for name in masked},
            terminated=number % 2 == 0,
            truncated=number % 2 == 1,
            seed=None if number % 3 == 0 else 2**40 + number,
            step_s=draw.uniform(0.1, 0.9, num_steps).astype(np.float32) if number % 4 == 3 else None,
        )

    return make


@pytest.fixture(scope="session")
def assert_equal() -> Callable[[Episode, Episode], None]:
    def compare(one: Episode, other: Episode) -> None:
        for field in ("observations", "actions", "exogenous", "rewards", "observed"):
            ours, theirs = one.__dict__[field], other.__dict__[field]
            assert ours.keys() == theirs.keys()
            for name, values in ours.items():
                np.testing.assert_array_equal(values, theirs[name], strict=True)
        np.testing.assert_array_equal(one.step_s, other.step_s, strict=one.step_s is not None)
        for field in ("terminated", "truncated", "seed"):
            assert one.__dict__[field] == other.__dict__[field]

    return compare
