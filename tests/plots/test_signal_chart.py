from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worldline.plots.signal_chart import MAX_CURVES, MAX_POINTS, envelope_note, signal_chart, time_axis
from worldline.plots.ticks import tick_texts
from worldline.schema import Kind, Role, Signal

HEIGHT = Signal(name="height", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
GEAR = Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=4)
PUSH = Signal(
    name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), unit="N", components=("left", "right"), low=None
)


def all_seen(rows: int) -> np.ndarray:
    return np.ones(rows, bool)


@pytest.mark.parametrize(
    ("steps", "step_s", "unit", "last"),
    [
        (10, None, "", 10.0),
        (10, 0.5, "s", 5.0),
        (60, 60.0, "min", 60.0),
        (48, 1800.0, "h", 24.0),
        (10, 86400.0, "d", 10),
    ],
)
def test_time_has_a_readable_unit(steps: int, step_s: float | None, unit: str, last: float) -> None:
    axis = time_axis(steps, step_s)
    assert (axis.unit, axis.times[0], axis.times[-1]) == (unit, 0.0, last)
    assert len(axis.times) == steps + 1


def test_steps_may_vary() -> None:
    axis = time_axis(3, np.array([1.0, 0.5, 2.0], np.float32))
    assert axis.times.tolist() == [0.0, 1.0, 1.5, 3.5]
    assert axis.text(2) == "1.5\u00a0s"
    assert axis.label == "time [s]"


def test_an_action_holds_for_its_step() -> None:
    values = np.array([[1.0, 0.0], [1.0, 5.0], [3.0, 5.0]], np.float32)
    right, left = signal_chart(PUSH, values, all_seen(3), time_axis(3, None)).lines
    assert (left.label, right.label) == ("left", "right")
    assert list(zip(left.x, left.y, strict=True)) == [(0, 1), (2, 1), (2, 3), (3, 3)]
    assert list(zip(right.x, right.y, strict=True)) == [(0, 0), (1, 0), (1, 5), (3, 5)]


def test_a_discrete_observation_holds_until_the_next() -> None:
    panel = signal_chart(GEAR, np.array([0, 3, 3]), all_seen(3), time_axis(2, None))
    (curve,) = panel.lines
    assert list(zip(curve.x, curve.y, strict=True)) == [(0, 0), (1, 0), (1, 3), (2, 3)]
    assert all(tick == int(tick) for tick in panel.y_ticks)


def test_what_is_missing_is_a_gap() -> None:
    observed = np.array([True, False, False, True, True])
    panel = signal_chart(HEIGHT, np.arange(5.0)[:, None], observed, time_axis(4, None))
    assert np.isnan(panel.lines[0].y).tolist() == (~observed).tolist()
    assert panel.gaps == [(0.5, 2.5)]
    assert panel.aside == "40.0\u00a0% missing"
    least, _, greatest = panel.lines[0].extent
    assert (least, greatest) == (0, 4)


def test_only_the_first_components_of_a_wide_vector_are_drawn() -> None:
    wide = Signal(name="lidar", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(40,))
    panel = signal_chart(wide, np.zeros((3, 40)), all_seen(3), time_axis(2, None))
    assert len(panel.lines) == MAX_CURVES
    assert panel.aside == f"first {MAX_CURVES} of 40 components"
    assert [curve.label for curve in panel.lines[::-1]][:2] == ["0", "1"]


def test_a_long_episode_becomes_an_envelope_that_misses_no_spike() -> None:
    values = np.zeros((5001, 1), np.float32)
    values[1234], values[4000] = 9, -7
    panel = signal_chart(HEIGHT, values, all_seen(5001), time_axis(5000, None))
    (curve,) = panel.lines
    assert len(curve.x) <= MAX_POINTS
    assert curve.low.min() == -7
    assert curve.high.max() == 9
    assert (curve.low <= curve.y).all()
    assert (curve.y <= curve.high).all()
    assert "13\u00a0steps" in envelope_note(5001)
    assert envelope_note(MAX_POINTS) == ""


def test_a_long_episode_of_few_changes_stays_exact() -> None:
    values = np.zeros(5000, np.int64)
    values[1234:] = 2
    (curve,) = signal_chart(GEAR, np.append(values, 2), all_seen(5001), time_axis(5000, None)).lines
    assert list(zip(curve.x, curve.y, strict=True)) == [(0, 0), (1234, 0), (1234, 2), (5000, 2)]
    assert not len(curve.low)


@given(
    arrays.arrays(np.float64, st.integers(1, 1500), elements=st.floats(allow_nan=False)),
    st.sampled_from([Role.OBSERVATION, Role.ACTION]),
    st.randoms(use_true_random=False),
)
def test_every_curve_lies_within_its_ticks(values: np.ndarray, role: Role, random: object) -> None:
    signal = Signal(name="x", role=role, kind=Kind.VECTOR, shape=(1,), precision="float64")
    steps = len(values) - (role is Role.OBSERVATION)
    observed = np.array([random.random() < 0.8 for _ in values]) if role is Role.OBSERVATION else all_seen(len(values))  # type: ignore[attr-defined]
    panel = signal_chart(signal, values[:, None], observed, time_axis(steps, 0.1))
    assert list(panel.y_ticks) == sorted(set(panel.y_ticks))
    assert len(panel.y_marks) == len(panel.y_ticks)
    known = np.concatenate([part[np.isfinite(part)] for one in panel.lines for part in (one.y, one.low, one.high)])
    slack = 1e-6 * (panel.y_ticks[-1] / 2 - panel.y_ticks[0] / 2)
    assert (known >= panel.y_ticks[0] - slack).all()
    assert (known <= panel.y_ticks[-1] + slack).all()
    assert len(panel.lines[0].x) <= 2 * MAX_POINTS


def test_numbers_on_an_axis_are_told_apart() -> None:
    assert tick_texts([0.0, 0.5, 1.0]) == ["0", "0.5", "1"]
    assert tick_texts([0.0, 1e-7]) == ["0", "1e−7"]
    assert tick_texts([-2.5e-6, 0.0, 2.5e-6, 5e-6]) == ["−2.5e−6", "0", "2.5e−6", "5.0e−6"]
    texts = tick_texts([1.7e9, 1.7e9 + 1, 1.7e9 + 2])
    assert len(set(texts)) == 3


@pytest.mark.parametrize("values", [(0, 3, 1), (3, 3, 3), (0, 2, 2)])
def test_the_values_of_a_choice_are_called_by_their_names(values: tuple[int, ...]) -> None:
    named = replace(GEAR, components=("park", "back", "idle", "drive"))
    panel = signal_chart(named, np.array(values), all_seen(3), time_axis(2, None))
    assert [curve.label for curve in panel.lines] == ["gear"]
    known = dict(enumerate(named.components))
    assert list(panel.tick_texts) == [known.get(round(tick), "") for tick in panel.y_ticks]
    assert all(known[value] in panel.tick_texts for value in (min(values), max(values)))
