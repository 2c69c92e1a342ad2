"""The logged range of signals: a world has seen nothing outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Schema

Floats = NDArray[np.floating]


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
