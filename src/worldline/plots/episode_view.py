"""What the plot of an episode shows: a strip per camera and a chart per signal, chosen and read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.formatting import number, plural
from worldline.plots.figure import EpisodeView, Strip, num_frames
from worldline.plots.images import Frames
from worldline.plots.signal_chart import MAX_CURVES, TimeAxis, envelope_note, signal_chart
from worldline.schema import Kind, Role, Schema, Signal

Rows = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""Drawn values [rows, C] or [rows] of a signal, and where they were observed, [rows]."""

MAX_PANELS: Final = 12
MAX_CAMERAS: Final = 4


def drawn_signals(signals: Sequence[Signal], limit: int) -> list[Signal]:
    """The first signals that can be drawn as curves: at least one of each role, grouped by role."""
    roles, curves = list(Role), [signal for signal in signals if signal.kind is not Kind.IMAGE]
    by_role = sorted(curves, key=lambda signal: roles.index(signal.role))
    firsts = [next(group) for _, group in groupby(by_role, lambda signal: signal.role)]
    rest = [signal for signal in curves if signal not in firsts]
    chosen = [*firsts, *rest][:limit]
    return [signal for signal in by_role if signal in chosen]


def view_rows(
    title: str,
    subtitle: str,
    axis: TimeAxis,
    schema: Schema,
    signals: Sequence[Signal],
    *,
    rows: Callable[[Signal], Rows],
    frame: Callable[[Signal, int], Frames | None],
) -> EpisodeView:
    """The plot data of an episode; reads only the frames and signals that are drawn.

    Args:
        title: of the plot.
        subtitle: in one line.
        axis: of the episode.
        schema: of the episode.
        signals: to draw; default is the first 12 and 4 cameras, with each role represented.
        rows: reads a signal.
        frame: reads an image of a camera; None if it was not observed.
    """
    cameras = [camera for camera in signals or schema.observations if camera.kind is Kind.IMAGE]
    shown = cameras if signals else cameras[:MAX_CAMERAS]
    curves = drawn_signals(signals or schema.signals, len(signals) or MAX_PANELS)
    moments = _moments(axis, num_frames([camera.shape for camera in shown])) if shown else []
    notes = [envelope_note(len(axis.times))] if any(signal.kind is Kind.VECTOR for signal in curves) else []
    return EpisodeView(
        title=title,
        subtitle=subtitle,
        axis=axis,
        moments=moments,
        strips=[Strip(name=c.name, shape=c.shape, frames=[frame(c, at) for at in moments]) for c in shown],
        charts=[signal_chart(signal, *rows(signal), axis) for signal in curves],
        notes=[note for note in (*notes, left_out(len(schema.signals), len(shown) + len(curves))) if note],
    )


def left_out(num_signals: int, num_shown: int) -> str:
    """The note on the signals that are not drawn; empty if there are none."""
    left = num_signals - num_shown
    text = f"{plural(left, 'signal')} of {number(num_signals)} left out. Choose with the option signals."
    return text if left else ""


def _moments(axis: TimeAxis, count: int) -> list[int]:
    """Indices of up to `count` observations, nearest to the middles of `count` equal parts of the axis."""
    if len(axis.times) <= count:
        return list(range(len(axis.times)))
    middles = axis.span[1] * (np.arange(count) + 0.5) / count
    return sorted({int(np.abs(axis.times - middle).argmin()) for middle in middles})


def schema_of_arrays(groups: Mapping[Role, Mapping[str, NDArray[np.generic]]]) -> Schema:
    """The signals of arrays [rows, *shape] by role, with unknown units."""
    signals = []
    for role, arrays in groups.items():
        for name, value in arrays.items():
            kind = Kind.IMAGE if value.dtype == np.uint8 and value.ndim == 4 else Kind.VECTOR
            shape = value.shape[1:] if kind is Kind.IMAGE else (max(1, value[0].size if len(value) else 1),)
            signals.append(Signal(name=name, role=role, kind=kind, shape=shape, unit="?"))
    return Schema(signals=tuple(signals))


def drawn(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The drawn components [rows, C] of the values of a signal; a copy, because a view would keep the whole array."""
    return values.reshape(len(values), -1)[:, :MAX_CURVES].copy()
