"""Plots of predictions, plans, scores and other results: a chart per signal with its band, over a common axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.formatting import with_unit
from worldline.plots.charts import ChartLine, Drawn, LineChart
from worldline.plots.figure import EpisodeView, PlotFigure, Strip, episode_figure, num_frames
from worldline.plots.result_series import ResultSeries, columns
from worldline.plots.signal_chart import COLOURS, MAX_CURVES, Floats, TimeAxis, axis_ticks, value_names
from worldline.plots.ticks import log_ticks
from worldline.schema import Kind

MAX_SAMPLES: Final = 24
"""Largest number of drawn samples."""


def result_figure(
    title: str, subtitle: str, series: Sequence[ResultSeries], axis: TimeAxis, images: Mapping[str, NDArray[np.generic]]
) -> PlotFigure:
    """The figure of a result.

    Args:
        title: in large letters.
        subtitle: one line.
        series: one chart each.
        axis: covers all rows.
        images: per image signal its frames [T, height, width, channels], from step 1.
    """
    shown = np.empty(0, int)
    if images:
        count, length = num_frames([frames.shape[1:] for frames in images.values()]), len(next(iter(images.values())))
        shown = np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
    drawn = {name: np.asarray(frames[shown], np.uint8) for name, frames in images.items()}
    strips = [Strip(name=name, shape=frames.shape[1:], frames=list(frames)) for name, frames in drawn.items()]
    charts, moments = [_chart(signal, axis) for signal in series], (shown + 1).tolist()
    view = EpisodeView(title=title, subtitle=subtitle, axis=axis, moments=moments, strips=strips, charts=charts)
    return episode_figure(view)


def _chart(series: ResultSeries, axis: TimeAxis) -> LineChart:
    """The chart of a signal; the values on top, then other curves, then samples."""

    def table(values: NDArray[np.generic]) -> Floats:
        """The drawn components [rows, C]."""
        return columns(values)[:, :MAX_CURVES].astype(np.float64)

    main, others = table(series.values), {name: table(value) for name, value in series.others.items()}
    samples = [] if series.samples is None else [table(path) for path in series.samples[:MAX_SAMPLES]]
    names = [name.removeprefix(f"{series.signal.name}.") for name in series.names]
    low, high = others.pop("low", None), others.pop("high", None)
    drawn, starts = series.drawn, axis.times[series.first : series.first + len(main)]
    stops = axis.times[series.first + 1 :][: len(main)] if drawn == "held" else None
    lines = list[ChartLine]()
    for k in range(main.shape[1]):
        label = series.heading if others and len(names) == 1 else names[k]
        edges: dict[str, Any] = {}
        if low is not None and high is not None:
            finite = {"low": _finite(low[:, k]), "high": _finite(high[:, k])}
            edges = {name: _steps(starts, stops, edge)[1] for name, edge in finite.items()}
        curves: list[tuple[str, Floats, Drawn, dict[str, Any]]] = [
            (label, main, "points" if drawn == "points" else "line", edges),
            *(
                (f"{names[k]}, {name}" if len(names) > 1 else name, value, "dashed", {})
                for name, value in others.items()
            ),
            *(("", path, "faint", {}) for path in samples),
        ]
        for label, values, how, band in curves:
            x, y = _steps(starts, stops, values[:, k])
            lines.append(ChartLine(label=label, style=COLOURS[k], x=x, y=y, drawn=how, **band))
    ticks = _ticks(series, [main, *others.values(), *samples, *(edge for edge in (low, high) if edge is not None)])
    return LineChart(
        title=with_unit(series.signal.name, series.signal.unit),
        aside=", ".join(_notes(len(names), low)),
        alt="",
        x_label=axis.label,
        y_label="",
        lines=lines[::-1],
        x_ends=axis.span,
        y_ticks=ticks,
        tick_texts=value_names(series.signal, ticks) if series.signal.kind is Kind.DISCRETE else (),
        log=series.logarithmic,
        heading=series.heading,
    )


def _ticks(series: ResultSeries, drawn: Sequence[Floats]) -> list[float]:
    """Ticks that enclose all drawn values."""
    values = np.concatenate(drawn)
    if series.logarithmic:
        known = values[np.isfinite(values) & (values > 0)]
        return log_ticks(known.min(initial=1.0), known.max(initial=1.0))
    return axis_ticks(values, 4, whole=series.signal.kind is Kind.DISCRETE)


def _notes(num_components: int, low: Floats | None) -> list[str]:
    """Notes on components that are not drawn, and on steps without a band."""
    notes = [f"first {MAX_CURVES} of {num_components} components"] if num_components > MAX_CURVES else []
    if low is not None and not np.isfinite(low).all():
        notes.append("no band" if not np.isfinite(low).any() else f"band up to step {np.isfinite(low).all(1).sum()}")
    return notes


def _steps(starts: Floats, stops: Floats | None, values: Floats) -> tuple[Floats, Floats]:
    """The curve through the values, or steps of values that hold until `stops`."""
    if stops is None:
        return starts, values
    return np.stack([starts, stops], 1).reshape(-1), np.repeat(values, 2)


def _finite(edge: Floats) -> Floats:
    return np.where(np.isfinite(edge), edge, np.nan)
