"""Plot of an episode: a filmstrip per camera and a panel per signal, over a common time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes

from worldline.plots.figure import SETTINGS, PlotFigure, palette
from worldline.plots.panels import SignalCurve, SignalPanel, Style, TimeAxis, tick_texts
from worldline.plots.thumbnails import Frames, fitted, thumbnail
from worldline.schema import Role

MAX_FRAMES: Final = 14
"""Largest number of frames of a filmstrip."""
ROLES: Final = {
    Role.OBSERVATION: "observations",
    Role.ACTION: "actions",
    Role.EXOGENOUS: "exogenous inputs",
    Role.REWARD: "rewards",
}
_STROKES: Final[Mapping[Style, tuple[Literal["-", "--"], float, float]]] = {
    "line": ("-", 1.4, 1.0),
    "dashed": ("--", 1.4, 1.0),
    "faint": ("-", 0.7, 0.3),
    "points": ("-", 3.0, 1.0),
}
"""Line style, width and opacity of the curves."""
_WIDTH: Final = 12.0
_ROW: Final = 1.7
"""Height of a strip or panel with its title, inches."""
_TOP, _BOTTOM = 0.9, 0.7
_BOX: Final = (260, 180)
"""Largest width and height of a frame, pixels."""
_STRIP_PIXELS: Final = 1840
"""Width of a filmstrip."""
_MAX_TEXT: Final = 70


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
        panels: one per signal, grouped by role.
        notes: notes at the bottom.
    """

    title: str
    subtitle: str
    axis: TimeAxis
    moments: Sequence[int]
    strips: Sequence[Strip]
    panels: Sequence[SignalPanel]
    notes: Sequence[str] = ()


def num_frames(shapes: Sequence[tuple[int, ...]]) -> int:
    """Number of frames that fit side by side, for cameras with these shapes (height, width, channels)."""
    widths = [fitted(shape, *_BOX)[0] for shape in shapes]
    return max(1, min([MAX_FRAMES, *(_STRIP_PIXELS // width for width in widths)]))


def episode_figure(view: EpisodeView) -> PlotFigure:
    """The episode as a figure of matplotlib; its PNG is deterministic."""
    count = len(view.strips) + len(view.panels)
    height = _TOP + _ROW * count + _BOTTOM
    with style.context(SETTINGS):
        figure = PlotFigure(_WIDTH, height)
        figure.text(0.03, 1 - 0.35 / height, _shortened(view.title), fontsize=17, weight="bold")
        figure.text(0.03, 1 - 0.58 / height, _shortened(view.subtitle), color=palette()["soft"])
        figure.text(0.03, 0.12 / height, "  ".join(view.notes), color=palette()["soft"])
        margins = {"top": 1 - _TOP / height, "bottom": _BOTTOM / height, "left": 0.08, "right": 0.86, "hspace": 0.55}
        rows: list[Axes] = []
        if count:
            rows = list(figure.subplots(count, 1, squeeze=False, gridspec_kw=margins)[:, 0])
        for axes, strip in zip(rows, view.strips, strict=False):
            _draw_strip(axes, strip, [view.axis.text(moment) for moment in view.moments])
        heading = ""
        for axes, panel in zip(rows[len(view.strips) :], view.panels, strict=True):
            before, heading = heading, panel.heading or ROLES[panel.signal.role]
            _draw_panel(axes, panel, view.axis, heading if heading != before else "")
        if view.panels:
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
    axes.set_title(_shortened(strip.name), loc="left", weight="bold")
    texts = [f"{time}\nmissing" if frame is None else time for time, frame in zip(times, strip.frames, strict=True)]
    axes.set_xticks([(width + gap) * k + width / 2 for k in range(len(texts))], texts)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_panel(axes: Axes, panel: SignalPanel, time: TimeAxis, heading: str) -> None:
    """One signal: title, curves over a grid, missing intervals, and names of the components."""
    colours = palette()
    axes.set_title(_shortened(panel.title), loc="left", weight="bold")
    axes.set_title(heading, loc="center", color=colours["soft"])
    axes.set_title(panel.note, loc="right", color=colours["soft"])
    axes.set_facecolor(colours["paper"])
    axes.set_xlim(*time.span)
    axes.set_ylim(panel.ticks[0], panel.ticks[-1])
    axes.set_xticks(time.ticks, tick_texts(time.ticks))
    axes.set_yticks(panel.ticks, panel.tick_texts)
    axes.grid(color=colours["grid"])
    axes.tick_params(length=0, labelcolor=colours["soft"])
    axes.spines[:].set_visible(False)
    for stretch in panel.missing:
        axes.axvspan(stretch.start, stretch.stop, color=colours["unclear"], alpha=0.14, linewidth=0)
    for curve in reversed(panel.curves):
        _draw_curve(axes, curve)
    handles = [line for line in reversed(axes.lines) if not str(line.get_label()).startswith("_")]
    if len(handles) > 1:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.05), frameon=False)


def _draw_curve(axes: Axes, curve: SignalCurve) -> None:
    """A curve with its band; NaN leaves a gap, and an isolated point is a dot."""
    colour, (dashes, width, alpha) = palette()[curve.colour], _STROKES[curve.style]
    if curve.low.size:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    label = _shortened(curve.label) if curve.label else None
    axes.plot(curve.x, curve.y, dashes, color=colour, linewidth=width, alpha=alpha, label=label, clip_on=False)
    known = np.pad(np.isfinite(curve.y), 1)
    lone = known[1:-1] & ~known[:-2] & ~known[2:]
    axes.plot(curve.x[lone], curve.y[lone], ".", color=colour, markersize=2.4 * width, alpha=alpha, clip_on=False)


def _shortened(text: str) -> str:
    """The text, shortened in the middle if it is too long."""
    if len(text) <= _MAX_TEXT:
        return text
    tail = _MAX_TEXT // 3
    return f"{text[: _MAX_TEXT - 1 - tail]}…{text[-tail:]}"
