"""Charts as HTML with inline SVG that scale with the page; text and strokes keep their size.

SVG coordinates run from 0 to 1000 on both axes and are stretched. Labels are HTML, placed in per cent. Colours are
classes of the style sheet, so that one chart works in light mode, dark mode and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.formatting import Number, number
from worldline.formatting import tick as tick_text
from worldline.plots.ticks import log_ticks, nice_ticks
from worldline.report.markup import Html, numbers, tag

_GRID: Final = 1000.0
_MAX_POINTS: Final = 400
_MAX_ROWS: Final = 13
_SVG: Final = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "aria-hidden": "true", "focusable": "false"}


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


@dataclass(frozen=True, kw_only=True)
class IntervalChart:
    """Figures with intervals, one per row.

    Args:
        title: title above the chart.
        alt: alternative text.
        rows: from top to bottom.
        ticks: tick values, increasing; the first and last are the ends of the axis.
        show: formats a value.
        zero: whether a line marks 0.
        head: titles in the collapsed table: of the rows and of the figure.
    """

    title: str
    alt: str
    rows: Sequence[Dot]
    ticks: Sequence[Number]
    show: Callable[[Number], str]
    zero: bool = False
    head: tuple[str, str] = ("", "value")


def line_chart(chart: LineChart) -> Html:
    """The chart with legend and numbers."""
    xs = [x for line in chart.lines for x in line.x if math.isfinite(x)] or [0.0, 1.0]
    x_low, x_high = min(xs), max(xs)
    ticks = _y_ticks(chart)
    if chart.equal:
        (x_low, x_high), ticks = _one_scale((x_low, x_high), (ticks[0], ticks[-1]))
    flip = math.log10 if chart.log else float

    def across(x: Number) -> Number:
        return _GRID * (x - x_low) / ((x_high - x_low) or 1.0)

    def down(y: Number) -> Number:
        return _GRID * (1 - (flip(y) - flip(ticks[0])) / (flip(ticks[-1]) - flip(ticks[0])))

    x_ticks = [tick for tick in nice_ticks(x_low, x_high, 5) if x_low <= tick <= x_high]
    drawn = [_rule("grid", 0, down(tick), _GRID, down(tick)) for tick in ticks]
    drawn += [_rule("level", 0, down(height), _GRID, down(height)) for _, height in chart.levels]
    drawn += [] if chart.now is None else [_rule("level", across(chart.now), 0, across(chart.now), _GRID)]
    drawn += [_band(line, across, down) for line in chart.lines if line.low]
    drawn += [_path(line, _pieces(line.x, line.y, across, down)) for line in chart.lines]
    labels = [_place("y-tick", "top", down(tick), tick_text(tick)) for tick in ticks]
    labels += [_place("x-tick", "left", across(tick), tick_text(tick)) for tick in x_ticks]
    labels += [_place("level-label", "top", down(height), text) for text, height in chart.levels]
    kind = "plot map" if chart.equal else "plot"
    plot = tag("div", {"class": kind, "role": "img", "aria-label": chart.alt}, tag("svg", _SVG, *drawn), *labels)
    axis = tag("div", {"class": "y-label"}, chart.y_label)
    under = tag("div", {"class": "x-label"}, chart.x_label)
    folded = Html("") if chart.equal else _line_numbers(chart)
    return _figure(chart.title, [_legend(chart), axis, plot, under, folded], "chart")


def interval_chart(chart: IntervalChart) -> Html:
    """The chart with numbers."""
    low, high = chart.ticks[0], chart.ticks[-1]

    def across(x: Number) -> Number:
        return _GRID * min(1.0, max(0.0, (x - low) / ((high - low) or 1.0)))

    grid = [_rule("grid", across(tick), 0, across(tick), _GRID) for tick in chart.ticks]
    grid += [_rule("level", across(0), 0, across(0), _GRID)] if chart.zero else []
    rows = []
    for row in chart.rows:
        marks = [*grid]
        marks += [] if row.target is None else [_rule("target", across(row.target), 150, across(row.target), 850)]
        marks += [_rule(f"whisker {row.style}", across(row.low), 500, across(row.high), 500)]
        marks += [_rule(f"dot {row.style}", across(row.value), 500, across(row.value), 500)]
        cells = (
            tag("div", {"class": "row-label"}, row.label),
            tag("div", {"class": "track"}, tag("svg", _SVG, *marks)),
            tag("div", {"class": "row-text"}, row.text),
        )
        rows.append(tag("div", {"class": f"row {row.style}"}, *cells))
    ticks = [_place("x-tick", "left", across(tick), chart.show(tick)) for tick in chart.ticks]
    rows.append(tag("div", {"class": "row axis"}, tag("div", {"class": "track"}, *ticks)))
    cells_of = [[row.label, chart.show(row.value), chart.show(row.low), chart.show(row.high)] for row in chart.rows]
    folded = numbers([chart.head[0], chart.head[1], "low", "high"], cells_of, caption=chart.title)
    body = tag("div", {"class": "rows", "role": "img", "aria-label": chart.alt}, *rows)
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
    key = [_rule("", 0, 500, _GRID, 500)]
    entries = [
        tag("span", {"class": "key"}, tag("svg", {**_SVG, "class": f"line {line.style}"}, *key), line.label)
        for line in {line.label: line for line in chart.lines[::-1]}.values()
    ]
    return tag("div", {"class": "legend", "aria-hidden": "true"}, *entries)


def _rule(style: str, x1: Number, y1: Number, x2: Number, y2: Number) -> Html:
    """A straight line; a dot if its length is 0."""
    return tag("path", {"class": style, "d": f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"})


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


def _path(line: ChartLine, runs: Iterable[list[str]]) -> Html:
    """A curve through the points; an isolated point is a dot."""
    runs = [[point] for run in runs for point in run] if line.points else runs
    moves = "".join("M" + "L".join(run if len(run) > 1 else run * 2) for run in runs)
    return tag("path", {"class": f"{'points' if line.points else 'line'} {line.style}", "d": moves})


def _band(line: ChartLine, across: Callable[[Number], Number], down: Callable[[Number], Number]) -> Html:
    """The area between the band edges."""
    upper, lower = _pieces(line.x, line.high, across, down), _pieces(line.x, line.low, across, down)
    areas = ["M" + "L".join([*top, *reversed(bottom)]) + "Z" for top, bottom in zip(upper, lower, strict=False)]
    return tag("path", {"class": f"band {line.style}", "d": "".join(areas)})


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
    band = f" ({number(line.low[k])} to {number(line.high[k])})" if line.low else ""
    return f"{number(line.y[k])}{band}"
