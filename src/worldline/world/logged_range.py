"""The logged range of signals: a world has seen nothing outside of it.

Bands are calibrated inside the range. For a smooth system the error of a model grows in proportion to the distance from
it, to first order. So with an input outside, by a share `excess` of the range, the band is `1 + WIDENING * excess`
times as wide from that step on. The largest excess over signals, components and steps so far counts. Trust keeps its
value up to `TRUSTED_EXCESS`, and falls in proportion to the smallest value at `MAX_EXCESS`.

Predictions far outside have the smallest trust, because no log supports them and bands do not cover them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import pretty_unit
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]
Ranges = Mapping[str, Floats]
"""Lowest and highest logged value [2, n] per signal."""

WIDENING: Final = 20.0
"""Growth of a band per excess: three times as wide at `MAX_EXCESS`. Models of six scalar functions with noise needed a
median factor of 1.2 to 2.5 at an excess of 5 %, and of 1.5 to 4.2 at 10 %."""
TRUSTED_EXCESS: Final = 0.05
"""Largest excess that does not reduce trust, as a share of the range."""
MAX_EXCESS: Final = 0.1
"""Excess from which on trust is the smallest. Actions further outside their bounds are refused."""
FAR_RANGES: Final = 2.0
"""Distance from the logged range, in ranges, beyond which a predicted path is not trusted. A path towards a goal may
leave the range; one that is three ranges wide was never near the logs."""
MAX_REACH: Final = 1e6
"""Distance from the logged range, in ranges or in the largest logged value, beyond which a value of a history is
refused. A belief that holds it could overflow, and every later answer with it."""
MAX_VALUE: Final = 1e15
"""Largest absolute value of a signal without a logged range; float32 holds its square."""


def ranges_of(schema: Schema, episodes: Iterable[Episode]) -> dict[str, Floats]:
    """The lowest and the highest logged value [2, n] of each vector signal, for all roles but rewards.

    Periodic signals have no range. Signals without an observed value are left out.

    Args:
        schema: of the signals.
        episodes: read one at a time. A signal that an episode lacks is left out of its range.
    """
    names = [signal.name for signal in schema.signals if signal.kind is Kind.VECTOR and signal.period is None]
    ranges: dict[str, Floats] = {}
    for episode in episodes:
        logged = {**episode.observations, **episode.actions, **episode.exogenous}
        for name in [name for name in names if name in logged]:
            seen = logged[name][episode.observed[name].astype(bool)] if name in episode.observed else logged[name]
            known = np.concatenate([ranges.get(name, seen[:0]), seen.astype(np.float64)])
            if len(known):
                ranges[name] = np.stack([known.min(0), known.max(0)])
    return ranges


def observed_values(episodes: Sequence[Episode], name: str) -> Floats:
    """Every observed value of an observation signal [n, *shape], at least one.

    Raises:
        DataError: there is none.
    """
    values = np.concatenate([episode.observations[name][episode.mask(name)] for episode in episodes]).astype(np.float64)
    if not len(values):
        raise DataError("the signal is never observed", fix="Remove it from the schema, or add logs.", signal=name)
    return values


def leaves_range(ranges: Ranges, means: Arrays, lead: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether predicted paths [*lead, T, n] are far outside their range or not finite at any step, [*lead].

    Components that never changed in the logs have no scale and are not compared.

    Args:
        ranges: from `ranges_of`.
        means: per signal its mean path. Signals without a range are not compared.
        lead: leading sizes; 1 for a size that follows from the paths.
    """
    far = np.zeros(lead, bool)
    for name in ranges.keys() & means.keys():
        near = (_excess(ranges[name], means[name]) <= FAR_RANGES) | (ranges[name][0] == ranges[name][1])
        far = far | ~near.all((-2, -1))
    return far


def excess_of(ranges: Ranges, values: Arrays, lead: tuple[int, ...]) -> Floats:
    """The largest excess [*lead] of values [*lead, n] over their ranges; 0 inside. NaN means missing.

    Args:
        ranges: from `ranges_of`.
        values: per signal. Signals without a range have no excess.
        lead: leading sizes; 1 for a size that follows from the values.
    """
    largest = np.zeros(lead)
    for name in ranges.keys() & values.keys():
        largest = np.fmax(largest, _excess(ranges[name], values[name]).max(-1))
    return largest


def _excess(ends: Floats, values: NDArray[np.generic]) -> Floats:
    """The excess of each value [*lead, n] over its range [2, n]; negative inside."""
    (low, high), numbers = ends, values.astype(np.float64)
    size = np.maximum(np.abs(low), np.abs(high))
    # As in `InputNovelty.fit`: a component that never changed gives no scale, so any change counts as large.
    unit = np.where(high > low, high - low, 1e-6 * (1 + size))
    beyond = np.maximum(low - numbers, numbers - high) - np.finfo(np.float32).eps * size
    return np.asarray(beyond / unit)


def history_excess(ranges: Ranges, inputs: Iterable[str], history: History) -> Floats:
    """The excess [W, H] of each observation of the signals `inputs`, and of the actions and exogenous before it."""
    lead, seen = next(iter(history.observations.values())).shape[:2], dict[str, NDArray[np.generic]]()
    for name in ranges.keys() & set(inputs) & history.observations.keys():
        seen[name] = np.where(history.mask(name)[..., None], history.observations[name], np.nan)
    excess = excess_of(ranges, seen, lead)
    before = excess_of(ranges, {**history.actions, **history.exogenous}, (lead[0], lead[1] - 1))
    excess[:, 1:] = np.maximum(excess[:, 1:], before)
    return excess


def check_magnitudes(schema: Schema, ranges: Ranges, history: History | Episode) -> None:
    """Checks that the arithmetic of a world can hold the vector signals of a history or an episode.

    Raises:
        UnsupportedError: a value is more than `MAX_REACH` outside its range, or above `MAX_VALUE` without one.
    """
    for name, values in {**history.observations, **history.actions, **history.exogenous}.items():
        if (signal := schema[name]).kind is not Kind.VECTOR:
            continue
        low, high = (edge.astype(np.float64) for edge in ranges.get(name, np.outer([-1, 1], [MAX_VALUE])))
        if name in ranges:
            size = np.maximum(np.abs(low), np.abs(high))
            reach = MAX_REACH * np.maximum(high - low, np.where(size > 0, size, 1.0))
            low, high = low - reach, high + reach
        far = (values < low) | (values > high)
        if name in history.observed:
            far &= history.observed[name].astype(bool)[..., None]
        if far.any():
            part = np.argwhere(far)[0, -1]
            least, most = (np.broadcast_to(edge, signal.size)[part] for edge in (low, high))
            raise UnsupportedError(
                f"{_label(signal, part)} is {values[far][0]:.4g} {signal.unit}. This world computes with {least:.4g} "
                f"to {most:.4g}. Check the sensor, or mark the value as missing in `observed`."
            )


def far_value(schema: Schema, ranges: Ranges, values: Arrays, what: str) -> str:
    """A sentence on the first signal with values [*lead, n] more than `MAX_EXCESS` outside its range; empty for none.

    Args:
        schema: of the signals.
        ranges: from `ranges_of`.
        values: per signal. NaN means missing.
        what: the values are, for the sentence.
    """
    for name in [name for name in values if name in ranges]:
        signal, numbers = schema[name], values[name].reshape(-1, schema[name].size)
        excess = np.nan_to_num(_excess(ranges[name], numbers), nan=0.0, posinf=np.inf)
        row, part = np.unravel_index(excess.argmax(), excess.shape)
        if excess[row, part] > MAX_EXCESS:
            label = _label(signal, part)
            value = f"{numbers[row, part]:.4g} {pretty_unit(signal.unit)}".rstrip()
            low, high = ranges[name][:, part]
            return f"{what} outside the logged range: {label} {value}, logged {low:.4g} to {high:.4g}"
    return ""


def _label(signal: Signal, part: int | np.integer[Any]) -> str:
    """The name of a component of a vector."""
    return f"{signal.name}[{(signal.components or range(signal.size))[part]}]" if signal.size > 1 else signal.name


def widening_of(past: Floats, outside: Floats) -> Floats:
    """The factor [W, T] on bands after a history of excess [W, C], for inputs of excess [W, T]."""
    return np.asarray(1 + WIDENING * np.maximum.accumulate(np.maximum(past.max(1)[:, None], outside), 1))


def lowered(trust: Floats, smallest: float, excess: Floats) -> Floats:
    """The trust [W] in predictions from inputs of this excess [W]; NaN stays NaN."""
    share = np.clip((MAX_EXCESS - excess) / (MAX_EXCESS - TRUSTED_EXCESS), 0.0, 1.0)
    return np.asarray(np.maximum(smallest, share * trust))
