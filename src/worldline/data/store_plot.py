"""Plots of a store: one episode with its cameras, or several episodes over each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from worldline.errors import InputError
from worldline.formatting import duration, plural
from worldline.plots.charts import LineChart
from worldline.plots.episode_view import MAX_PANELS, Rows, drawn, drawn_signals, left_out, view_rows
from worldline.plots.figure import EpisodeView
from worldline.plots.signal_chart import COLOURS, MAX_CURVES, elapsed_s, envelope_note, signal_chart, time_axis
from worldline.schema import Kind, Role, Signal

if TYPE_CHECKING:
    from worldline.data.store import Store
    from worldline.plots.signal_chart import TimeAxis

OVERLAID: Final = 5
"""Episodes that are drawn over each other if none is chosen."""
_CHUNK_BYTES: Final = 1 << 24


def view_store(store: Store, episodes: int | Sequence[int] | None, signals: Sequence[str]) -> EpisodeView:
    """The plot data of one or several episodes; arguments as in `Store.plot`."""
    numbers: list[int] = spread(len(store), OVERLAID) if episodes is None else np.atleast_1d(episodes).tolist()
    chosen = [store.schema[name] for name in signals]
    if not 1 <= len(numbers) <= len(COLOURS):
        raise InputError(f"expected 1 to {len(COLOURS)} episodes, got {len(numbers)}. Name the episodes to plot.")
    return view_episode(store, numbers[0], chosen) if len(numbers) == 1 else _overlay(store, numbers, chosen)


def view_episode(store: Store, number: int, signals: Sequence[Signal] = ()) -> EpisodeView:
    """The plot data of an episode; reads only the frames and components that are drawn.

    Args:
        store: the store.
        number: 0 to len - 1.
        signals: to plot; default is the first 12 and 4 cameras, with each role represented.

    Raises:
        InputError: there is no such episode.
    """
    axis = time_axis(store.entry(number).num_steps, step_s_of(store, number))  # refuses an episode that is not there
    return view_rows(
        f"Episode {number}",
        f"{store.path.absolute().name} · {length_of(store, number)} · {ending_of(store, number)}",
        axis,
        store.schema,
        signals,
        rows=lambda signal: _rows(store, signal, number),
        frame=lambda camera, at: frame_of(store, camera, number, at),
    )


def _overlay(store: Store, numbers: Sequence[int], signals: Sequence[Signal]) -> EpisodeView:
    """The plot data of several episodes, from the start of each: a panel per component, a colour per episode."""
    steps, steps_s = [store.entry(number).num_steps for number in numbers], [step_s_of(store, n) for n in numbers]
    is_timed = all(step_s is not None for step_s in steps_s)
    used_s = [step_s if is_timed and step_s is not None else 1.0 for step_s in steps_s]
    times = [elapsed_s(count, step_s) for count, step_s in zip(steps, used_s, strict=True)]
    longest = int(np.argmax([seconds[-1] for seconds in times]))
    axis = time_axis(steps[longest], steps_s[longest] if is_timed else None)
    scale = axis.span[1] / (times[longest][-1] or 1.0)
    axes = [replace(axis, times=scale * seconds) for seconds in times]
    curves = [signal for signal in store.schema.signals if signal.kind is not Kind.IMAGE]
    signals = drawn_signals(signals or curves, len(signals) or MAX_PANELS)
    parts = [(signal, k) for signal in signals for k in range(min(math.prod(signal.shape), MAX_CURVES))][:MAX_PANELS]
    charts = [_chart(store, numbers, signal, k, axes, labelled=number == 0) for number, (signal, k) in enumerate(parts)]
    notes = [envelope_note(max(steps) + 1), left_out(len(curves), len({signal.name for signal, _ in parts}))]
    notes += ["Plot a single episode to see its images."] if len(curves) < len(store.schema.signals) else []
    return EpisodeView(
        title=store.path.absolute().name,
        subtitle=f"{plural(len(numbers), 'episode')} of {len(store):,}, each from its start",
        axis=axis,
        moments=(),
        strips=(),
        charts=charts,
        notes=[note for note in notes if note],
    )


def _chart(
    store: Store, numbers: Sequence[int], signal: Signal, k: int, axes: Sequence[TimeAxis], *, labelled: bool
) -> LineChart:
    """Component `k` of a signal in several episodes, with common ticks."""
    rows = [_rows(store, signal, number) for number in numbers]
    if signal.kind is Kind.VECTOR and signal.size > 1:
        name = f"{signal.name}.{signal.components[k] if signal.components else k}"
        signal = Signal(name=name, role=signal.role, kind=signal.kind, shape=(1,), unit=signal.unit)
        rows = [(values[:, k : k + 1], observed) for values, observed in rows]
    values, observed = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    whole = signal_chart(signal, values, observed, time_axis(len(values), None))
    single = [signal_chart(signal, *part, axis).lines[0] for part, axis in zip(rows, axes, strict=True)]
    lines = [
        structs.replace(line, label=f"episode {number}" if labelled else "", style=colour)
        for line, number, colour in zip(single, numbers, COLOURS, strict=False)
    ]
    return structs.replace(whole, lines=lines[::-1], gaps=())


def spread(count: int, max_numbers: int) -> list[int]:
    """Up to `max_numbers` evenly spread numbers below `count`, with the first and the last."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, max_numbers)).tolist()})


def step_s_of(store: Store, number: int) -> float | NDArray[np.float32] | None:
    """Seconds per step of an episode: a number, an array over steps, or None if unknown."""
    own = store.step_s(number, 0, int(store.num_steps[number]))
    return store.schema.step_s if own is None else own


def length_of(store: Store, number: int) -> str:
    """The steps of an episode, and its duration if it is known."""
    counted, time_s = plural(int(store.num_steps[number]), "step"), duration_s_of(store, number)
    return counted if time_s is None else f"{counted}, {duration(time_s)}"


def ending_of(store: Store, number: int) -> str:
    """How an episode ended."""
    entry = store.entry(number)
    words = [text for text, holds in (("terminated", entry.terminated), ("truncated", entry.truncated)) if holds]
    return " and ".join(words) or "open end"


def duration_s_of(store: Store, number: int) -> float | None:
    """Seconds of an episode; None if unknown."""
    step_s = step_s_of(store, number)
    return None if step_s is None else float(elapsed_s(int(store.num_steps[number]), step_s)[-1])


def frame_of(store: Store, camera: Signal, number: int, at: int) -> NDArray[np.uint8] | None:
    """One frame; None if it was not observed."""
    is_seen = store.observed(camera.name, number, at, at + 1)[0]
    return np.asarray(store.read(camera.name, number, at, at + 1)[0], np.uint8) if is_seen else None


def _rows(store: Store, signal: Signal, number: int) -> Rows:
    """One signal of an episode; only drawn components of a wide vector stay in memory."""
    rows = int(store.num_steps[number]) + (signal.role is Role.OBSERVATION)
    width = signal.shape[0] if signal.kind is Kind.VECTOR else 1
    chunk = max(1, _CHUNK_BYTES // (8 * width))
    parts = [drawn(store.read(signal.name, number, k, min(k + chunk, rows))) for k in range(0, rows, chunk)]
    is_input = signal.role is not Role.OBSERVATION
    return np.concatenate(parts), np.ones(rows, bool) if is_input else store.observed(signal.name, number, 0, rows)
