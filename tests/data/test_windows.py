from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.errors import DataError, InputError, UnknownNameError

LENGTHS = (5, 1, 3, 8)
SIGNALS = ("camera", "position", "gear", "push", "wind", "reward")


@pytest.fixture(scope="module")
def episodes(make_episode):
    return [make_episode(number, steps, ("position",) if number == 3 else ()) for number, steps in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory, schema, episodes):
    store = Store.create(tmp_path_factory.mktemp("windows") / "store", schema)
    for episode in episodes:
        store.append(episode)
    return store


@given(length=st.integers(1, 9), seed=st.integers(0, 2**32), size=st.integers(1, 7))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_are_slices_of_one_episode(store, episodes, length, seed, size):
    batch = Windows(store, length, range(4), SIGNALS).sample(size, np.random.default_rng(seed))
    assert batch.starts.shape == (size, 2)
    for row, (number, start) in enumerate(batch.starts.tolist()):
        episode = episodes[number]
        assert start + length <= episode.num_steps + 1
        history = episode.history(start + length - 1, length)
        for ours, theirs in (
            (batch.observations, history.observations),
            (batch.actions, history.actions),
            (batch.exogenous, history.exogenous),
        ):
            assert ours.keys() == theirs.keys()
            for name, values in theirs.items():
                np.testing.assert_array_equal(ours[name][row], values, strict=True)
        after = slice(start, start + length - 1)
        np.testing.assert_array_equal(batch.rewards["reward"][row], episode.rewards["reward"][after], strict=True)
        ends = episode.terminated and start + length - 1 == episode.num_steps
        assert batch.terminated[row].tolist() == [False] * (length - 2) + [ends] * (length > 1)
        for name, mask in batch.observed.items():
            np.testing.assert_array_equal(mask[row], history.observed.get(name, np.ones(length, bool)), strict=True)


@given(length=st.integers(1, 4), stride=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stride_passes_over_observations_and_over_no_input(store, episodes, length, stride, seed):
    if (length - 1) * stride > max(LENGTHS):
        return
    batch = Windows(store, length, range(4), SIGNALS, stride).sample(5, np.random.default_rng(seed))
    for row, (number, start) in enumerate(batch.starts.tolist()):
        episode, last = episodes[number], start + (length - 1) * stride
        for name, values in batch.observations.items():
            np.testing.assert_array_equal(values[row], episode.observations[name][start : last + 1 : stride])
        mask = episode.observed.get("position", np.ones(episode.num_steps + 1, bool))
        np.testing.assert_array_equal(batch.observed["position"][row], mask[start : last + 1 : stride])
        np.testing.assert_array_equal(batch.actions["push"][row], episode.actions["push"][start:last])
        np.testing.assert_array_equal(batch.exogenous["wind"][row], episode.exogenous["wind"][start:last])
        own = np.full(episode.num_steps, 0.5, np.float32) if episode.step_s is None else episode.step_s
        np.testing.assert_array_equal(batch.step_s[row], own[start:last], strict=True)


def test_every_start_is_listed_once_and_equally_likely(store):
    windows = Windows(store, 4, [3, 0, 1, 2], ["gear"])
    expected = [(number, start) for number in (3, 0, 2) for start in range(LENGTHS[number] - 2)]
    assert [tuple(start) for start in windows.all_starts().tolist()] == expected
    assert len(windows) == len(expected) == 10
    drawn = windows.sample(20_000, np.random.default_rng(0)).starts
    counts = np.array([(drawn == start).all(1).sum() for start in expected])
    assert abs(counts - 2000).max() < 5 * np.sqrt(1800)  # five standard deviations of a fair draw


def test_the_generator_decides(store):
    windows = Windows(store, 3, range(4), ["gear"])
    one, same, other = (windows.sample(8, np.random.default_rng(seed)).starts for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_short_episodes_are_left_out_and_said_to_be(store):
    windows = Windows(store, 5, [0, 1, 2], ["gear"])
    assert set(windows.all_starts()[:, 0]) == {0}
    (first, second) = windows.left_out
    assert (first.episode, second.episode) == (1, 2)
    assert "4 observations, fewer than a window of 5" in str(second)
    with pytest.raises(DataError, match="none of the 1 episodes holds a window of 5"):
        Windows(store, 5, [1], ["gear"])


def test_what_is_asked_for_must_exist(store):
    with pytest.raises(UnknownNameError, match="camera"):
        Windows(store, 2, [0], ["camer"])
    with pytest.raises(InputError, match="no episode 4"):
        Windows(store, 2, [0, 4], ["gear"])
    with pytest.raises(InputError, match="stride is 0"):
        Windows(store, 2, [0], ["gear"], stride=0)
    with pytest.raises(InputError, match="num_observations is 0"):
        Windows(store, 0, [0], ["gear"])
    windows = Windows(store, 4, [0], ["gear"])
    for start in ([0, 3], [4, 0], [-1, 0], [0, -1]):
        with pytest.raises(InputError, match="no window"):
            windows.read(np.array([start]))
