from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from worldline.schema import Kind, Role, Signal
from worldline.stats import (
    cluster_rate,
    cluster_sums,
    curve,
    draw_clusters,
    ratio,
    rmse_curve,
    simultaneous_intervals,
    skill_curve,
    student_quantile,
    wilson,
)


def test_copies_within_a_cluster_count_once() -> None:
    once = np.random.default_rng(0).random(200) < 0.7
    clustered = cluster_rate(np.repeat(once, 10), np.repeat(np.arange(200), 10))
    plain = cluster_rate(once, np.arange(200))
    assert (clustered.low, clustered.high) == pytest.approx((plain.low, plain.high), abs=1e-3)
    assert clustered.trials == 2000


def test_where_all_hit_a_cluster_counts_as_one_trial() -> None:
    rate = cluster_rate(np.ones(100, bool), np.repeat(np.arange(10), 10))
    assert rate.low == pytest.approx(wilson(10, 10).low)
    assert rate.high == 1


def test_cluster_sums_and_draws() -> None:
    values = np.arange(12.0).reshape(6, 2)
    sums = cluster_sums(values, np.array([0, 0, 1, 1, 1, 2]), 3)
    np.testing.assert_array_equal(sums, [[2, 4], [18, 21], [10, 11]])
    draws = draw_clusters(3, seed=1)
    assert draws.shape == (2000, 3)
    assert (draws.sum(1) == 3).all()
    np.testing.assert_array_equal(draws, draw_clusters(3, seed=1))


def test_cluster_sums_take_memory_that_is_linear_in_the_windows() -> None:
    values = np.random.default_rng(0).normal(size=(16_000, 2, 5))
    episode = np.arange(16_000) // 8
    tracemalloc.start()
    try:
        sums = cluster_sums(values, episode, 2_001)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * values.nbytes  # a matrix of windows and episodes takes 200 times as much
    np.testing.assert_allclose(sums[:-1], values.reshape(2_000, 8, 2, 5).sum(1), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(sums[-1], np.zeros((2, 5)))  # an episode without windows


def test_ratio_of_nothing_is_nan_and_stays_nan() -> None:
    np.testing.assert_array_equal(ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0])), [0.5, np.nan])
    found = curve(np.array([1.0, np.nan]), np.array([[0.5, np.nan], [1.5, np.nan]]))
    assert found.low[0] < 1 < found.high[0]
    assert np.isnan([found.value[1], found.low[1], found.high[1]]).all()


def test_errors_and_what_is_saved_of_them() -> None:
    known = np.array([[True, True], [True, False], [True, False]])
    own, theirs = np.array([[4.0, 9.0], [16.0, 0.0], [1.0, 0.0]]), np.array([[16.0, 36.0], [64.0, 0.0], [4.0, 0.0]])
    cluster, weights = np.array([0, 0, 1]), draw_clusters(2, 0)
    rmse = rmse_curve(own, known, cluster, weights)
    assert rmse.value == pytest.approx((np.sqrt(7.0), 3.0))  # what is not known does not count
    assert rmse.low[0] < rmse.value[0] < rmse.high[0]
    saved = skill_curve(own, theirs, known, cluster, weights)
    assert saved is not None
    assert saved.value == pytest.approx((0.5, 0.5))
    assert saved.low[0] == pytest.approx(0.5)  # on the same windows, however these are drawn
    assert skill_curve(own, np.zeros((3, 2)), known, cluster, weights) is None


@pytest.mark.parametrize(("tail", "degrees", "due"), [(0.025, 1.0, 12.7062), (0.0005, 19.0, 3.8834)])
def test_quantiles_of_student_are_those_of_the_tables(tail: float, degrees: float, due: float) -> None:
    assert student_quantile(tail, degrees) == pytest.approx(due, rel=1e-5)


def test_an_angle_is_told_from_its_mean_direction() -> None:
    plain = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    values = np.array([[350.0], [10.0], [30.0]])
    np.testing.assert_allclose(plain.deviations(values)[:, 0], [220, -120, -100])
    round_ = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), period=360.0)
    np.testing.assert_allclose(round_.deviations(values)[:, 0], [-20, 0, 20], atol=1e-9)


def test_simultaneous_intervals_contain_all_true_figures_in_95_percent_of_experiments() -> None:
    rng, num_clusters, count = np.random.default_rng(0), 25, 150
    missed = 0
    for seed in range(count):
        rows = rng.normal(size=(num_clusters, 20))
        weights = np.vstack([np.ones(num_clusters), draw_clusters(num_clusters, seed)[:400]])
        _, low, high = simultaneous_intervals(weights @ rows / num_clusters, num_clusters)
        missed += bool(((low > 0) | (high < 0)).any())
    assert 0.01 < missed / count < 0.09  # separate intervals miss in 64 % of experiments


def test_a_figure_without_a_value_has_no_simultaneous_interval() -> None:
    draws = np.array([[1.0, np.nan], [0.5, np.nan], [1.5, np.nan]])
    _, low, high = simultaneous_intervals(draws, 9)
    assert low[0] < 1 < high[0]
    assert np.isnan([low[1], high[1]]).all()
