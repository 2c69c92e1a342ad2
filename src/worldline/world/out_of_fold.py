"""Engines that predict episodes which they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import Places
from worldline.engines.base import Engine
from worldline.episode import Episode

Array = NDArray[Any]


@dataclass(frozen=True)
class OutOfFold:
    """The engine for each episode, by the identity of the episode."""

    engines: Mapping[int, Engine]

    @classmethod
    def of(cls, episodes: Sequence[Episode], engines: Sequence[Engine]) -> OutOfFold:
        """One engine per episode."""
        return cls({id(episode): engine for episode, engine in zip(episodes, engines, strict=True)})

    def ask(self, places: Places, question: Callable[[Engine, Sequence[int]], Mapping[str, Array]]) -> dict[str, Array]:
        """The answers at all places in their order; arrays with a row per place.

        Args:
            places: in episodes that have an engine.
            question: gets an engine and the indices of its places.
        """
        # One question per engine, with all of its places, because batches are faster.
        rows, asked = dict[int, list[int]](), dict[int, Engine]()
        for row, (episode, _) in enumerate(places):
            engine = self.engines[id(episode)]
            rows.setdefault(id(engine), []).append(row)
            asked[id(engine)] = engine
        answers = [question(asked[key], part) for key, part in rows.items()]
        order = np.argsort(np.concatenate(list(rows.values())))
        return {name: np.concatenate([answer[name] for answer in answers])[order] for name in answers[0]}
