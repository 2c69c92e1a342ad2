from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from worldline.plots.charts import LineChart
from worldline.plots.figure import EpisodeView, Strip, episode_figure, num_frames, palette
from worldline.plots.signal_chart import signal_chart, time_axis
from worldline.schema import Kind, Role, Signal

AXIS = time_axis(4, 0.5)


def panel(values: list[float], observed: list[bool] | None = None, role: Role = Role.OBSERVATION) -> LineChart:
    signal = Signal(name="height", role=role, kind=Kind.VECTOR, shape=(1,), unit="m")
    mask = np.ones(len(values), bool) if observed is None else np.array(observed)
    return signal_chart(signal, np.array(values)[:, None], mask, AXIS)


def view(*panels: LineChart, strips: tuple[Strip, ...] = (), moments: tuple[int, ...] = ()) -> EpisodeView:
    return EpisodeView(
        title="Episode 3",
        subtitle="4 steps",
        axis=AXIS,
        moments=moments,
        strips=strips,
        charts=panels,
        notes=("a note",),
    )


def test_what_is_missing_is_a_gap_and_a_lone_point_is_a_dot() -> None:
    (axes,) = episode_figure(view(panel([0, 0, 0, 0, 0], [True, True, False, True, False]))).axes
    curve, dots = axes.lines
    assert np.isnan(curve.get_ydata()).tolist() == [False, False, True, False, True]
    assert dots.get_xdata().tolist() == [AXIS.times[3]]
    assert len(axes.patches) == 2


def test_frames_stand_above_their_times() -> None:
    red = np.full((8, 8, 3), (250, 0, 0), np.uint8)
    strip = Strip(name="eye", shape=(8, 8, 3), frames=[None, red, None])
    axes, _ = episode_figure(view(panel([0, 0, 0, 0, 0]), strips=(strip,), moments=(0, 2, 4))).axes
    across = np.flatnonzero((np.asarray(axes.images[0].get_array()) == [250, 0, 0]).all(-1).any(0))
    assert axes.get_xticks()[1] == (across[0] + across[-1] + 1) / 2
    texts = [tick.get_text().replace("\u00a0", " ") for tick in axes.get_xticklabels()]
    assert texts == ["0 s\nmissing", "1 s", "2 s\nmissing"]


def test_wide_frames_are_fewer_and_all_cameras_show_the_same_moments() -> None:
    assert num_frames([(8, 8, 3)]) > num_frames([(9, 16, 3)]) >= 5
    assert num_frames([(8, 8, 3), (9, 16, 3)]) == num_frames([(9, 16, 3)])
    assert num_frames([(1, 5000, 3)]) == 7


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 4), (3, 400, 3), (700, 11, 1)])
def test_any_frame_can_be_drawn_and_always_the_same(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    one = view(strips=(Strip(name="eye", shape=shape, frames=[frame]),), moments=(0,))
    first = episode_figure(one).png()
    with mpl.rc_context({"font.size": 30, "text.antialiased": False, "figure.facecolor": "red", "lines.linewidth": 9}):
        assert episode_figure(one).png() == first


def test_a_name_may_hold_anything() -> None:
    name = "x_$frac{1}$ 日本\n<b>" + "y" * 200
    odd = Signal(name=name, role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2)
    assert episode_figure(view(signal_chart(odd, np.array([0, 1, 1, 0]), np.ones(4, bool), AXIS))).png()


def test_the_colours_are_those_of_the_report_on_paper() -> None:
    assert palette()["paper"] == "#fcfbf8"
    assert {"ink", "soft", "grid", "world", "real", "unclear", "other0", "other5"} <= palette().keys()
