"""Figures of a store and their texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worldline.formatting import NBSP, listing, number, percent, plural, pretty_unit, size, tick
from worldline.schema import Schema, Signal

SIGNAL_TITLES: Final = ("signal", "role", "kind", "shape", "unit", "bounds")


@dataclass(frozen=True, kw_only=True)
class SignalFigures:
    """Figures of one signal of a store.

    Args:
        signal: the signal in the schema.
        num_rows: number of its values in the store.
        num_bytes: bytes on disk.
        missing: share of missing values; None if it is not an observation.
        max_error: largest error of a pixel in grey levels; None if it is not an image.
    """

    signal: Signal
    num_rows: int
    num_bytes: int
    missing: float | None
    max_error: int | None


@dataclass(frozen=True, kw_only=True)
class KeyFigures:
    """One key of the origin of episodes.

    Args:
        name: the key.
        num_episodes: episodes with this key.
        num_values: distinct values.
        examples: the first few values.
    """

    name: str
    num_episodes: int
    num_values: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StoreFigures:
    """Figures of a store.

    Args:
        name: name of its folder.
        schema: schema of all episodes.
        num_episodes: number of episodes.
        num_steps: steps of all episodes.
        time_s: seconds of all episodes; None if unknown.
        shortest: steps of the shortest episode; 0 for an empty store.
        median: median of the steps; 0 for an empty store.
        longest: steps of the longest episode; 0 for an empty store.
        signals: in the order of the schema.
        other_bytes: bytes on disk of index and cards.
        layout: version of the store's layout.
        notes: notes of the data card.
        keys: keys of the origin of episodes.
        terminated: episodes that were terminated and not truncated.
        truncated: episodes that were truncated and not terminated.
        both: episodes that were both.
        neither: episodes that were neither.
        seeded: episodes with a seed.
    """

    name: str
    schema: Schema
    num_episodes: int
    num_steps: int
    time_s: float | None
    shortest: int
    median: float
    longest: int
    signals: tuple[SignalFigures, ...]
    other_bytes: int
    layout: int
    notes: Mapping[str, str]
    keys: tuple[KeyFigures, ...]
    terminated: int
    truncated: int
    both: int
    neither: int
    seeded: int

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of the whole store."""
        return self.other_bytes + sum(figures.num_bytes for figures in self.signals)


def endings(figures: StoreFigures) -> str:
    """How the episodes ended: "12 terminated, 3 truncated"."""
    parts = {
        "terminated": figures.terminated,
        "truncated": figures.truncated,
        "terminated and truncated": figures.both,
        "neither terminated nor truncated": figures.neither,
    }
    return ", ".join(f"{number(count)} {text}" for text, count in parts.items() if count) or "none"


def lengths(figures: StoreFigures) -> str:
    """The lengths of the episodes."""
    if figures.shortest == figures.longest:
        return plural(figures.longest, "step")
    return f"{number(figures.shortest)} to {number(figures.longest)} steps, median {tick(figures.median)}"


def origin(key: KeyFigures) -> str:
    """The values of a key: how many, and the first few."""
    shown = ", ".join(key.examples)
    if key.num_values <= len(key.examples):
        return shown
    return f"{plural(key.num_values, 'value')}: {shown}, …"


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


def shape(signal: Signal) -> str:
    """The shape of one value: "64 × 64 × 3"; empty for a discrete signal."""
    return f"{NBSP}×{NBSP}".join(str(n) for n in signal.shape)


def signal_cells(signal: Signal) -> tuple[str, ...]:
    """The cells of a signal in a table with `SIGNAL_TITLES`."""
    unit = pretty_unit(signal.unit) or signal.unit
    return signal.name, str(signal.role), str(signal.kind), shape(signal), unit, bounds(signal)


def value_size(figures: SignalFigures) -> str:
    """Bytes per stored value; a dash if there is none."""
    return size(figures.num_bytes / figures.num_rows) if figures.num_rows else "–"


def exactness(figures: SignalFigures) -> str:
    """Precision of the stored signal."""
    return "exact" if not figures.max_error else f"within {plural(figures.max_error, 'grey level')}"


def missing(figures: SignalFigures) -> str:
    """Share of missing values; empty for signals that are always observed."""
    if figures.missing is None:
        return ""
    return percent(figures.missing) if figures.missing else "none"
