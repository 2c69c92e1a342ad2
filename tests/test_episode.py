from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.episode import Episode


def episode(num_steps: int) -> Episode:
    """An episode whose values are their own time index."""
    states, inputs = np.arange(num_steps + 1), np.arange(num_steps)
    return Episode(
        observations={"x": states[:, None].astype(np.float32), "camera": states[:, None, None, None].astype(np.uint8)},
        actions={"u": inputs[:, None].astype(np.float32)},
        exogenous={"w": inputs[:, None].astype(np.float32)},
        observed={"x": states % 2 == 0},
    )


@given(st.data())
def test_a_history_ends_where_asked_and_keeps_the_convention(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(0, 6))
    at = data.draw(st.integers(0, num_steps))
    length = data.draw(st.integers(1, at + 1))
    whole = episode(num_steps)
    history = whole.history(at, length)
    times = np.arange(at - length + 1, at + 1)
    assert whole.num_steps == num_steps
    assert np.array_equal(history.observations["x"][:, 0], times)
    assert np.array_equal(history.observations["camera"][:, 0, 0, 0], times)
    # Action t takes observation t to t+1, so the inputs are those of all but the last observation.
    assert np.array_equal(history.actions["u"][:, 0], times[:-1])
    assert np.array_equal(history.exogenous["w"][:, 0], times[:-1])
    assert np.array_equal(history.observed["x"], times % 2 == 0)


def test_an_episode_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        episode(2).terminated = True


def test_an_episode_is_cut_by_the_log_unless_it_says_otherwise() -> None:
    assert (episode(2).terminated, episode(2).truncated, episode(2).seed) == (False, True, None)
