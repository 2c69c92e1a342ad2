"""Charts of a page: a drawing and a table for readers without script, and the data of the interactive chart.

Labels are HTML, placed in per cent. Colours are classes of the style sheet, so that one chart works in light mode, dark
mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from worldline.audit.grades import Score
from worldline.formatting import Number, number, round_percent, tick, with_interval
from worldline.plots.ticks import log_ticks, nice_ticks
from worldline.report.parts import PagePart, Table
from worldline.report.svg import Plane, Stroke
from worldline.stats import Estimate, Rate

_MAX_POINTS: Final = 400
_MAX_ROWS: Final = 13


@dataclass(frozen=True, kw_only=True)
class ChartLine:
    """One curve.

    Args:
        label: label in the legend.
        style: class of the style sheet: "world", "real", or "other0" to "other5".
        x: increasing, unless the chart is a map.
        y: one value per x; NaN leaves a gap.
        low: lower edge of a band; empty for none.
        high: upper edge of the band.
        points: whether to draw dots instead of a line.
    """

    label: str
    style: str
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    points: bool = False

    @property
    def shown(self) -> ChartLine:
        """The line with at most 401 evenly spread points, including the last."""
        step = max(1, math.ceil(len(self.x) / _MAX_POINTS))
        kept = sorted({*range(0, len(self.x), step), len(self.x) - 1} - {-1})
        names = ("x", "y", "low", "high") if len(self.low) else ("x", "y")
        parts = {name: [getattr(self, name)[k] for k in kept] for name in names}
        return ChartLine(label=self.label, style=self.style, points=self.points, **parts)


class LineChart(PagePart, frozen=True, kw_only=True, dict=True):
    """Curves over a common axis.

    Args:
        title: title above the chart.
        alt: alternative text.
        x_label: label with unit; empty for none.
        y_label: label with unit; empty for none.
        lines: drawn in order, the last on top.
        levels: horizontal lines: label and height.
        now: x of a vertical line at the present; None for none.
        log: whether the y axis is logarithmic; values must be positive.
        zero: whether the y axis must include 0.
        equal: whether the chart is a map: equal scales, no table of numbers, not interactive.
        aside: remark next to the title; empty for none.
        y_ticks: ticks of the y axis; empty for round numbers that enclose all values.
        tick_texts: their texts, for ticks that are names; empty for numbers.
        x_ends: ends of the x axis; None for those of the lines.
        gaps: stretches of the x axis without data.
        folds: whether a folded table has the numbers.
        style: classes of the figure.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    lines: Sequence[ChartLine]
    levels: Sequence[tuple[str, Number]] = ()
    now: Number | None = None
    log: bool = False
    zero: bool = False
    equal: bool = False
    aside: str = ""
    y_ticks: Sequence[Number] = ()
    tick_texts: Sequence[str] = ()
    x_ends: tuple[Number, Number] | None = None
    gaps: Sequence[tuple[Number, Number]] = ()
    folds: bool = True
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
        drawn += [plane.horizontal("level", height) for _, height in self.levels]
        drawn += [] if self.now is None else [plane.vertical("level", self.now)]
        drawn += [plane.area(f"band {line.style}", line.x, line.low, line.high) for line in lines if len(line.low)]
        return drawn + [
            plane.curve(f"{'points' if line.points else 'line'} {line.style}", line.x, line.y, points=line.points)
            for line in lines
        ]

    @property
    def y_marks(self) -> Iterable[tuple[Number, str]]:
        """The y ticks with their texts."""
        return zip(self._axes[1], self.tick_texts or map(tick, self._axes[1]), strict=True)

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
        parts = [line.shown for line in self.lines]
        return {
            "x": [float(x) for x in self.plane.x],
            "y": [float(y) for y in self.plane.y],
            "log": self.log,
            "now": self.now,
            "levels": [height for _, height in self.levels],
            "gaps": self.gaps,
            "ticks": [[float(y), text] for y, text in self.y_marks] if self.tick_texts or self.log else [],
            "lines": [
                {"label": line.label, "style": line.style, "points": line.points}
                | {name: [_finite(v, log=self.log) for v in getattr(line, name)] for name in ("x", "y", "low", "high")}
                for line in parts
                if len(line.x)
            ],
        }

    @property
    def numbers(self) -> Table | None:
        """A folded table with up to 13 points of each curve."""
        if self.equal or not self.folds:
            return None
        xs = sorted({x for line in self.lines for x in line.x})
        few = [xs[round(k * (len(xs) - 1) / (_MAX_ROWS - 1))] for k in range(_MAX_ROWS)] if len(xs) > _MAX_ROWS else xs
        rows = [[number(x), *(_cell(line, x) for line in self.lines)] for x in few]
        return Table(self.title, [self.x_label, *(line.label for line in self.lines)], rows, folded="Numbers")


@dataclass(frozen=True, kw_only=True)
class Dot:
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
    def of(
        cls, label: str, figure: Estimate | Rate | Score, text: str, style: str, *, target: Number | None = None
    ) -> Dot:
        """The row of a measured figure."""
        value, low, high = figure.value, figure.low, figure.high
        return cls(label=label, value=value, low=low, high=high, text=text, style=style, target=target)


class IntervalChart(PagePart, frozen=True, kw_only=True):
    """Figures with intervals, one per row.

    Args:
        title: title above the chart.
        rows: from top to bottom.
        ticks: tick values, increasing; the first and last are the ends of the axis.
        head: titles in the collapsed table: of the rows and of the figure.
        show: formats a value.
        zero: whether a line marks 0.
        alt: alternative text; empty for the title and the texts of the rows.
    """

    title: str
    rows: Sequence[Dot]
    ticks: Sequence[Number]
    head: tuple[str, str] = ("", "value")
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
        return Table(self.title, [*self.head, "low", "high"], rows, folded="Numbers")


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


def share_chart(title: str, head: tuple[str, str], rows: Sequence[Dot], *, alt: str = "") -> IntervalChart:
    """An interval chart of shares from 0 to 1; see `IntervalChart`."""
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return IntervalChart(title=title, rows=rows, ticks=ticks, show=round_percent, head=head, alt=alt)


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
    """Ticks that enclose all values, band edges and levels."""
    values = [float(v) for line in chart.lines for part in (line.y, line.low, line.high) for v in part]
    values = [v for v in values if math.isfinite(v) and (v > 0 or not chart.log)]
    values += [height for _, height in chart.levels]
    if not values:
        return [0.1, 1.0] if chart.log else [0.0, 1.0]
    if chart.log:
        return log_ticks(min(values), max(values))
    return nice_ticks(min([0.0, *values]) if chart.zero else min(values), max(values), 5)


def _finite(value: Number, *, log: bool) -> float | None:
    """The value with 5 digits; None if it cannot be drawn."""
    return float(f"{value:.5g}") if math.isfinite(value) and (value > 0 or not log) else None


def _cell(line: ChartLine, x: Number) -> str:
    """The value at `x` with its band, or a dash."""
    if x not in line.x:
        return "–"
    k = list(line.x).index(x)
    if not len(line.low):
        return number(line.y[k])
    return with_interval(Estimate(value=float(line.y[k]), low=float(line.low[k]), high=float(line.high[k])))
