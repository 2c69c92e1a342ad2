from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.control.goal_reaching import StartGoalPair, draw_pairs
from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError
from worldline.schema import Schema


def reached(observation: Arrays, goal: Arrays) -> bool:
    return bool(abs(observation["place"] - goal["place"])[0] < 0.5)


def side(start: Arrays, goal: Arrays) -> str:
    return "right" if goal["place"][0] > start["place"][0] else "left"


def draw(store: Store, **changes: Any) -> tuple[StartGoalPair, ...]:
    given: dict[str, Any] = {
        "offset": 5, "num_pairs": 20, "reached": reached, "group": side, "groups": ("left", "right"), "seed": 0,
    }  # fmt: skip
    return draw_pairs(store, given.pop("episodes", range(12)), **(given | changes))


def test_pairs_are_what_was_logged(store: Store) -> None:
    for pair in draw(store, num_pairs=40):
        episode = store.episode(pair.episode)
        assert pair.seed == episode.seed
        assert np.array_equal(pair.replay["push"], episode.actions["push"][: pair.at])
        assert np.array_equal(pair.start["place"], episode.observations["place"][pair.at])
        assert np.array_equal(pair.goal["place"], episode.observations["place"][pair.at + 5])
        assert pair.budget == 10


def test_none_is_solved_at_the_start_and_the_groups_are_equally_large(store: Store) -> None:
    pairs = draw(store, num_pairs=100)
    assert not any(reached(pair.start, pair.goal) for pair in pairs)
    assert [pair.group for pair in pairs] == ["left"] * 50 + ["right"] * 50
    assert all(side(pair.start, pair.goal) == pair.group for pair in pairs)
    assert len({(pair.episode, pair.at) for pair in pairs}) == 100


def test_the_seed_alone_decides(store: Store) -> None:
    first, again, other = ([(p.episode, p.at) for p in draw(store, seed=seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_only_the_given_episodes_and_only_starts_with_enough_past(store: Store) -> None:
    given = draw_pairs(
        store, [0, 7], offset=5, num_pairs=40, reached=reached, group=side, groups=("left", "right"), context=4, seed=0
    )
    assert {pair.episode for pair in given} == {0, 7}
    assert min(pair.at for pair in given) >= 3
    assert max(pair.at for pair in given) <= 25


def test_every_start_is_used_where_that_many_are_wanted(store: Store) -> None:
    # Six episodes of 30 steps, 26 starts each, all of them to the right.
    pairs = draw_pairs(store, range(6), offset=5, num_pairs=156, reached=reached, group=side, groups=("right",), seed=0)
    assert len({(pair.episode, pair.at) for pair in pairs}) == 156


def test_too_few_pairs_are_an_error_that_counts_them(store: Store) -> None:
    with pytest.raises(DataError, match=r"each group needs 105 pairs, .* 104 of group 'left' among 312 starts in 12"):
        draw(store, num_pairs=210)
    with pytest.raises(DataError, match=r"0 of group 'above'"):
        draw(store, groups=("left", "above"))
    with pytest.raises(DataError, match=r"among 0 starts"):
        draw(store, offset=31)


def test_a_pair_of_no_wanted_group_is_left_out(store: Store) -> None:
    assert {pair.group for pair in draw(store, groups=("left",))} == {"left"}


@pytest.mark.parametrize("wrong", [{"num_pairs": 21}, {"num_pairs": 0}, {"offset": 0}, {"context": 0}, {"groups": ()}])
def test_refuses_numbers_that_make_no_sense(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        draw(store, **wrong)


def test_needs_reset_seeds(store: Store, schema: Schema, tmp_path: Path) -> None:
    unseeded = stored(tmp_path / "unseeded", schema, [store.episode(0), replace(store.episode(1), seed=None)])
    with pytest.raises(DataError, match="episode 1: no reset seed"):
        draw_pairs(unseeded, [0, 1], offset=5, num_pairs=1, reached=reached, group=side, groups=("right",), seed=0)


def test_leaves_out_what_was_not_observed(store: Store, schema: Schema, tmp_path: Path) -> None:
    seen = np.ones(31, bool)
    seen[10:] = False
    masked = stored(tmp_path / "masked", schema, [replace(store.episode(0), observed={"place": seen})])
    pairs = draw_pairs(masked, [0], offset=5, num_pairs=5, reached=reached, group=side, groups=("right",), seed=0)
    assert sorted(pair.at for pair in pairs) == [0, 1, 2, 3, 4]
