"""Charts as HTML with inline SVG that scale with the page; text and strokes keep their size.

Labels are HTML, placed in per cent. Colours are classes of the style sheet, so that one chart works in light mode, dark
mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.audit.grades import Score
from worldline.formatting import Number, number, round_percent, tick, with_interval
from worldline.plots.ticks import log_ticks, nice_ticks, zero_ticks
from worldline.report.markup import Html, numbers, tag
from worldline.report.svg import Plane, area, curve, legend, rule, svg
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


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Curves over a common axis.

    Args:
        title: title above the chart.
        alt: alternative text.
        x_label: label with unit.
        y_label: label with unit.
        lines: drawn in order, the last on top.
        levels: horizontal lines: label and height.
        now: x of a vertical line at the present; None for none.
        log: whether the y axis is logarithmic; values must be positive.
        zero: whether the y axis must include 0.
        equal: whether the chart is a map: equal scales and no table of numbers.
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
        cls, label: str, found: Estimate | Rate | Score, text: str, style: str, *, target: Number | None = None
    ) -> Dot:
        """The row of a measured figure."""
        return cls(
            label=label, value=found.value, low=found.low, high=found.high, text=text, style=style, target=target
        )


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
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


def line_chart(chart: LineChart) -> Html:
    """The chart with legend and numbers."""
    xs = [x for line in chart.lines for x in line.x if math.isfinite(x)] or [0.0, 1.0]
    x_ends, ticks = (min(xs), max(xs)), _y_ticks(chart)
    if chart.equal:
        x_ends, ticks = _one_scale(x_ends, (ticks[0], ticks[-1]))
    plane = Plane(x_ends, (ticks[0], ticks[-1]), log=chart.log)
    drawn = [plane.horizontal("grid", y) for y in ticks]
    drawn += [plane.horizontal("level", height) for _, height in chart.levels]
    drawn += [] if chart.now is None else [plane.vertical("level", chart.now)]
    drawn += [
        area(f"band {line.style}", *(_runs(plane, line, edge) for edge in (line.high, line.low)))
        for line in chart.lines
        if line.low
    ]
    drawn += [_curve(line, _runs(plane, line, line.y)) for line in chart.lines]
    labels = [plane.y_label("y-tick", y, tick(y)) for y in ticks]
    labels += [plane.x_label("x-tick", x, tick(x)) for x in nice_ticks(*x_ends, 5) if x_ends[0] <= x <= x_ends[1]]
    labels += [plane.y_label("level-label", height, text) for text, height in chart.levels]
    kind = "plot map" if chart.equal else "plot"
    plot = tag("div", {"class": kind, "role": "img", "aria-label": chart.alt}, svg(*drawn), *labels)
    axis = tag("div", {"class": "y-label"}, chart.y_label)
    under = tag("div", {"class": "x-label"}, chart.x_label)
    folded = Html("") if chart.equal else _line_numbers(chart)
    return _figure(chart.title, [_legend(chart), axis, plot, under, folded], "chart")


def interval_chart(chart: IntervalChart) -> Html:
    """The chart with numbers."""
    low, high = chart.ticks[0], chart.ticks[-1]
    plane = Plane((low, high))

    def across(x: Number) -> Number:
        return plane.across(min(high, max(low, x)))

    grid = [plane.vertical("grid", x) for x in chart.ticks]
    grid += [plane.vertical("level", 0)] if chart.zero else []
    rows = []
    for row in chart.rows:
        marks = [*grid]
        marks += [] if row.target is None else [rule("target", across(row.target), 150, across(row.target), 850)]
        marks += [rule(f"whisker {row.style}", across(row.low), 500, across(row.high), 500)]
        marks += [rule(f"dot {row.style}", across(row.value), 500, across(row.value), 500)]
        cells = (
            tag("div", {"class": "row-label"}, row.label),
            tag("div", {"class": "track"}, svg(*marks)),
            tag("div", {"class": "row-text"}, row.text),
        )
        rows.append(tag("div", {"class": f"row {row.style}"}, *cells))
    ticks = [plane.x_label("x-tick", x, chart.show(x)) for x in chart.ticks]
    rows.append(tag("div", {"class": "row axis"}, tag("div", {"class": "track"}, *ticks)))
    cells_of = [[row.label, chart.show(row.value), chart.show(row.low), chart.show(row.high)] for row in chart.rows]
    folded = numbers([chart.head[0], chart.head[1], "low", "high"], cells_of, caption=chart.title)
    alt = chart.alt or f"{chart.title}: {'; '.join(f'{row.label}: {row.text}' for row in chart.rows)}"
    body = tag("div", {"class": "rows", "role": "img", "aria-label": alt}, *rows)
    return _figure(chart.title, [body, folded], "intervals")


def share_chart(title: str, head: tuple[str, str], rows: Sequence[Dot], *, alt: str = "") -> Html:
    """An interval chart of shares from 0 to 1; see `IntervalChart`."""
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    return interval_chart(IntervalChart(title=title, rows=rows, ticks=ticks, show=round_percent, head=head, alt=alt))


def zero_chart(title: str, head: tuple[str, str], rows: Sequence[Dot], *, least: Number = 0.0) -> Html:
    """An interval chart of shares around 0; see `IntervalChart`. The axis reaches at least to `least`."""
    ticks = zero_ticks((row.low for row in rows), (least, *(row.high for row in rows)))
    return interval_chart(IntervalChart(title=title, rows=rows, ticks=ticks, show=round_percent, zero=True, head=head))


def _figure(title: str, parts: Iterable[str], kind: str) -> Html:
    return tag("figure", {"class": kind}, tag("figcaption", {}, title), *parts)


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


def _legend(chart: LineChart) -> Html:
    """One entry per curve; empty if the only label equals the title."""
    if [line.label for line in chart.lines] == [chart.title]:
        return Html("")
    return legend({line.label: line.style for line in chart.lines[::-1]}.items())


def _runs(plane: Plane, line: ChartLine, ys: Sequence[Number]) -> list[list[str]]:
    """At most 401 evenly spread points of a line, including the last, between its gaps."""
    count = len(line.x)
    shown = sorted({*range(0, count, max(1, math.ceil(count / _MAX_POINTS))), count - 1})
    return plane.runs([line.x[k] for k in shown], [ys[k] for k in shown])


def _curve(line: ChartLine, runs: Iterable[list[str]]) -> Html:
    if line.points:
        return curve(f"points {line.style}", [[point] for run in runs for point in run])
    return curve(f"line {line.style}", list(runs))


def _line_numbers(chart: LineChart) -> Html:
    """A table with up to 13 points of each curve."""
    xs = sorted({x for line in chart.lines for x in line.x})
    chosen = [xs[round(k * (len(xs) - 1) / (_MAX_ROWS - 1))] for k in range(_MAX_ROWS)] if len(xs) > _MAX_ROWS else xs
    rows = [[number(x), *(_cell(line, x) for line in chart.lines)] for x in chosen]
    return numbers([chart.x_label, *(line.label for line in chart.lines)], rows, caption=chart.title)


def _cell(line: ChartLine, x: Number) -> str:
    """The value at `x` with its band, or a dash."""
    if x not in line.x:
        return "–"
    k = list(line.x).index(x)
    if not line.low:
        return number(line.y[k])
    return with_interval(Estimate(value=float(line.y[k]), low=float(line.low[k]), high=float(line.high[k])))
