"""Charts of pages and figures: one description, drawn as SVG and interactively in a page, and by matplotlib.

Labels of a page are HTML, placed in per cent. Colours are classes of the style sheet, so that one chart works in light
mode, dark mode and print. A drawing is stretched over its box: both axes run from 0 to 1000, strokes keep their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from worldline.formatting import Number, round_percent, tick
from worldline.plots.parts import PagePart, Table
from worldline.plots.ticks import log_ticks, nice_ticks, tick_texts
from worldline.stats import Estimate, Rate

GRID: Final = 1000.0
"""Length of both axes of a drawing."""
_MAX_POINTS: Final = 400

Values = Sequence[Number] | NDArray[np.floating]
Drawn = Literal["line", "dashed", "faint", "points"]


class Stroke(NamedTuple):
    """A path of a drawing: classes of the style sheet, and its commands."""

    style: str
    d: str


class Plane(NamedTuple):
    """Maps data to the coordinates of a drawing.

    Args:
        x: values at the left and right ends.
        y: values at the lower and upper ends.
        log: whether the y axis is logarithmic.
    """

    x: tuple[Number, Number]
    y: tuple[Number, Number] = (0.0, 1.0)
    log: bool = False

    def across(self, x: Number) -> Number:
        """The horizontal coordinate, limited to the drawing."""
        return min(GRID, max(0.0, GRID * (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)))

    def down(self, y: Number) -> Number:
        """The vertical coordinate."""
        low, high, value = (math.log10(number) if self.log else number for number in (*self.y, y))
        return GRID * (high - value) / ((high - low) or 1.0)

    def horizontal(self, style: str, y: Number) -> Stroke:
        """A line over the whole width."""
        return Stroke(style, f"M0 {self.down(y):.1f}H1000")

    def vertical(self, style: str, x: Number, top: Number = 0.0, bottom: Number = GRID) -> Stroke:
        """A line over the height, or over a part of it in coordinates of the drawing."""
        return Stroke(style, f"M{self.across(x):.1f} {top:.1f}V{bottom:.1f}")

    def column(self, style: str, start: Number, stop: Number) -> Stroke:
        """An area over the whole height."""
        left, right = f"{self.across(start):.1f}", f"{self.across(stop):.1f}"
        return Stroke(style, f"M{left} 0H{right}V1000H{left}Z")

    def level(self, style: str, start: Number, stop: Number, y: Number = 0.5) -> Stroke:
        """A line at the height `y`; a dot if it has no length."""
        return Stroke(style, f"M{self.across(start):.1f} {self.down(y):.1f}H{self.across(stop):.1f}")

    def curve(self, style: str, xs: Values, ys: Values, *, points: bool = False) -> Stroke:
        """A curve between its gaps, which are values that cannot be drawn; an isolated point is a dot."""
        runs = self._runs(xs, ys)
        runs = [[point] for run in runs for point in run] if points else runs
        return Stroke(style, "".join("M" + "L".join(run if len(run) > 1 else [*run, *run]) for run in runs))

    def area(self, style: str, xs: Values, low: Values, high: Values) -> Stroke:
        """The area between two curves."""
        edges = zip(self._runs(xs, high), self._runs(xs, low), strict=False)
        return Stroke(style, "".join(f"M{'L'.join([*top, *reversed(bottom)])}Z" for top, bottom in edges))

    def _runs(self, xs: Values, ys: Values) -> list[list[str]]:
        runs: list[list[str]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y) and (y > 0 or not self.log):
                runs[-1].append(f"{self.across(x):.1f} {self.down(y):.1f}")
            else:
                runs.append([])
        return [run for run in runs if run]


class ChartLine(Struct, frozen=True, kw_only=True):
    """One curve.

    Args:
        label: label in the legend; empty to leave it out of the legend.
        style: colour by its name in the style sheet: "world", "real", or "other0" to "other5".
        x: increasing, unless the chart is a map.
        y: one value per x; NaN leaves a gap.
        low: lower edge of a band; empty for none.
        high: upper edge of the band.
        drawn: as a line or as points; figures also have dashed and faint lines.
        extent: least, mean and greatest of the values that the curve sums up; NaN if no value is known.
    """

    label: str
    style: str
    x: Values
    y: Values
    low: Values = ()
    high: Values = ()
    drawn: Drawn = "line"
    extent: tuple[float, float, float] = (math.nan, math.nan, math.nan)

    @property
    def shown(self) -> ChartLine:
        """The line with at most 401 evenly spread points, including the last."""
        step = max(1, math.ceil(len(self.x) / _MAX_POINTS))
        kept = sorted({*range(0, len(self.x), step), len(self.x) - 1} - {-1})
        names = ("x", "y", "low", "high") if len(self.low) else ("x", "y")
        parts: Any = {name: [getattr(self, name)[k] for k in kept] for name in names}
        return replace(self, **parts)


class LineChart(PagePart, frozen=True, kw_only=True, dict=True):
    """Curves over a common axis.

    Args:
        title: title above the chart.
        alt: alternative text.
        x_label: label with unit; empty for none.
        y_label: label with unit; empty for none.
        lines: drawn in order, the last on top.
        now: x of a vertical line at the present; None for none.
        log: whether the y axis is logarithmic; values must be positive.
        zero: whether the y axis must include 0.
        equal: whether the chart is a map: equal scales, not interactive.
        aside: remark next to the title; empty for none.
        y_ticks: ticks of the y axis; empty for round numbers that enclose all values.
        tick_texts: their texts, for ticks that are names; empty for numbers.
        x_ends: ends of the x axis; None for those of the lines.
        gaps: stretches of the x axis without data.
        heading: of the group of charts in a figure.
        style: classes of the figure.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    lines: Sequence[ChartLine]
    now: Number | None = None
    log: bool = False
    zero: bool = False
    equal: bool = False
    aside: str = ""
    y_ticks: Sequence[Number] = ()
    tick_texts: Sequence[str] = ()
    x_ends: tuple[Number, Number] | None = None
    gaps: Sequence[tuple[Number, Number]] = ()
    heading: str = ""
    style: str = ""

    @cached_property
    def _axes(self) -> tuple[tuple[Number, Number], Sequence[Number]]:
        """Ends of the x axis and ticks of the y axis."""
        xs = [x for line in self.lines for x in line.x if math.isfinite(x)] or [0.0, 1.0]
        ends, ticks = self.x_ends or (min(xs), max(xs)), self.y_ticks or _y_ticks(self)
        return _one_scale(ends, (ticks[0], ticks[-1])) if self.equal else (ends, ticks)

    @cached_property
    def plane(self) -> Plane:
        """The axes of the drawing."""
        ends, ticks = self._axes
        return Plane(ends, (ticks[0], ticks[-1]), log=self.log)

    @property
    def strokes(self) -> list[Stroke]:
        """The drawing."""
        plane, lines = self.plane, [line.shown for line in self.lines]
        drawn = [plane.column("gap", start, stop) for start, stop in self.gaps]
        drawn += [plane.horizontal("grid", y) for y in self._axes[1]]
        drawn += [] if self.now is None else [plane.vertical("level", self.now)]
        drawn += [plane.area(f"band {line.style}", line.x, line.low, line.high) for line in lines if len(line.low)]
        for line in lines:
            points = line.drawn == "points"
            drawn.append(plane.curve(f"{'points' if points else 'line'} {line.style}", line.x, line.y, points=points))
        return drawn

    @property
    def y_marks(self) -> list[tuple[Number, str]]:
        """The y ticks with their texts."""
        ticks = self._axes[1]
        texts = self.tick_texts or (list(map(tick, ticks)) if self.log else tick_texts(ticks))
        return list(zip(ticks, texts, strict=True))

    @property
    def x_marks(self) -> list[tuple[Number, str]]:
        """The x ticks with their texts."""
        low, high = self.plane.x
        return [(x, tick(x)) for x in nice_ticks(low, high, 5) if low <= x <= high]

    @property
    def legend(self) -> dict[str, str]:
        """Style of each label; empty if the only label equals the title."""
        styles = {line.label: line.style for line in self.lines[::-1]}
        return {} if list(styles) == [self.title] else styles

    @property
    def data(self) -> dict[str, Any] | None:
        """The data of the interactive chart; None for a map."""
        if self.equal:
            return None
        return {
            "x": [float(x) for x in self.plane.x],
            "y": [float(y) for y in self.plane.y],
            "log": self.log,
            "now": self.now,
            "gaps": self.gaps,
            "ticks": [[float(y), text] for y, text in self.y_marks] if self.tick_texts or self.log else [],
            "lines": [
                {"label": line.label, "style": line.style, "points": line.drawn == "points"}
                | {name: [_finite(v, log=self.log) for v in getattr(line, name)] for name in ("x", "y", "low", "high")}
                for line in (line.shown for line in self.lines)
                if len(line.x)
            ],
        }


class Dot(Struct, frozen=True, kw_only=True):
    """One row of an interval chart.

    Args:
        label: label on the left.
        value: the figure.
        low: lower end of its interval.
        high: upper end of its interval.
        text: the formatted figure, on the right.
        style: class of the style sheet: "world", "peer", "floor", "ceiling" or "missed".
        target: target value, marked by a tick; None for none.
    """

    label: str
    value: Number
    low: Number
    high: Number
    text: str
    style: str
    target: Number | None = None

    @classmethod
    def of(cls, label: str, figure: Estimate | Rate, text: str, style: str, *, target: Number | None = None) -> Dot:
        """The row of a measured figure."""
        value, low, high = figure.value, figure.low, figure.high
        return cls(label=label, value=value, low=low, high=high, text=text, style=style, target=target)


class IntervalChart(PagePart, frozen=True, kw_only=True):
    """Figures with intervals, one per row.

    Args:
        title: title above the chart.
        rows: from top to bottom.
        ticks: tick values, increasing; the first and last are the ends of the axis.
        show: formats a value.
        zero: whether a line marks 0.
        alt: alternative text; empty for the title and the texts of the rows.
    """

    title: str
    rows: Sequence[Dot]
    ticks: Sequence[Number]
    show: Callable[[Number], str] = tick
    zero: bool = False
    alt: str = ""

    @property
    def plane(self) -> Plane:
        """The axis of the drawing."""
        return Plane((self.ticks[0], self.ticks[-1]))

    @property
    def tracks(self) -> list[tuple[Dot, list[Stroke]]]:
        """Each row with its drawing."""
        plane, tracks = self.plane, []
        for row in self.rows:
            drawn = [plane.vertical("grid", x) for x in self.ticks]
            drawn += [plane.vertical("level", 0)] if self.zero else []
            drawn += [] if row.target is None else [plane.vertical("target", row.target, 150, 850)]
            drawn += [plane.level(f"whisker {row.style}", row.low, row.high)]
            tracks.append((row, [*drawn, plane.level(f"dot {row.style}", row.value, row.value)]))
        return tracks

    @property
    def numbers(self) -> Table:
        """The figures in a folded table."""
        rows = [[row.label, *(self.show(value) for value in (row.value, row.low, row.high))] for row in self.rows]
        return Table(self.title, ["", "value", "low", "high"], rows, folded="Numbers")


class Sketch(PagePart, frozen=True):
    """A small drawing without axes.

    Args:
        strokes: the drawing.
        alt: alternative text.
        style: classes of its box.
    """

    strokes: Sequence[Stroke]
    alt: str
    style: str


def share_chart(title: str, rows: Sequence[Dot], *, alt: str = "") -> IntervalChart:
    """An interval chart of shares from 0 to 1; see `IntervalChart`."""
    return IntervalChart(title=title, rows=rows, ticks=(0.0, 0.25, 0.5, 0.75, 1.0), show=round_percent, alt=alt)


def _one_scale(x: tuple[Number, Number], y: tuple[Number, Number]) -> tuple[tuple[Number, Number], list[float]]:
    """Ends of the x axis and ticks of the y axis with equal lengths, around the middle of each."""
    ticks = nice_ticks(*y, 5)
    size = max(x[1] - x[0], ticks[-1] - ticks[0])
    while ticks[-1] - ticks[0] < size * (1 - 1e-9):
        step = ticks[1] - ticks[0]
        ticks = [ticks[0] - step, *ticks] if len(ticks) % 2 else [*ticks, ticks[-1] + step]
    size, middle = ticks[-1] - ticks[0], (x[0] + x[1]) / 2
    return (middle - size / 2, middle + size / 2), ticks


def _y_ticks(chart: LineChart) -> list[float]:
    """Ticks that enclose all values and band edges."""
    values = [float(v) for line in chart.lines for part in (line.y, line.low, line.high) for v in part]
    values = [v for v in values if math.isfinite(v) and (v > 0 or not chart.log)]
    if not values:
        return [0.1, 1.0] if chart.log else [0.0, 1.0]
    if chart.log:
        return log_ticks(min(values), max(values))
    return nice_ticks(min([0.0, *values]) if chart.zero else min(values), max(values), 5)


def _finite(value: Number, *, log: bool) -> float | None:
    """The value with 5 digits; None if it cannot be drawn."""
    return float(f"{value:.5g}") if math.isfinite(value) and (value > 0 or not log) else None
