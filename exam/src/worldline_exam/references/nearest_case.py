"""Engine that copies what followed the most similar training case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, own_belief
from worldline.episode import Arrays, Episode
from worldline.errors import DataError
from worldline.schema import Schema
from worldline_exam.references.base import ReferenceEngine, each_version, flat, reference_card, vectors_of

Floats = NDArray[np.floating]

BATCH_QUERIES: Final = 64
"""Queries compared with all cases in one batch; bounds memory."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NearestCase(ReferenceEngine):
    """Copies the nearest window of the logs, shifted to the present positions.

    Distance compares all signals except places, places relative to each other, and mean future actions, each in units
    of its spread over all cases. Absolute places do not count, which makes the copy as good as possible.

    Args:
        schema: schema of the logs.
        episodes: logs without gaps.
        places: signals that are copied as displacement from the present. All but the first are compared relative to
            the first.
    """

    schema: Schema
    episodes: Sequence[Episode]
    places: tuple[str, ...]

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("nearest case", self.schema)

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The copied window.

        Raises:
            DataError: no episode is as long as the horizon.
        """
        state, actions = each_version(own_belief(belief, dict), actions), flat(actions)
        cases = self._cases(next(iter(actions.values())).shape[1])
        nearest = _nearest(self._features(state, actions), self._features(_first(cases), _inputs(cases)))
        copied = {}
        for name, present in state.items():
            path = cases[name][nearest].astype(float)
            copied[name] = path[:, 1:] + (present - path[:, 0])[:, None] if name in self.places else path[:, 1:]
        return copied

    def _cases(self, horizon: int) -> dict[str, NDArray[np.generic]]:
        """All windows: observations [n, T + 1, *shape] and actions [n, T, *shape], by name."""
        windows: dict[str, list[NDArray[np.generic]]] = {}
        for episode in self.episodes:
            for first in range(episode.num_steps - horizon + 1):
                for name in vectors_of(self.schema):
                    windows.setdefault(name, []).append(episode.observations[name][first : first + horizon + 1])
                for signal in self.schema.actions:
                    cut = episode.actions[signal.name][first : first + horizon]
                    windows.setdefault(f"action {signal.name}", []).append(cut)
        if not windows:
            raise DataError(f"no episode has {horizon} steps", fix="Record longer episodes.")
        return {name: np.stack(parts) for name, parts in windows.items()}

    def _features(self, state: Arrays, actions: Arrays) -> Floats:
        """Features [n, F] by which cases are compared."""
        others = [value for name, value in state.items() if name not in self.places]
        apart = [state[name].astype(float) - state[self.places[0]] for name in self.places[1:]]
        means = [value.astype(float).mean(1) for value in actions.values()]
        return np.concatenate([np.asarray(part, dtype=float) for part in (*others, *apart, *means)], -1)


def _first(cases: Arrays) -> dict[str, NDArray[np.generic]]:
    return {name: value[:, 0] for name, value in cases.items() if not name.startswith("action ")}


def _inputs(cases: Arrays) -> dict[str, NDArray[np.generic]]:
    return {name: value for name, value in cases.items() if name.startswith("action ")}


def _nearest(present: Floats, cases: Floats) -> NDArray[np.integer]:
    """Index [W] of the nearest case of each query."""
    spread = np.maximum(cases.std(0), 1e-9)
    present, cases = present / spread, cases / spread
    parts = []
    for first in range(0, len(present), BATCH_QUERIES):
        apart = present[first : first + BATCH_QUERIES, None] - cases[None]
        parts.append((apart**2).sum(-1).argmin(1))
    return np.concatenate(parts)
