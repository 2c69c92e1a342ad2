"""A contact sheet: one row per episode, with a few frames or with small curves of each signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worldline.plots.canvas import Canvas, Frames, drawing, plot, shorten
from worldline.plots.panels import SignalPanel
from worldline.plots.thumbnails import draw_frame, drawn_size

MARGIN: Final = 28.0
LABELS: Final = 138.0
"""Width of the column of headings."""
_GAP: Final = 8.0
_BOX: Final = (112, 112)
"""Largest width and height of an image, in pixels of the drawing."""
_SPARK: Final = (150.0, 46.0)
_MIN_WIDTH: Final = 640.0


@dataclass(frozen=True, kw_only=True)
class SheetFrame:
    """One frame of an episode.

    Args:
        text: time of the frame.
        frame: uint8 [height, width, channels]; None if it was not observed.
    """

    text: str
    frame: Frames | None


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Heading of an episode.

    Args:
        title: title of the episode.
        lines: length and ending, in one or two short lines.
    """

    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reel:
    """Frames of one camera.

    Args:
        name: name of the signal.
        shape: shape of a frame: height, width, channels.
        rows: frames of each episode.
    """

    name: str
    shape: tuple[int, ...]
    rows: Sequence[Sequence[SheetFrame]]


@dataclass(frozen=True, kw_only=True)
class Sparks:
    """Signals as small curves, if there is no camera.

    Args:
        columns: for each signal one panel per episode, with a common range of values.
        span: time span of the longest episode, in its unit.
    """

    columns: Sequence[Sequence[SignalPanel]]
    span: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Content of a contact sheet.

    Args:
        title: title of the sheet.
        subtitle: one line; empty for none.
        rows: heading of each episode.
        reels: one per camera; may be empty.
        sparks: curves if there is no camera; None for none.
        note: note at the bottom; empty for none.
    """

    title: str
    subtitle: str
    rows: Sequence[Heading]
    reels: Sequence[Reel]
    sparks: Sparks | None = None
    note: str = ""


def contact_sheet(sheet: Sheet) -> bytes:
    """The sheet as PNG; deterministic."""
    sizes = [drawn_size(reel.shape, _BOX) for reel in sheet.reels]
    cells = [(max(width, 52.0) + _GAP, max(height, 24.0) + 26) for width, height in sizes]
    wide = [cell[0] * max(map(len, reel.rows), default=0) for reel, cell in zip(sheet.reels, cells, strict=True)]
    high = [30 + cell[1] * len(sheet.rows) + 16 for cell in cells]
    if sheet.sparks is not None:
        wide.append(len(sheet.sparks.columns) * (_SPARK[0] + 3 * _GAP))
        high.append(46 + len(sheet.rows) * (_SPARK[1] + 2 * _GAP) + 16)
    width = max(2 * MARGIN + LABELS + max(wide, default=0.0), _MIN_WIDTH)
    foot = 34.0 if sheet.note else 12.0
    with drawing(width, 84 + sum(high) + foot) as canvas:
        canvas.text(MARGIN, 46, shorten(sheet.title, int(width / 13)), size=17, bold=True)
        canvas.text(MARGIN, 66, shorten(sheet.subtitle, int(width / 6)), size=9.5, color="soft")
        top = 84.0
        for reel, cell in zip(sheet.reels, cells, strict=True):
            _draw_reel(canvas, top, sheet.rows, reel, cell)
            top += 30 + cell[1] * len(sheet.rows) + 16
        if sheet.sparks is not None:
            _draw_sparks(canvas, top, sheet.rows, sheet.sparks)
        if sheet.note:
            canvas.text(MARGIN, canvas.height - 22, shorten(sheet.note, int(width / 5.6)), size=8.5, color="soft")
        return canvas.png()


def _draw_reel(canvas: Canvas, top: float, rows: Sequence[Heading], reel: Reel, cell: tuple[float, float]) -> None:
    """The name of a camera, then a row of frames with times for each episode."""
    canvas.line([(MARGIN, top), (canvas.width - MARGIN, top)], color="ink", width=0.8)
    canvas.text(MARGIN, top + 18, shorten(reel.name, 60), size=10, bold=True)
    size = " × ".join(str(n) for n in reel.shape)
    canvas.text(canvas.width - MARGIN, top + 18, size, size=8.5, color="soft", align="right")
    for k, (heading, moments) in enumerate(zip(rows, reel.rows, strict=True)):
        y = top + 30 + k * cell[1]
        _draw_heading(canvas, y, heading)
        for column, moment in enumerate(moments):
            x = MARGIN + LABELS + column * cell[0]
            draw_frame(canvas, x, y, moment.frame, reel.shape, _BOX)
            canvas.text(x, y + cell[1] - 14, moment.text, size=7.5, color="soft")


def _draw_heading(canvas: Canvas, y: float, heading: Heading) -> None:
    canvas.text(MARGIN, y + 10, heading.title, size=9.5, bold=True)
    for k, line in enumerate(heading.lines):
        canvas.text(MARGIN, y + 24 + 13 * k, shorten(line, 24), size=8, color="soft")


def _draw_sparks(canvas: Canvas, top: float, rows: Sequence[Heading], sparks: Sparks) -> None:
    """Names and ranges of the signals, then a row of curves for each episode."""
    canvas.line([(MARGIN, top), (canvas.width - MARGIN, top)], color="ink", width=0.8)
    pitch = _SPARK[0] + 3 * _GAP
    for column, panels in enumerate(sparks.columns):
        x = MARGIN + LABELS + column * pitch
        low, high = panels[0].tick_texts[0], panels[0].tick_texts[-1]
        canvas.text(x, top + 18, shorten(panels[0].title, 22), size=9, bold=True)
        canvas.text(x, top + 31, f"{low} to {high}", size=7.5, color="soft")
        for k, panel in enumerate(panels):
            y = top + 46 + k * (_SPARK[1] + 2 * _GAP)
            axes = canvas.axes(x, y, *_SPARK, sparks.span, (panel.ticks[0], panel.ticks[-1]))
            for edge in (y, y + _SPARK[1]):
                canvas.line([(x, edge), (x + _SPARK[0], edge)], color="grid")
            for curve in reversed(panel.curves):
                plot(axes, curve.x, curve.y, color=curve.colour, width=1.0)
    for k, heading in enumerate(rows):
        _draw_heading(canvas, top + 46 + k * (_SPARK[1] + 2 * _GAP), heading)
