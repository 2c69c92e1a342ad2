"""Figures of a store and their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from worldline.data.store import Store
from worldline.data.store_plot import duration_s_of, ending_of
from worldline.formatting import NBSP, listing, number, percent, plural, pretty_unit, tick
from worldline.schema import Kind, Role, Schema, Signal

SIGNAL_TITLES: Final = ("signal", "role", "kind", "shape", "unit", "bounds")
_EXAMPLES: Final = 3


@dataclass(frozen=True, kw_only=True)
class SignalFigures:
    """Figures of one signal of a store.

    Args:
        signal: the signal in the schema.
        num_bytes: bytes on disk.
        missing: share of missing values; None if it is not an observation.
        max_error: largest error of a pixel in grey levels; None if it is not an image.
    """

    signal: Signal
    num_bytes: int
    missing: float | None
    max_error: int | None


@dataclass(frozen=True, kw_only=True)
class StoreFigures:
    """Figures of a store.

    Args:
        name: name of its folder.
        schema: schema of all episodes.
        num_episodes: number of episodes.
        num_steps: steps of all episodes.
        time_s: seconds of all episodes; None if unknown.
        lengths: steps of the shortest episode, their median, and those of the longest episode; 0 for an empty store.
        signals: in the order of the schema.
        num_bytes: bytes on disk of the whole store.
        notes: notes of the data card.
        sources: the values of each key of the origin of episodes: how many, and the first few.
        endings: how many episodes ended how.
        seeded: episodes with a seed.
    """

    name: str
    schema: Schema
    num_episodes: int
    num_steps: int
    time_s: float | None
    lengths: tuple[int, float, int]
    signals: tuple[SignalFigures, ...]
    num_bytes: int
    notes: Mapping[str, str]
    sources: Mapping[str, str]
    endings: Mapping[str, int]
    seeded: int


def measure(store: Store) -> StoreFigures:
    """The figures of a store; reads masks and sources, but no values."""
    sizes, steps, entries = store.num_bytes(), store.num_steps, [store.entry(k) for k in range(len(store))]
    values: dict[str, list[str]] = {}
    for key, value in ((key, value) for entry in entries for key, value in entry.source.items()):
        values.setdefault(key, []).append(str(value))
    return StoreFigures(
        name=store.path.absolute().name,
        schema=store.schema,
        num_episodes=len(store),
        num_steps=int(steps.sum()),
        time_s=_time_s(store),
        lengths=(int(steps.min()), float(np.median(steps)), int(steps.max())) if len(store) else (0, 0.0, 0),
        signals=tuple(
            SignalFigures(
                signal=signal,
                num_bytes=sizes[signal.name],
                missing=_missing(store, signal),
                max_error=store.card.max_error.get(signal.name, 0) if signal.kind is Kind.IMAGE else None,
            )
            for signal in store.schema.signals
        ),
        num_bytes=sum(sizes.values()),
        notes=dict(store.card.notes),
        sources={key: _origin(list(dict.fromkeys(texts))) for key, texts in values.items()},
        endings=dict(Counter(ending_of(store, k) for k in range(len(store)))),
        seeded=sum(entry.seed is not None for entry in entries),
    )


def _time_s(store: Store) -> float | None:
    """Seconds of all episodes; None if unknown for one."""
    if not store.has_step_s():
        return None if store.schema.step_s is None else store.schema.step_s * int(store.num_steps.sum())
    times_s = [duration_s_of(store, k) for k in range(len(store))]
    return None if None in times_s else sum(time_s for time_s in times_s if time_s is not None)


def _missing(store: Store, signal: Signal) -> float | None:
    if signal.role is not Role.OBSERVATION:
        return None
    lengths: list[int] = store.num_steps.tolist()
    if not lengths or not store.has_missing():
        return 0.0
    known = sum(int(store.observed(signal.name, k, 0, steps + 1).sum()) for k, steps in enumerate(lengths))
    return 1 - known / (sum(lengths) + len(lengths))


def _origin(distinct: list[str]) -> str:
    """The values of a key: how many, and the first few."""
    shown = ", ".join(distinct[:_EXAMPLES])
    return shown if len(distinct) <= _EXAMPLES else f"{plural(len(distinct), 'value')}: {shown}, …"


def endings(figures: StoreFigures) -> str:
    """How the episodes ended: "12 terminated, 3 truncated"."""
    return ", ".join(f"{number(count)} {text}" for text, count in figures.endings.items()) or "none"


def lengths(figures: StoreFigures) -> str:
    """The lengths of the episodes."""
    shortest, median, longest = figures.lengths
    if shortest == longest:
        return plural(longest, "step")
    return f"{number(shortest)} to {number(longest)} steps, median {tick(median)}"


def bounds(signal: Signal) -> str:
    """The bounds of a signal; empty without bounds."""
    if signal.num_values is not None:
        return f"0 to {number(signal.num_values - 1)}"
    if signal.low is None and signal.high is None:
        return ""
    ends = [tuple(None if edge is None else edge[k] for edge in (signal.low, signal.high)) for k in range(signal.size)]
    distinct = list(dict.fromkeys(ends))
    if len(distinct) > 3:
        return f"{len(distinct)} different"
    return listing([_between(low, high) for low, high in distinct])


def _between(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"from {number(low)}" if low is not None else f"to {number(high or 0.0)}"
    return f"{number(low)} to {number(high)}"


def signal_cells(signal: Signal) -> tuple[str, ...]:
    """The cells of a signal in a table with `SIGNAL_TITLES`."""
    shape, unit = f"{NBSP}×{NBSP}".join(map(str, signal.shape)), pretty_unit(signal.unit) or signal.unit
    return signal.name, str(signal.role), str(signal.kind), shape, unit, bounds(signal)


def stored_as(figures: SignalFigures) -> str:
    """Type and precision of the stored signal."""
    return figures.signal.dtype + (f", within {plural(figures.max_error, 'grey level')}" if figures.max_error else "")


def missing(figures: SignalFigures) -> str:
    """Share of missing values; empty for signals that are always observed."""
    if figures.missing is None:
        return ""
    return percent(figures.missing) if figures.missing else "none"
