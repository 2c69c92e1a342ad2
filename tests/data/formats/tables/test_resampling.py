import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.data.formats.tables.episode_arrays import SLACK, grid_times, resample, summed
from worldline.data.formats.tables.layout import refresh_period, repeats


def slow_resample(times, values, observed, grid):
    """One time after another, one sample after another."""
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    samples = [(t, v) for t, v, known in zip(times, values, observed, strict=True) if known]
    result, seen = [], []
    for g in grid:
        past = [v for t, v in samples if t <= g + SLACK * step]
        result.append(past[-1] if past else samples[0][1])
        seen.append(any(g - step + SLACK * step < t <= g + SLACK * step for t, _ in samples))
    return result, seen


@given(data=st.data())
def test_resampling_equals_a_slow_reference(data):
    ticks = data.draw(st.lists(st.integers(0, 400), min_size=1, max_size=25, unique=True).map(sorted))
    times = np.array(ticks) / 16
    values = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=len(ticks), max_size=len(ticks))))
    observed = np.array(data.draw(st.lists(st.booleans(), min_size=len(ticks), max_size=len(ticks))))
    observed[data.draw(st.integers(0, len(ticks) - 1))] = True
    start, step = data.draw(st.integers(0, 300)) / 16, data.draw(st.integers(1, 40)) / 16
    grid = start + step * np.arange(data.draw(st.integers(2, 12)))
    found, is_seen = resample(times, values, observed, grid)
    expected, seen = slow_resample(times, values, observed, grid)
    assert (found.tolist(), is_seen.tolist()) == (expected, seen)


@given(step=st.sampled_from([0.1, 1 / 30, 1 / 3, 0.007]), num=st.integers(2, 200), digits=st.sampled_from([3, 6]))
def test_a_grid_at_the_rate_of_the_samples_gives_back_each_of_them(step, num, digits):
    times = np.round(5 + step * np.arange(num), digits)  # as clocks are written
    grid = grid_times(times[0], times[-1], 1 / step)
    assert len(grid) == num or digits == 3
    values = np.arange(num)[:, None] / 7
    found, seen = resample(times, values, np.ones(num, np.bool_), grid)
    if np.abs(times[: len(grid)] - grid).max() < SLACK * step:
        np.testing.assert_array_equal(found, values[: len(grid)])
        assert seen.all()


@given(num=st.integers(1, 40), ratio=st.integers(1, 7), start=st.integers(0, 5))
def test_sums_keep_the_total(num, ratio, start):
    times, values = np.arange(num) / 8, np.arange(num) + 1.0
    grid = (np.arange(20) * ratio + start) / 8
    inside = (times >= grid[0]) & (times < grid[-1])
    found = summed(times, values, grid)
    assert (len(found), found.sum()) == (19, values[inside].sum())
    assert summed(times, values, times if num > 1 else grid).tolist()[: num - 1] == values[:-1].tolist() or num == 1


def period_of(*columns):
    return refresh_period(columns)


@given(
    seed=st.integers(0, 2**32 - 1), period=st.integers(2, 30), phase=st.integers(0, 29),
    readings=st.integers(12, 60), digits=st.sampled_from([None, 2]),
)  # fmt: skip
def test_a_slow_sensor_is_found(seed, period, phase, readings, digits):
    values = np.random.default_rng(seed).normal(size=readings)
    values = values if digits is None else np.round(values, digits)
    column = np.repeat(values, period)[phase % period :]
    assert period_of(column) == period
    masked = repeats(column, np.zeros(len(column), np.bool_))
    assert masked.tolist() == [False, *(column[1:] == column[:-1]).tolist()]


NOT_SLOW = {
    "quantised walk": lambda draw: np.round(np.cumsum(draw.normal(0, 0.3, 400)), 0) * 0.1,
    "fresh": lambda draw: draw.normal(size=400),
    "constant": lambda draw: np.full(400, draw.normal()),
    "irregular": lambda draw: np.repeat(draw.normal(size=60), draw.integers(1, 9, 60)),
    "too short": lambda draw: np.repeat(draw.normal(size=5), 4),
}


@given(seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("name", NOT_SLOW)
def test_what_only_looks_slow_is_left_alone(name, seed):
    draw, make = np.random.default_rng(seed), NOT_SLOW[name]
    assert period_of(make(draw)) is None
    assert period_of(make(draw), make(draw)) is None or name == "too short"
