from __future__ import annotations

import numpy as np

from worldline.contracts.episode import Episode
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.engines.trivial import Persistence
from worldline.worlds.pieces import cut, errors, num_samples

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


def test_a_piece_is_what_was_known_done_and_came_of_it() -> None:
    pieces = cut(SCHEMA, [(EPISODE, 2), (EPISODE, 4)], length=2, horizon=3, truth=["level"])
    np.testing.assert_array_equal(pieces.history.observations["level"][..., 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(pieces.history.actions["push"][..., 0], [[11], [13]])
    np.testing.assert_array_equal(pieces.history.observed["level"], [[True, True], [True, False]])
    np.testing.assert_array_equal(pieces.future.actions["push"][..., 0], [[[12, 13, 14]], [[14, 15, 16]]])
    np.testing.assert_array_equal(pieces.future.exogenous["wind"][..., 0], [[22, 23, 24], [24, 25, 26]])
    np.testing.assert_array_equal(pieces.truth["level"][..., 0], [[3, 4, 5], [5, 6, 7]])
    np.testing.assert_array_equal(pieces.known["level"], [[True, False, True], [True, True, True]])
    assert list(pieces.truth) == ["level"]


def test_errors_of_each_kind() -> None:
    engine = Persistence.fit([EPISODE], SCHEMA)
    pieces = cut(SCHEMA, [(EPISODE, 2)], length=1, horizon=3, truth=["level", "view", "gear"])
    found = errors(engine, pieces, seed=0)
    np.testing.assert_array_equal(found["level"][0, :, 0], [1, 0, 3])  # the middle one is missing
    np.testing.assert_array_equal(found["view"][0, :, 0], [10, 20, 30])
    np.testing.assert_array_equal(found["gear"][0, :, 0], [1, 1, 1])
    assert num_samples(engine.describe()) == 1
