"""Logs as rows for regressions: history, action, next observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from worldline.data.quality.segments import Segment, component_names, track
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Role, Schema
from worldline.stats import Floats

LAGS: Final = 3
"""Observations in the history of a row; it has one action fewer."""
FLAGS: Final = ("randomised", "randomized")
"""Names of a signal that is 1 at steps whose action was drawn at random."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionRows:
    """Rows of `LAGS` consecutive observations and the next one, without missing values.

    Args:
        states: [n, LAGS, d] observations without images, oldest first.
        before: [n, LAGS - 1, m] actions between them.
        action: [n, m] next action.
        inputs: [n, e] exogenous signals and duration of that step.
        after: [n, d] next observation.
        episode: [n], from 0.
        step: [n], step of `action` in its episode.
        randomised: [n], whether the logs flag the action as drawn at random.
        num_episodes: E.
    """

    states: Float[np.ndarray, "n L d"]
    before: Float[np.ndarray, "n L1 m"]
    action: Float[np.ndarray, "n m"]
    inputs: Float[np.ndarray, "n e"]
    after: Float[np.ndarray, "n d"]
    episode: Int[np.ndarray, "n"]
    step: Int[np.ndarray, "n"]
    randomised: Bool[np.ndarray, "n"]
    num_episodes: int

    @property
    def history(self) -> Floats:
        """[n, P] everything that was known when the action was chosen."""
        flat = (part.reshape(len(part), -1) for part in (self.states, self.before, self.inputs))
        return np.concatenate([part.astype(float) for part in flat], 1)

    @property
    def present(self) -> Floats:
        """[n, P] last observation, last action and inputs: what a memoryless controller acts on."""
        parts = (self.states[:, -1], self.before[:, -1], self.inputs)
        return np.concatenate([part.astype(float) for part in parts], 1)

    def of(self, chosen: Bool[np.ndarray, "n"]) -> RegressionRows:
        """The rows where `chosen` is True."""
        arrays = ("states", "before", "action", "inputs", "after", "episode", "step", "randomised")
        return RegressionRows(**{name: getattr(self, name)[chosen] for name in arrays}, num_episodes=self.num_episodes)


def tracks_of(episodes: Sequence[Episode], schema: Schema) -> list[Segment]:
    """Tables of each episode, limited to a few hundred steps each.

    Args:
        episodes: episodes that match the schema.
        schema: schema of their signals.
    """
    return [track(number, episode, schema) for number, episode in enumerate(episodes)]


def rows_of(tracks: Sequence[Segment], flags: Sequence[Floats | None]) -> RegressionRows:
    """All rows without missing values.

    Args:
        tracks: one per episode.
        flags: per episode [T], not 0 at steps with a random action; None if the logs have no flag.

    Raises:
        DataError: no row is complete.
    """
    parts = [_rows(number, segment, flag) for number, (segment, flag) in enumerate(zip(tracks, flags, strict=True))]
    if not any(len(part["episode"]) for part in parts):
        raise DataError(
            f"no {LAGS + 1} consecutive observations are complete", fix="Give longer episodes, or fewer signals."
        )
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return RegressionRows(**arrays, num_episodes=len(tracks))


def _rows(number: int, segment: Segment, flag: Floats | None) -> dict[str, NDArray[Any]]:
    """The arrays of `RegressionRows` for one episode."""
    table, whole, length = segment.table, segment.whole, len(segment.actions)
    at = np.arange(LAGS - 1, length)
    at = at[np.all([whole[at + 1 - lag] for lag in range(LAGS + 1)], axis=0)] if len(at) else at
    drawn = np.zeros(length) if flag is None else np.asarray(flag, float)[:length]
    return {
        "states": np.stack([table[at - lag] for lag in range(LAGS - 1, -1, -1)], 1),
        "before": np.stack([segment.actions[at - lag] for lag in range(LAGS - 1, 0, -1)], 1),
        "action": segment.actions[at],
        "inputs": segment.inputs[at],
        "after": table[at + 1],
        "episode": np.full(len(at), number),
        "step": at,
        "randomised": drawn[at] != 0,
    }


def action_names(schema: Schema) -> tuple[str, ...]:
    """Names of the columns of `RegressionRows.action`."""
    return component_names(schema, Role.ACTION)
