from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.stores import stored

from worldline.data.windows import Windows, evenly_spaced_windows, forecast_windows, random_places
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal

LENGTHS = (5, 1, 3, 8)
SIGNALS = ("camera", "position", "gear", "push", "wind", "reward")


@pytest.fixture(scope="module")
def episodes(make_episode):
    return [make_episode(number, steps, ("position",) if number == 3 else ()) for number, steps in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def store(tmp_path_factory, schema, episodes):
    return stored(tmp_path_factory.mktemp("windows") / "store", schema, episodes)


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


LEVEL = np.arange(8, dtype=np.float32)[:, None]
EPISODE = Episode(
    observations={"level": LEVEL, "gear": np.arange(8)},
    actions={"push": 10 + LEVEL[:-1]},
    exogenous={"wind": 20 + LEVEL[:-1]},
    observed={"level": np.arange(8) != 4},
)
OTHER = replace(EPISODE, observations={"level": 100 + LEVEL, "gear": np.arange(8)}, observed={})


def test_forecast_windows_hold_the_past_the_inputs_and_the_truth() -> None:
    windows = forecast_windows([(EPISODE, 2), (OTHER, 4), (EPISODE, 4)], length=2, horizon=3, targets=["level"])
    np.testing.assert_array_equal(windows.history.observations["level"][..., 0], [[1, 2], [103, 104], [3, 4]])
    np.testing.assert_array_equal(windows.history.actions["push"][..., 0], [[11], [13], [13]])
    np.testing.assert_array_equal(windows.history.observed["level"], [[True, True], [True, True], [True, False]])
    np.testing.assert_array_equal(windows.actions["push"][..., 0], [[12, 13, 14], [14, 15, 16], [14, 15, 16]])
    np.testing.assert_array_equal(windows.exogenous["wind"][..., 0], [[22, 23, 24], [24, 25, 26], [24, 25, 26]])
    np.testing.assert_array_equal(windows.truth["level"][..., 0], [[3, 4, 5], [105, 106, 107], [5, 6, 7]])
    np.testing.assert_array_equal(windows.known["level"], [[True, False, True], [True] * 3, [True] * 3])
    assert windows.history.observed["gear"].all()
    assert (list(windows.truth), list(windows.known)) == (["level"], ["level"])
    assert (windows.episode.tolist(), windows.num_worlds, windows.horizon) == ([0, 1, 0], 3, 3)


def test_a_schema_limits_the_signals_of_windows() -> None:
    level = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    windows = forecast_windows([(EPISODE, 2)], length=2, horizon=1, schema=Schema(signals=(level,)))
    assert set(windows.history.observations) == set(windows.history.observed) == set(windows.truth) == {"level"}
    assert not {**windows.history.actions, **windows.history.exogenous, **windows.actions, **windows.exogenous}


def test_candidates_begin_with_the_log_and_stay_in_it() -> None:
    windows = forecast_windows([(EPISODE, 2), (OTHER, 4)], length=2, horizon=3)
    one, four = windows.future(), windows.future(4, seed=2)
    np.testing.assert_array_equal(one.actions["push"], windows.actions["push"][:, None])
    np.testing.assert_array_equal(four.actions["push"][:, :1], one.actions["push"])
    assert four.actions["push"].shape == (2, 4, 3, 1)
    assert np.isin(four.actions["push"], windows.actions["push"]).all()
    assert four.exogenous is windows.exogenous


def test_windows_are_selected_in_order() -> None:
    windows = forecast_windows([(EPISODE, at) for at in range(2, 6)], length=2, horizon=2)
    for index in ([3, 1], np.array([3, 1])):
        again = forecast_windows([(EPISODE, 5), (EPISODE, 3)], length=2, horizon=2)
        np.testing.assert_equal(vars(windows.select(index).history), vars(again.history))
        for group in ("actions", "exogenous", "truth", "known"):
            np.testing.assert_equal(getattr(windows.select(index), group), getattr(again, group))
    assert windows.select(slice(3)).num_worlds == 3


def test_evenly_spaced_windows_reach_both_ends_of_long_episodes() -> None:
    short = EPISODE.window(0, 4)
    windows = evenly_spaced_windows([EPISODE, short, OTHER], length=2, horizon=3, per_episode=3)
    assert windows.episode.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(windows.history.observations["level"][:3, -1, 0], [1, 2, 4])
    assert evenly_spaced_windows([EPISODE, OTHER], length=2, horizon=5, per_episode=50).num_worlds == 2 * 2
    with pytest.raises(InputError, match=r"two episodes of 5 observations, got 1 of 2"):
        evenly_spaced_windows([EPISODE, short], length=2, horizon=3, per_episode=1)
    with pytest.raises(InputError, match="at least 1"):
        evenly_spaced_windows([EPISODE, OTHER], length=0, horizon=3, per_episode=1)


def test_random_places_cover_the_range_of_each_episode() -> None:
    rng = np.random.default_rng(0)
    places = random_places([EPISODE, EPISODE.window(0, 5)], length=2, horizon=3, count=100, rng=rng)
    assert ({at for _, at in places[:100]}, {at for _, at in places[100:]}) == ({1, 2, 3, 4}, {1})


@given(length=st.integers(1, 5), stride=st.integers(1, 2), count=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_are_disjoint_and_contain_all_windows(store, length, stride, count, seed):
    whole = store.windows(length, stride=stride)
    if len(whole) < count:
        with pytest.raises(DataError, match=f"{len(whole)} windows for {count} processes"):
            store.windows(length, stride=stride, shard=(0, count))
        return
    shards = [store.windows(length, stride=stride, shard=(rank, count)) for rank in range(count)]
    starts = [[tuple(start) for start in shard.all_starts().tolist()] for shard in shards]
    assert sorted(start for own in starts for start in own) == sorted(map(tuple, whole.all_starts().tolist()))
    assert [len(shard) for shard in shards] == [len(each) for each in starts]
    assert max(map(len, starts)) - min(map(len, starts)) <= 1
    for shard, own in zip(shards, starts, strict=True):
        drawn = shard.sample(8, np.random.default_rng(seed))
        assert {tuple(start) for start in drawn.starts.tolist()} <= set(own)
        again = store.windows(length, stride=stride, shard=shard._shard).sample(8, np.random.default_rng(seed))
        np.testing.assert_array_equal(again.actions["push"], drawn.actions["push"])


def test_windows_of_a_store_have_all_episodes_and_signals_by_default(store):
    batch = store.windows(4).sample(3, np.random.default_rng(0))
    assert {*batch.observations, *batch.actions, *batch.exogenous, *batch.rewards} == {
        signal.name for signal in store.schema.signals
    }
    few = store.windows(2, episodes=[2], signals=["gear"])
    assert few.all_starts()[:, 0].tolist() == [2, 2, 2]
    assert list(few.read(few.all_starts()).observations) == ["gear"]


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(store, shard):
    with pytest.raises(InputError, match="with the rank below the number"):
        store.windows(2, shard=shard)
