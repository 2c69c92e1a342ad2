from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.testing.log_windows import alignment_errors, disturb, hide, places, random_windows, some_hidden
from worldline.testing.toys import Integrator

EPISODES = Integrator().episodes(5, 10, seed=0)


@given(length=st.integers(1, 4), horizon=st.integers(1, 4), margin=st.integers(0, 1), seed=st.integers(0, 99))
def test_places_leave_room(length: int, horizon: int, margin: int, seed: int) -> None:
    for _, at in places(EPISODES, length=length, horizon=horizon, seed=seed, margin=margin):
        assert length - 1 + margin <= at <= 10 - horizon - margin


def test_places_refuse_what_is_too_short() -> None:
    with pytest.raises(InputError, match=r"\[0, 1, 2, 3, 4\] have fewer than the 12 steps"):
        places(EPISODES, length=3, horizon=10, seed=0)
    with pytest.raises(InputError, match="at least two"):
        places(EPISODES[:1], length=1, horizon=1, seed=0)


@pytest.mark.parametrize("values", ["kept", "other", "nan"])
def test_hide_marks_and_overwrites(values: str) -> None:
    history = random_windows(EPISODES, length=3, horizon=1, seed=0).history
    hidden = some_hidden(5, 3)
    found = hide(history, hidden, values)
    assert hidden.sum(1).tolist() == [1, 0, 1, 0, 1]
    assert hidden[0, -1]
    np.testing.assert_array_equal(found.observed["position"], ~hidden)
    same = found.observations["position"] == history.observations["position"]
    assert same[~hidden].all()
    assert same[hidden].all() == (values == "kept")
    assert np.isnan(found.observations["position"][hidden]).all() == (values == "nan")


@pytest.mark.parametrize("array", [np.zeros(4, np.float32), np.arange(4), np.array([0, 9, 9, 0], np.uint8)])
def test_disturb_keeps_the_dtype_and_changes_the_values(array: np.ndarray) -> None:
    other = disturb(array)
    assert other.dtype == array.dtype
    assert (other != array).all()


def test_alignment_errors_find_the_shift() -> None:
    toy = Integrator(wind=False, camera=False)
    episodes = [replace(episode, rewards={}) for episode in toy.episodes(6, 12, seed=3)]

    def exact(windows):
        now, path = windows.history.observations["position"][:, -1], []
        for step in range(windows.horizon):
            now = toy.step(now, windows.actions["push"][:, step], np.zeros_like(now))
            path.append(now)
        return {"position": np.stack(path, 1)}

    errors = alignment_errors(exact, episodes, length=1, horizon=3, seed=0)
    assert errors[0].shape == (24,)
    assert errors[0].max() < 1e-9
    assert min(errors[-1].mean(), errors[1].mean()) > 0.1
