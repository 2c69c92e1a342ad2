from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.splits import split
from worldline.errors import DataError


@given(num_episodes=st.integers(4, 500), seed=st.integers(0, 2**32))
def test_every_episode_is_in_exactly_one_part(num_episodes, seed):
    parts = dataclasses.asdict(split(num_episodes, seed))
    assert sorted(number for part in parts.values() for number in part) == list(range(num_episodes))
    assert all(parts.values())
    assert all(list(part) == sorted(part) for part in parts.values())
    assert len(parts["validation"]) == len(parts["calibration"]) == len(parts["held_out"])


def test_a_tenth_is_held_out_and_the_seed_decides_which():
    assert len(split(200, 0).held_out) == 20
    assert split(200, 0) == split(200, 0) != split(200, 1)


def test_too_few_episodes_are_refused():
    with pytest.raises(DataError, match="3 episodes"):
        split(3, 0)
