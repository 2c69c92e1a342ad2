"""The logged range of signals: a world has seen nothing outside of it.

Predictions far outside have the smallest trust, because no log supports them and bands do not cover them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode
from worldline.errors import DataError
from worldline.schema import Kind, Schema

Floats = NDArray[np.floating]

FAR_RANGES: Final = 2.0
"""Distance from the logged range, in ranges, beyond which a predicted path is not trusted. A path towards a goal may
leave the range; one that is three ranges wide was never near the logs."""


def ranges_of(schema: Schema, episodes: Iterable[Episode]) -> dict[str, Floats]:
    """The lowest and the highest logged value [2, n] of each vector signal, for all roles but rewards.

    Periodic signals have no range. Signals without an observed value are left out.

    Args:
        schema: of the signals.
        episodes: read one at a time. A signal that an episode lacks is left out of its range.
    """
    names = [signal.name for signal in schema.signals if signal.kind is Kind.VECTOR and signal.period is None]
    found: dict[str, Floats] = {}
    for episode in episodes:
        logged = {**episode.observations, **episode.actions, **episode.exogenous}
        for name in [name for name in names if name in logged]:
            seen = logged[name][episode.observed[name].astype(bool)] if name in episode.observed else logged[name]
            known = np.concatenate([found.get(name, seen[:0]), seen.astype(np.float64)])
            if len(known):
                found[name] = np.stack([known.min(0), known.max(0)])
    return found


def observed_values(episodes: Sequence[Episode], name: str) -> Floats:
    """Every observed value of an observation signal [n, *shape], at least one.

    Raises:
        DataError: there is none.
    """
    seen = [
        episode.observations[name][episode.observed.get(name, np.ones(episode.num_steps + 1, bool)).astype(bool)]
        for episode in episodes
    ]
    values = np.concatenate(seen).astype(np.float64)
    if not len(values):
        raise DataError("the signal is never observed", fix="Remove it from the schema, or add logs.", signal=name)
    return values


def leaves_range(ranges: Mapping[str, Floats], means: Arrays) -> NDArray[np.bool_]:
    """Whether predicted paths [*lead, T, n] are far outside their range or not finite at any step.

    The result is [*lead], or [] if no path is compared.

    Components that never changed in the logs have no scale and are not compared.

    Args:
        ranges: from `ranges_of`.
        means: per signal its mean path. Signals without a range are not compared.
    """
    far = np.zeros((), bool)
    for name in ranges.keys() & means.keys():
        low, high = ranges[name]
        room = np.where(high > low, FAR_RANGES * (high - low), np.inf)
        path = means[name].astype(np.float64)
        far = far | ~((path >= low - room) & (path <= high + room) & np.isfinite(path)).all((-2, -1))
    return far
