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
from worldline.formatting import Number, number, tick, with_interval
from worldline.plots.ticks import log_ticks, nice_ticks
from worldline.report.markup import Html, numbers, tag
from worldline.report.svg import GRID, area, curve, legend, rule, svg
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
    x_low, x_high = min(xs), max(xs)
    ticks = _y_ticks(chart)
    if chart.equal:
        (x_low, x_high), ticks = _one_scale((x_low, x_high), (ticks[0], ticks[-1]))
    flip = math.log10 if chart.log else float

    def across(x: Number) -> Number:
        return GRID * (x - x_low) / ((x_high - x_low) or 1.0)

    def down(y: Number) -> Number:
        return GRID * (1 - (flip(y) - flip(ticks[0])) / (flip(ticks[-1]) - flip(ticks[0])))

    x_ticks = [x for x in nice_ticks(x_low, x_high, 5) if x_low <= x <= x_high]
    drawn = [rule("grid", 0, down(y), GRID, down(y)) for y in ticks]
    drawn += [rule("level", 0, down(height), GRID, down(height)) for _, height in chart.levels]
    drawn += [] if chart.now is None else [rule("level", across(chart.now), 0, across(chart.now), GRID)]
    drawn += [
        area(f"band {line.style}", *(_pieces(line.x, edge, across, down) for edge in (line.high, line.low)))
        for line in chart.lines
        if line.low
    ]
    drawn += [_curve(line, _pieces(line.x, line.y, across, down)) for line in chart.lines]
    labels = [_place("y-tick", "top", down(y), tick(y)) for y in ticks]
    labels += [_place("x-tick", "left", across(x), tick(x)) for x in x_ticks]
    labels += [_place("level-label", "top", down(height), text) for text, height in chart.levels]
    kind = "plot map" if chart.equal else "plot"
    plot = tag("div", {"class": kind, "role": "img", "aria-label": chart.alt}, svg(*drawn), *labels)
    axis = tag("div", {"class": "y-label"}, chart.y_label)
    under = tag("div", {"class": "x-label"}, chart.x_label)
    folded = Html("") if chart.equal else _line_numbers(chart)
    return _figure(chart.title, [_legend(chart), axis, plot, under, folded], "chart")


def interval_chart(chart: IntervalChart) -> Html:
    """The chart with numbers."""
    low, high = chart.ticks[0], chart.ticks[-1]

    def across(x: Number) -> Number:
        return GRID * min(1.0, max(0.0, (x - low) / ((high - low) or 1.0)))

    grid = [rule("grid", across(x), 0, across(x), GRID) for x in chart.ticks]
    grid += [rule("level", across(0), 0, across(0), GRID)] if chart.zero else []
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
    ticks = [_place("x-tick", "left", across(x), chart.show(x)) for x in chart.ticks]
    rows.append(tag("div", {"class": "row axis"}, tag("div", {"class": "track"}, *ticks)))
    cells_of = [[row.label, chart.show(row.value), chart.show(row.low), chart.show(row.high)] for row in chart.rows]
    folded = numbers([chart.head[0], chart.head[1], "low", "high"], cells_of, caption=chart.title)
    alt = chart.alt or f"{chart.title}: {'; '.join(f'{row.label}: {row.text}' for row in chart.rows)}"
    body = tag("div", {"class": "rows", "role": "img", "aria-label": alt}, *rows)
    return _figure(chart.title, [body, folded], "intervals")


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


def _place(style: str, side: str, position: Number, text: str) -> Html:
    """A label at `position` (0 to 1000) from `side`."""
    return tag("span", {"class": style, "style": f"{side}:{position / 10:.2f}%", "aria-hidden": "true"}, text)


def _thinned(count: int) -> list[int]:
    """At most 401 evenly spread indices, including the last."""
    stride = max(1, math.ceil(count / _MAX_POINTS))
    return sorted({*range(0, count, stride), count - 1})


def _pieces(
    xs: Sequence[Number], ys: Sequence[Number], across: Callable[[Number], Number], down: Callable[[Number], Number]
) -> list[list[str]]:
    """The points as runs between gaps."""
    runs: list[list[str]] = [[]]
    for k in _thinned(len(xs)):
        try:
            point = f"{across(xs[k]):.1f} {down(ys[k]):.1f}"
        except ValueError:
            point = "nan"
        if "nan" in point or "inf" in point:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


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
