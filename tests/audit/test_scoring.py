"""Scores and their intervals, on figures that are known exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.audit.scoring import accuracy, auroc, cell, score, skill, skill_cell
from worldline.errors import InputError


def test_skill_is_0_at_the_floor_1_at_the_ceiling_and_linear_between() -> None:
    floor, ceiling = np.linspace(1, 3, 40), np.linspace(0.1, 0.3, 40)
    for share in (0.0, 0.25, 1.0, -3.0):
        found = skill_cell("x", floor + share * (ceiling - floor), floor, ceiling).score
        assert found.value == pytest.approx(share, abs=1e-6)
        assert found.low == pytest.approx(share, abs=1e-6)
        assert found.high == pytest.approx(share, abs=1e-6)


def test_a_cell_in_which_nothing_can_be_told_is_gated_and_says_whether_it_is_worse() -> None:
    floor = np.full(20, 0.04)
    same = skill_cell("still", floor, floor, np.zeros(20), marginal=np.ones(20))
    assert same.score is None
    assert same.note.startswith("gated")
    assert not same.note.endswith("worse")
    worse = skill_cell("still", floor + 0.06, floor, np.zeros(20), marginal=np.ones(20))
    assert worse.score is None
    assert worse.note.endswith("worse")


@pytest.mark.slow
def test_the_interval_covers_the_true_score_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        floor = rng.gamma(2.0, 1.0, 80)
        loss = 0.4 * floor + rng.gamma(2.0, 0.1, 80)  # expected loss 1.0 of 2.0
        found = score(skill(loss, floor, np.zeros(80)), 80, seed=1)
        inside += found.low <= 0.5 <= found.high
    assert 0.90 <= inside / 300 <= 0.985


def test_scenes_are_drawn_and_not_what_they_hold() -> None:
    """Ten branches of one scene that all err together tell no more than one."""
    hits = (np.random.default_rng(0).random(40) < 0.7).astype(float)
    one = score(accuracy(hits), 40)
    branches = np.repeat(hits[:, None], 10, 1)  # [E, branches]
    assert score(accuracy(branches.mean(1)), 40) == one
    each = score(accuracy(branches.ravel()), 400)
    assert one.high - one.low > 2.5 * (each.high - each.low), "which drawing branch by branch would not find"


def test_accuracy_and_auroc_are_0_by_chance_and_1_at_best() -> None:
    assert score(accuracy(np.full(20, 0.5)), 20).value == 0.0
    assert score(accuracy(np.full(20, 0.25), chance=0.25), 20).value == 0.0
    positive = np.arange(40) >= 20
    assert score(auroc(np.arange(40.0), positive), 40).value == 1.0
    assert score(auroc(np.zeros(40), positive), 40).value == 0.0
    assert score(auroc(-np.arange(40.0), positive), 40).value == -1.0


@given(st.lists(st.floats(0, 10), min_size=10, max_size=30), st.integers(0, 2**32 - 1))
def test_auroc_is_the_share_of_pairs_in_the_right_order(values: list[float], seed: int) -> None:
    positive = np.random.default_rng(seed).random(len(values)) < 0.5
    positive[:2] = True, False
    array = np.array(values)
    pairs = [(a > b) + 0.5 * (a == b) for a in array[positive] for b in array[~positive]]
    found = score(auroc(array, positive), len(values))
    assert found.value == pytest.approx(2 * np.mean(pairs) - 1, abs=1e-5)


def test_a_statistic_that_cannot_be_told_gives_no_score_and_says_so() -> None:
    found = cell("none", auroc(np.arange(12.0), np.ones(12, bool)), 12)
    assert found.score is None
    assert "undefined" in found.note


@pytest.mark.parametrize(("undefined", "told"), [(0.01, True), (0.4, False)])
def test_draws_in_which_nothing_can_be_told_widen_the_interval_at_both_ends(undefined: float, told: bool) -> None:
    def statistic(weights: np.ndarray) -> np.ndarray:
        found = np.linspace(-0.9, -0.5, len(weights))
        found[: int(undefined * len(weights))] = np.nan
        return found

    found = score(statistic, 12)
    assert (found.low > -1, found.high < 0) == (told, told)
    assert found.surely == -np.inf


def test_draws_are_the_same_scenes_for_every_model() -> None:
    rng = np.random.default_rng(0)
    floor = rng.gamma(2.0, 1.0, 50)
    ours, theirs = (score(skill(floor * share, floor, np.zeros(50)), 50) for share in (0.2, 0.3))
    apart = np.asarray(ours.draws) - np.asarray(theirs.draws)
    assert np.allclose(apart, 0.1)


def test_too_few_scenes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 10 scenes for an interval, got 9"):
        score(accuracy(np.ones(9)), 9)


def test_the_chance_of_a_score_at_most_a_half_is_small_only_where_it_is_surely_more() -> None:
    assert score(accuracy(np.ones(30)), 30).p_half == pytest.approx(1 / 2001, abs=1e-6)
    assert score(accuracy(np.r_[np.ones(22), np.zeros(8)]), 30).p_half > 0.3


def test_what_is_not_a_number_is_worse_than_a_gated_floor() -> None:
    lost = skill_cell("still", np.full(20, np.nan), np.full(20, 0.01), marginal=1.0)
    assert lost.score is None
    assert lost.note.endswith("worse")
