"""Plots of predictions, plans, scores and other results: a panel per signal with its band, over a common axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.formatting import tick, with_unit
from worldline.plots.episode_plot import EpisodeView, Strip, episode_figure, num_frames
from worldline.plots.figure import PlotFigure
from worldline.plots.panels import (
    COLOURS,
    MAX_CURVES,
    SignalCurve,
    SignalPanel,
    Style,
    TimeAxis,
    axis_ticks,
    tick_texts,
)
from worldline.plots.result_series import ResultSeries, columns
from worldline.schema import Kind

MAX_SAMPLES: Final = 24
"""Largest number of drawn samples."""
_NONE: Final = np.empty(0)


def result_figure(
    title: str, subtitle: str, series: Sequence[ResultSeries], axis: TimeAxis, images: Mapping[str, NDArray[np.generic]]
) -> PlotFigure:
    """The figure of a result.

    Args:
        title: in large letters.
        subtitle: one line.
        series: one panel each.
        axis: covers all rows.
        images: per image signal its frames [T, height, width, channels], from step 1.
    """
    moments, strips = list[int](), list[Strip]()
    if images:
        count = num_frames([frames.shape[1:] for frames in images.values()])
        length = len(next(iter(images.values())))
        shown = np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
        moments = [int(row) + 1 for row in shown]
        for name, frames in images.items():
            kept = [np.asarray(frames[row], np.uint8) for row in shown]
            strips.append(Strip(name=name, shape=frames.shape[1:], frames=kept))
    panels = [_panel(signal, axis) for signal in series]
    view = EpisodeView(title=title, subtitle=subtitle, axis=axis, moments=moments, strips=strips, panels=panels)
    return episode_figure(view)


def _panel(series: ResultSeries, axis: TimeAxis) -> SignalPanel:
    """The panel of a signal."""

    def table(values: NDArray[np.generic]) -> NDArray[np.float64]:
        """The drawn components [rows, C]."""
        drawn = columns(values)[:, :MAX_CURVES].astype(np.float64)
        return np.log10(drawn) if series.logarithmic else drawn

    main, others = table(series.values), {name: table(value) for name, value in series.others.items()}
    samples = [] if series.samples is None else [table(path) for path in series.samples[:MAX_SAMPLES]]
    starts = axis.times[series.first : series.first + len(main)]
    stops = {"line": None, "points": starts, "held": axis.times[series.first + 1 :][: len(main)]}[series.drawn]
    names = [name.removeprefix(f"{series.signal.name}.") for name in series.names]
    curves = list[SignalCurve]()
    low, high = others.pop("low", None), others.pop("high", None)
    for k in range(main.shape[1]):
        band = (_NONE, _NONE) if low is None or high is None else (low[:, k], high[:, k])
        label = series.heading if others and len(names) == 1 else names[k]
        style: Style = "points" if series.drawn == "points" else "line"
        curves.append(_curve(label, k, style, starts, stops, main[:, k], band))
        curves += [
            _curve(f"{names[k]}, {name}" if len(names) > 1 else name, k, "dashed", starts, stops, value[:, k])
            for name, value in others.items()
        ]
        curves += [_curve("", k, "faint", starts, stops, path[:, k]) for path in samples]
    edges = [edge for edge in (low, high) if edge is not None]
    drawn = np.concatenate([main, *others.values(), *samples, *edges])
    if series.logarithmic:
        drawn = np.concatenate([np.floor(drawn), np.ceil(drawn)])  # powers of ten enclose all values
    ticks = axis_ticks(drawn, 4, whole=series.signal.kind is Kind.DISCRETE or series.logarithmic)
    notes = [f"first {MAX_CURVES} of {len(names)} components"] if len(names) > MAX_CURVES else []
    if low is not None and not np.isfinite(low).all():
        notes.append("no band" if not np.isfinite(low).any() else f"band up to step {np.isfinite(low).all(1).sum()}")
    return SignalPanel(
        signal=series.signal,
        title=with_unit(series.signal.name, series.signal.unit),
        note=", ".join(notes),
        curves=tuple(curves),
        ticks=tuple(ticks),
        tick_texts=_texts(series, ticks),
        missing=(),
        ranges=(),
        heading=series.heading,
    )


def _texts(series: ResultSeries, ticks: Sequence[float]) -> tuple[str, ...]:
    if series.logarithmic:
        return tuple(tick(float(f"{10**power:.3g}")) for power in ticks)
    named = dict(enumerate(series.signal.components)) if series.signal.kind is Kind.DISCRETE else {}
    return tuple(named.get(round(value), "") for value in ticks) if named else tuple(tick_texts(list(ticks)))


def _curve(
    label: str,
    number: int,
    style: Style,
    starts: NDArray[np.float64],
    stops: NDArray[np.float64] | None,
    values: NDArray[np.float64],
    band: tuple[NDArray[np.float64], NDArray[np.float64]] = (_NONE, _NONE),
) -> SignalCurve:
    """The curve of a component; steps if values hold until `stops`, points if they end at once."""
    low, high = (np.where(np.isfinite(edge), edge, np.nan) for edge in band)
    x = starts
    if stops is not None:
        ends = np.where(stops > starts, values, np.nan)
        x, values = np.stack([starts, stops], 1).reshape(-1), np.stack([values, ends], 1).reshape(-1)
        low, high = np.repeat(low, 2), np.repeat(high, 2)
    return SignalCurve(label=label, colour=COLOURS[number], x=x, y=values, low=low, high=high, style=style)
