"""Plot of an episode: a filmstrip per camera and a panel per signal, over a common time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from matplotlib.figure import Figure

from worldline.plots.canvas import Canvas, Dashes, Frames, drawing, palette, plot, shorten
from worldline.plots.panels import SignalPanel, Style, TimeAxis, tick_texts
from worldline.plots.thumbnails import draw_frame, drawn_size
from worldline.schema import Role

MAX_FRAMES: Final = 14
"""Largest number of frames of a filmstrip."""
ROLES: Final = {
    Role.OBSERVATION: "observations",
    Role.ACTION: "actions",
    Role.EXOGENOUS: "exogenous inputs",
    Role.REWARD: "rewards",
}
_DASHES: Final[Mapping[Style, Dashes]] = {"line": "-", "dashed": "--", "faint": "-", "points": "-"}
_STROKES: Final[Mapping[Style, tuple[float, float]]] = {
    "line": (1.4, 1.0),
    "dashed": (1.4, 1.0),
    "faint": (0.7, 0.3),
    "points": (3.0, 1.0),
}
"""Width and opacity of the curves."""
_WIDTH: Final = 1120.0
_LEFT: Final = 84.0
_LEGEND: Final = 136.0
_AXIS_WIDTH: Final = _WIDTH - _LEFT - _LEGEND
_MARGIN: Final = 28.0
_BOX: Final = (132, 88)
_GAP: Final = 4.0
_PANEL: Final = 84.0
_LEADERS: Final = 16.0
_MAX_STRAIGHT_OFFSET: Final = 5.0
"""Largest distance of a frame from its time, in pixels, at which their leader is vertical."""


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
    widths = [drawn_size(shape, _BOX)[0] for shape in shapes]
    return max(1, min([MAX_FRAMES, *(int((_AXIS_WIDTH + _GAP) / (width + _GAP)) for width in widths)]))


def episode_plot(view: EpisodeView) -> bytes:
    """The episode as PNG; deterministic."""
    return _drawn(view).png()


def episode_figure(view: EpisodeView) -> Figure:
    """The episode as a figure of matplotlib."""
    return _drawn(view).figure


def _heading(panel: SignalPanel) -> str:
    return panel.heading or ROLES[panel.signal.role]


def _drawn(view: EpisodeView) -> Canvas:
    roles = len({_heading(panel) for panel in view.panels})
    strips = [18 + drawn_size(strip.shape, _BOX)[1] + 10 for strip in view.strips]
    films = sum(strips) + _LEADERS + 4 if strips else 0.0
    height = 84 + films + 22 + roles * 26 + len(view.panels) * (_PANEL + 34) + 46 + 15 * len(view.notes)
    with drawing(_WIDTH, height) as canvas:
        canvas.text(_MARGIN, 46, shorten(view.title, 80), size=17, bold=True)
        canvas.text(_MARGIN, 66, shorten(view.subtitle, 170), size=9.5, color="soft")
        top = 84.0
        for strip, strip_height in zip(view.strips, strips, strict=True):
            _draw_strip(canvas, top, strip)
            top += strip_height
        if strips:
            _draw_leaders(canvas, top - 8, view)
            top += _LEADERS + 4
        top = _draw_time(canvas, top, view.axis) + 4
        for heading, panels in groupby(view.panels, _heading):
            canvas.line([(_MARGIN, top), (_WIDTH - _MARGIN, top)], color="ink", width=0.8)
            canvas.text(_MARGIN, top + 15, heading, size=9, color="soft", bold=True)
            top += 26
            for panel in panels:
                _draw_panel(canvas, top, panel, view.axis)
                top += _PANEL + 34
        top = _draw_time(canvas, top - 10, view.axis)
        for k, note in enumerate(view.notes):
            canvas.text(_MARGIN, top + 24 + 15 * k, shorten(note, 175), size=8.5, color="soft")
        return canvas


def _across(axis: TimeAxis, time: float) -> float:
    """The x coordinate of a time."""
    return _LEFT + _AXIS_WIDTH * time / axis.span[1]


def _draw_strip(canvas: Canvas, top: float, strip: Strip) -> None:
    """The name of the camera and its frames, evenly spaced."""
    width, _ = drawn_size(strip.shape, _BOX)
    canvas.text(_LEFT, top + 10, shorten(strip.name, 60), size=9.5, bold=True)
    for k, frame in enumerate(strip.frames):
        x = _LEFT + _AXIS_WIDTH * (k + 0.5) / len(strip.frames) - width / 2
        draw_frame(canvas, x, top + 18, frame, strip.shape, _BOX)


def _draw_leaders(canvas: Canvas, top: float, view: EpisodeView) -> None:
    """Lines from the middle of each frame to its time on the axis below."""
    for k, moment in enumerate(view.moments):
        frame = _LEFT + _AXIS_WIDTH * (k + 0.5) / len(view.moments)
        time = _across(view.axis, float(view.axis.times[moment]))
        frame = time if abs(frame - time) < _MAX_STRAIGHT_OFFSET else frame
        bends = [(frame, top), (frame, top + 3), (time, top + _LEADERS + 3), (time, top + _LEADERS + 8)]
        canvas.line(bends, color="soft")


def _draw_time(canvas: Canvas, top: float, axis: TimeAxis) -> float:
    """Draws the time axis with its title on the right; returns its lower end."""
    for time, text in zip(axis.ticks, tick_texts(axis.ticks), strict=True):
        canvas.text(_across(axis, time), top + 12, text, size=8, color="soft", align="center")
    canvas.text(_LEFT + _AXIS_WIDTH + 22, top + 12, axis.label, size=8, color="soft")
    return top + 18


def _draw_panel(canvas: Canvas, top: float, panel: SignalPanel, axis: TimeAxis) -> None:
    """Draws one signal: title, curves over a grid, missing intervals, and names of the components."""
    canvas.text(_LEFT, top + 9, shorten(panel.title, 70), size=9.5, bold=True)
    canvas.text(_LEFT + _AXIS_WIDTH, top + 9, panel.note, size=8, color="soft", align="right")
    y, colours = top + 18, palette()
    axes = canvas.axes(_LEFT, y, _AXIS_WIDTH, _PANEL, axis.span, (panel.ticks[0], panel.ticks[-1]))
    for time in axis.ticks:
        axes.axvline(time, color=colours["grid"], linewidth=0.6, zorder=0)
    for tick, text in zip(panel.ticks, panel.tick_texts, strict=True):
        axes.axhline(tick, color=colours["grid"], linewidth=1.0, zorder=0)
        height = y + _PANEL * (panel.ticks[-1] - tick) / (panel.ticks[-1] - panel.ticks[0])
        canvas.text(_LEFT - 8, height + 3, text, size=8, color="soft", align="right")
    for stretch in panel.missing:
        axes.axvspan(stretch.start, stretch.stop, color=colours["unclear"], alpha=0.14, linewidth=0, zorder=0.5)
    for curve in reversed(panel.curves):
        if curve.low.size:
            axes.fill_between(curve.x, curve.low, curve.high, color=colours[curve.colour], alpha=0.2, linewidth=0)
        width, alpha = _STROKES[curve.style]
        plot(axes, curve.x, curve.y, color=curve.colour, width=width, dashes=_DASHES[curve.style], alpha=alpha)
    named = [curve for curve in panel.curves if curve.label]
    if len(named) > 1:
        for k, curve in enumerate(named):
            x, middle = _LEFT + _AXIS_WIDTH + 14, y + 5 + k * 11.5
            key = [(x, middle), (x + 14, middle)]
            canvas.line(key, color=curve.colour, width=2.0, dashes=_DASHES[curve.style])
            canvas.text(x + 20, middle + 3, shorten(curve.label, 15), size=8)
