"""Stores for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldline.data.index import Source
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.schema import Kind, Role, Schema, Signal


def stored(path: Path | str, schema: Schema, episodes: Iterable[Episode], sources: Sequence[Source] = ()) -> Store:
    """A new store that holds the episodes, with a source for each of them or for none."""
    store = Store.create(path, schema)
    for number, episode in enumerate(episodes):
        store.append(episode, sources[number] if sources else {})
    return store


def random_episode(schema: Schema, num_steps: int, number: int = 0, **more: Any) -> Episode:
    """An episode of noise within the bounds of signals that have a range from -1 to 1; `number` is its seed."""
    draw = np.random.default_rng([number, num_steps])
    arrays = {r: {s.name: _noise(s, num_steps + (r is Role.OBSERVATION), draw) for s in schema.of(r)} for r in Role}
    return Episode(
        observations=arrays[Role.OBSERVATION],
        actions=arrays[Role.ACTION],
        exogenous=arrays[Role.EXOGENOUS],
        rewards=arrays[Role.REWARD],
        **more,
    )


def _noise(signal: Signal, num_rows: int, draw: np.random.Generator) -> np.ndarray:
    shape = (num_rows, *signal.shape)
    if signal.kind is Kind.VECTOR:
        return draw.uniform(-1, 1, shape).astype(signal.dtype)
    return draw.integers(0, signal.num_values or 256, shape).astype(signal.dtype)
