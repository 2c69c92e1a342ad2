from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.episode import Episode, History
from worldline.errors import InputError


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


def test_a_history_without_arguments_is_the_whole_episode() -> None:
    whole = episode(4)
    np.testing.assert_equal(vars(whole.history()), {name: getattr(whole, name) for name in vars(whole.history())})
    np.testing.assert_equal(vars(whole.history(2)), vars(whole.history(2, 3)))


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 3), (2, 5), (1, 2)])
def test_windows_of_episodes_and_histories_agree(start: int, stop: int) -> None:
    whole = replace(episode(4), rewards={"r": np.arange(4)}, step_s=np.ones(4, np.float32), terminated=True, seed=7)
    part = replace(whole, truncated=False).window(start, stop)
    np.testing.assert_equal(vars(part.history()), vars(whole.history(stop - 1, stop - start)))
    np.testing.assert_equal(vars(part.history()), vars(whole.history().window(start, stop)))
    assert part.rewards["r"].tolist() == list(range(start, stop - 1))
    assert part.step_s is not None
    assert len(part.step_s) == part.num_steps
    assert (part.seed, part.terminated, part.truncated) == (None if start else 7, stop == 5, stop < 5)


@pytest.mark.parametrize(("length", "due"), [(1, [4]), (3, [2, 3, 4]), (9, [0, 1, 2, 3, 4])])
def test_the_last_observations_are_all_if_there_are_fewer(length: int, due: list[int]) -> None:
    whole = episode(4)
    batch = History.stack([whole.history()] * 2)
    assert whole.last(length).observations["x"][:, 0].tolist() == due
    assert whole.history().last(length).observations["x"][:, 0].tolist() == due
    last = batch.last(length, axis=1)
    assert last.observations["x"][1, :, 0].tolist() == due
    assert last.actions["u"][1, :, 0].tolist() == due[:-1]
    assert last.observed["x"].shape == (2, len(due))


def test_stacked_histories_fill_missing_masks() -> None:
    seen = replace(episode(2), observed={})
    batch = History.stack([seen.history(), episode(2).history()])
    assert batch.observed["x"].tolist() == [[True, True, True], [True, False, True]]
    np.testing.assert_equal(vars(batch.worlds([1]).map(lambda value: value[0])), vars(episode(2).history()))
    assert batch.worlds(np.array([False, True])).observed["x"].tolist() == [[True, False, True]]


def test_map_and_select_apply_to_every_group() -> None:
    whole = replace(episode(3), rewards={"r": np.arange(3)}, step_s=np.ones(3, np.float32))
    some = whole.map(lambda value: value[:1])
    groups = (some.observations, some.actions, some.exogenous, some.rewards, some.observed)
    assert [len(value) for arrays in groups for value in arrays.values()] == [1] * 6
    assert some.step_s is not None
    assert len(some.step_s) == 1
    kept = whole.select(["w", "r", "camera", "else"])
    assert [*kept.observations, *kept.actions, *kept.exogenous, *kept.rewards, *kept.observed] == ["camera", "w", "r"]
    assert [list(arrays) for arrays in vars(whole.history().select(["u", "x"])).values()] == [["x"], ["u"], [], ["x"]]


@pytest.mark.parametrize(
    ("at", "length", "message"),
    [
        (500, None, "at is 500, but the episode has 7 observations. Give at from 0 to 6"),
        (-1, None, "at is -1, but"),
        (3, 5, r"at is 3, length is 5, but .* length from 1 to at \+ 1"),
        (3, 0, "length is 0"),
        (7, 3, "at is 7"),
    ],
)
def test_a_history_that_the_episode_does_not_have_is_refused(at: int, length: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        episode(6).history(at, length)


@pytest.mark.parametrize("kind", [History, Episode])
@pytest.mark.parametrize("group", ["observations", "actions", "exogenous", "observed"])
def test_arrays_without_names_are_refused(kind: type[History] | type[Episode], group: str) -> None:
    given = {"observations": {"x": np.zeros((21, 1))}, "actions": {"u": np.zeros((20, 1))}, group: np.zeros((20, 1))}
    message = r"expected a mapping of signal names to arrays, got an array of shape \(20, 1\)\. Give \{'NAME'"
    with pytest.raises(InputError, match=f"{group}: {message}"):
        kind(**given)
    with pytest.raises(InputError, match=f"{group}: expected a mapping .*, got a list"):
        kind(**{**given, group: [0.0]})
