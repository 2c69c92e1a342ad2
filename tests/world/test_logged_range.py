from __future__ import annotations

from dataclasses import replace

import numpy as np

from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.logged_range import ranges_of


def vector(name: str, role: Role, size: int = 1, period: float | None = None) -> Signal:
    return Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), period=period)


SCHEMA = Schema(
    signals=(
        vector("level", Role.OBSERVATION, 2),
        vector("angle", Role.OBSERVATION, period=360.0),
        Signal(name="mode", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3),
        vector("valve", Role.ACTION),
        vector("inflow", Role.EXOGENOUS),
        vector("gain", Role.REWARD),
    )
)


def episode(*levels: float, valve: float = 0.5) -> Episode:
    """The second level is ten times the first."""
    steps = len(levels) - 1
    return Episode(
        observations={
            "level": np.array([[level, 10 * level] for level in levels], np.float32),
            "angle": np.full((steps + 1, 1), 359.0, np.float32),
            "mode": np.zeros(steps + 1, np.int64),
        },
        actions={"valve": np.full((steps, 1), valve, np.float32)},
        exogenous={"inflow": np.full((steps, 1), 2.0, np.float32)},
        rewards={"gain": np.ones((steps, 1), np.float32)},
    )


def test_the_range_spans_all_episodes_per_component() -> None:
    found = ranges_of(SCHEMA, [episode(1.0, 3.0), episode(-1.0, 2.0, valve=0.75), episode(2.0)])
    assert found.keys() == {"level", "valve", "inflow"}, "no periodic, discrete or reward signals"
    np.testing.assert_array_equal(found["level"], [[-1, -10], [3, 30]])
    np.testing.assert_array_equal(found["valve"], [[0.5], [0.75]])
    np.testing.assert_array_equal(found["inflow"], [[2], [2]])


def test_missing_values_do_not_count() -> None:
    seen = replace(episode(1.0, 900.0, 3.0), observed={"level": np.array([True, False, True])})
    unseen = replace(episode(-5.0, 50.0), observed={"level": np.zeros(2, bool)})
    np.testing.assert_array_equal(ranges_of(SCHEMA, [unseen, seen])["level"], [[1, 10], [3, 30]])
    assert "level" not in ranges_of(SCHEMA, [unseen])
