"""Charts and images as a figure of matplotlib, without its global state: no current figure, and no user settings."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.images import Frames, fitted, thumbnail
from worldline.plots.signal_chart import TimeAxis
from worldline.plots.ticks import tick_texts

SETTINGS: Final[list[Any]] = [
    "default",
    {"text.parse_math": False, "font.family": ["DejaVu Sans"], "font.size": 8.5, "axes.titlesize": "medium"},
]
"""For `matplotlib.style.context`: plots are the same on every machine."""
MAX_FRAMES: Final = 14
"""Largest number of frames of a filmstrip."""
_DPI: Final = 144
_STROKES: Final = {"line": ("-", 1.4, 1.0), "dashed": ("--", 1.4, 1.0), "faint": ("-", 0.7, 0.3), "points": (" ", 3, 1)}
"""Line style, width and opacity of the curves."""
_WIDTH: Final = 12.0
_ROW: Final = 1.7
"""Height of a strip or chart with its title, inches."""
_TOP, _BOTTOM = 0.9, 0.7
_BOX: Final = (260, 180)
"""Largest width and height of a frame, pixels."""
_STRIP_PIXELS: Final = 1840
"""Width of a filmstrip."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Frames of one camera.

    Args:
        name: name of the signal.
        shape: shape of a frame: height, width, channels.
        frames: uint8 [height, width, channels], one per moment; None for missing frames.
    """

    name: str
    shape: tuple[int, ...]
    frames: Sequence[Frames | None]


@dataclass(frozen=True, kw_only=True)
class EpisodeView:
    """Content of the plot or page of an episode.

    Args:
        title: title of the episode.
        subtitle: length and ending, in one line.
        axis: time axis.
        moments: observations in the strips, increasing; empty without a camera.
        strips: one per camera.
        charts: one per signal, grouped by heading.
        notes: notes at the bottom.
    """

    title: str
    subtitle: str
    axis: TimeAxis
    moments: Sequence[int]
    strips: Sequence[Strip]
    charts: Sequence[LineChart]
    notes: Sequence[str] = ()


@cache
def palette() -> Mapping[str, str]:
    """The colours of the report in light mode, by name."""
    text = resources.files("worldline.plots").joinpath("colours.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text.partition("@media")[0]))


class PlotFigure(Figure):
    """A figure that notebooks show.

    Args:
        width: in inches.
        height: in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__((width, height), dpi=_DPI, facecolor=palette()["paper"])
        FigureCanvasAgg(self)  # the figure keeps a reference

    def png(self) -> bytes:
        """The figure as PNG; deterministic."""
        buffer = io.BytesIO()
        with style.context(SETTINGS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a square replaces the character
            self.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """For IPython."""
        return self.png()


def num_frames(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of frames that fit side by side, for cameras with these shapes (height, width, channels)."""
    widths = [fitted(shape, *_BOX)[0] for shape in shapes]
    return max(1, min([MAX_FRAMES, *(_STRIP_PIXELS // width for width in widths)]))


def episode_figure(view: EpisodeView) -> PlotFigure:
    """A filmstrip per camera and a chart per signal over a common time axis; its PNG is deterministic."""
    count = len(view.strips) + len(view.charts)
    height = _TOP + _ROW * count + _BOTTOM
    with style.context(SETTINGS):
        figure = PlotFigure(_WIDTH, height)
        figure.text(0.03, 1 - 0.35 / height, view.title, fontsize=17, weight="bold")
        figure.text(0.03, 1 - 0.58 / height, view.subtitle, color=palette()["soft"])
        figure.text(0.03, 0.12 / height, "  ".join(view.notes), color=palette()["soft"])
        margins = {"top": 1 - _TOP / height, "bottom": _BOTTOM / height, "left": 0.08, "right": 0.86, "hspace": 0.55}
        rows = list(figure.subplots(count, 1, squeeze=False, gridspec_kw=margins)[:, 0]) if count else []
        for axes, strip in zip(rows, view.strips, strict=False):
            _draw_strip(axes, strip, [view.axis.text(moment) for moment in view.moments])
        before = ""
        for axes, chart in zip(rows[len(view.strips) :], view.charts, strict=True):
            _draw_chart(axes, chart, view.axis, chart.heading if chart.heading != before else "")
            before = chart.heading
        if view.charts:
            rows[-1].set_xlabel(view.axis.label)
    return figure


def _draw_strip(axes: Axes, strip: Strip, times: Sequence[str]) -> None:
    """The frames side by side, with the times below them; a missing frame is grey."""
    width, height = fitted(strip.shape, *_BOX)
    tiles, gap = [], max(1, width // 12)
    for frame in strip.frames:
        tile = np.full((height, width, 3), 230, np.uint8) if frame is None else thumbnail(frame, *_BOX)
        tiles.append(np.pad(tile, ((0, 0), (0, gap), (0, 0)), constant_values=255))
    axes.imshow(np.concatenate(tiles, 1))
    axes.set_anchor("W")
    axes.set_title(strip.name, loc="left", weight="bold")
    texts = [f"{time}\nmissing" if frame is None else time for time, frame in zip(times, strip.frames, strict=True)]
    axes.set_xticks([(width + gap) * k + width / 2 for k in range(len(texts))], texts)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_chart(axes: Axes, chart: LineChart, time: TimeAxis, heading: str) -> None:
    """One signal: title, curves over a grid, missing intervals, and names of the components."""
    colours = palette()
    axes.set_title(chart.title, loc="left", weight="bold")
    axes.set_title(heading, loc="center", color=colours["soft"])
    axes.set_title(chart.aside, loc="right", color=colours["soft"])
    axes.set_facecolor(colours["paper"])
    axes.set_yscale("log" if chart.log else "linear")
    axes.set_xlim(*time.span)
    axes.set_ylim(*chart.plane.y)
    axes.set_xticks(time.ticks, tick_texts(time.ticks))
    axes.set_yticks(*zip(*chart.y_marks, strict=True))
    axes.minorticks_off()
    axes.grid(color=colours["grid"])
    axes.tick_params(length=0, labelcolor=colours["soft"])
    axes.spines[:].set_visible(False)
    for start, stop in chart.gaps:
        axes.axvspan(start, stop, color=colours["unclear"], alpha=0.14, linewidth=0)
    for line in chart.lines:
        _draw_line(axes, line)
    handles = [line for line in reversed(axes.lines) if not str(line.get_label()).startswith("_")]
    if len(handles) > 1:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.05), frameon=False)


def _draw_line(axes: Axes, line: ChartLine) -> None:
    """A curve with its band; NaN leaves a gap, and an isolated point is a dot."""
    colour, (dashes, width, alpha) = palette()[line.style], _STROKES[line.drawn]
    x, y = np.asarray(line.x), np.asarray(line.y)
    if len(line.low):
        axes.fill_between(x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    label = line.label or None
    axes.plot(x, y, dashes, color=colour, linewidth=width, alpha=alpha, label=label, clip_on=False)
    known = np.pad(np.isfinite(y), 1)
    lone = known[1:-1] if line.drawn == "points" else known[1:-1] & ~known[:-2] & ~known[2:]
    axes.plot(x[lone], y[lone], ".", color=colour, markersize=2.4 * width, alpha=alpha, clip_on=False)
