"""Logs as rows for regressions: what was known, what was done, what came next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int

from worldline.data.quality.segments import Segment, component_names, track
from worldline.episode import Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema
from worldline.stats import Floats

LAGS: Final = 3
"""Observations of a row's history, and one action fewer."""
FLAGS: Final = ("randomised", "randomized")
"""Names of a signal that is 1 where the action of that step was drawn at random."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegressionRows:
    """Complete stretches of `LAGS` observations and the next one.

    Args:
        states: [n, LAGS, d] observations that are no pictures, the oldest first.
        before: [n, LAGS - 1, m] the actions between them.
        action: [n, m] what was done next.
        inputs: [n, e] exogenous signals and length of that step.
        after: [n, d] what came of it.
        episode: [n], from 0.
        step: [n], of `action` in its episode.
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
        """[n, P] all that was known when the action was chosen, side by side."""
        flat = (one.reshape(len(one), -1) for one in (self.states, self.before, self.inputs))
        return np.concatenate([part.astype(float) for part in flat], 1)

    @property
    def present(self) -> Floats:
        """[n, P] the last observation, the last action and the inputs: what a controller without a memory acts on."""
        parts = (self.states[:, -1], self.before[:, -1], self.inputs)
        return np.concatenate([part.astype(float) for part in parts], 1)

    def of(self, chosen: Bool[np.ndarray, "n"]) -> RegressionRows:
        """The chosen rows."""
        arrays = ("states", "before", "action", "inputs", "after", "episode", "step", "randomised")
        return RegressionRows(**{name: getattr(self, name)[chosen] for name in arrays}, num_episodes=self.num_episodes)


def tracks_of(episodes: Sequence[Episode], schema: Schema) -> list[Segment]:
    """The tables of each episode, at most some hundred steps of it.

    Args:
        episodes: that fit the schema.
        schema: of their signals.
    """
    return [track(number, one, schema) for number, one in enumerate(episodes)]


def rows_of(tracks: Sequence[Segment], flags: Sequence[Floats | None]) -> RegressionRows:
    """Every complete stretch.

    Args:
        tracks: one an episode.
        flags: per episode [T], not 0 where the action was drawn at random; None where the logs do not say.

    Raises:
        DataError: no stretch is complete.
    """
    parts = [_rows(number, one, flag) for number, (one, flag) in enumerate(zip(tracks, flags, strict=True))]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if not found or not len(found["episode"]):
        raise DataError(
            f"no stretch of {LAGS + 1} observations is complete", fix="Give longer episodes, or fewer signals."
        )
    return RegressionRows(
        states=found["states"],
        before=found["before"],
        action=found["action"],
        inputs=found["inputs"],
        after=found["after"],
        episode=found["episode"].astype(np.int64),
        step=found["step"].astype(np.int64),
        randomised=found["randomised"].astype(bool),
        num_episodes=len(tracks),
    )


def _rows(number: int, one: Segment, flag: Floats | None) -> dict[str, Floats]:
    """As in `RegressionRows`, of one episode."""
    table, whole, length = one.table, one.whole, len(one.actions)
    at = np.arange(LAGS - 1, length)
    at = at[np.all([whole[at + 1 - lag] for lag in range(LAGS + 1)], axis=0)] if len(at) else at
    drawn = np.zeros(length) if flag is None else np.asarray(flag, float)[:length]
    return {
        "states": np.stack([table[at - lag] for lag in range(LAGS - 1, -1, -1)], 1),
        "before": np.stack([one.actions[at - lag] for lag in range(LAGS - 1, 0, -1)], 1),
        "action": one.actions[at],
        "inputs": one.inputs[at],
        "after": table[at + 1],
        "episode": np.full(len(at), number),
        "step": at,
        "randomised": drawn[at] != 0,
    }


def action_names(schema: Schema) -> tuple[str, ...]:
    """A name for each column of `RegressionRows.action`."""
    return component_names(schema, Role.ACTION)


def state_columns(schema: Schema, signal: str) -> slice:
    """The columns of `RegressionRows.after` that hold a vector signal."""
    first = 0
    for one in schema.observations:
        if one.kind is Kind.IMAGE:
            continue
        size = one.size if one.kind is Kind.VECTOR else max(1, one.size - 1)
        if one.name == signal:
            return slice(first, first + size)
        first += size
    raise DataError("it is no observation of numbers", fix="Name a vector observation.", signal=signal)
