"""An engine that predicts the next step from the most similar logged steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, NumpyNovelty, Parts, Storable, own_belief
from worldline.engines.fixed_lag import FixedLagBaseline, Recent, typical_values
from worldline.episode import Arrays, Episode, Future
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]
ARRAYS = ("steps", "changes", "trend", "centre", "scale")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Nearest(FixedLagBaseline, Storable, NumpyNovelty):
    """The linear trend of all logged steps, plus the residuals of the most similar ones.

    A step is the concatenation of D values of the vector signals and U inputs, standardised.

    Args:
        steps: [M, D + U], logged steps.
        changes: [M, D], residuals of the standardised changes after these steps.
        trend: [D + U + 1, D], from a step and a constant to the change.
        centre: [D + U], means of the standardisation.
        scale: [D + U], standard deviations of the standardisation.
        num_neighbours: number of similar steps, at least 1.
    """

    kind = "nearest"

    steps: Floats
    changes: Floats
    trend: Floats
    centre: Floats
    scale: Floats
    num_neighbours: int = 8

    @classmethod
    def fit(
        cls, episodes: Sequence[Episode], schema: Schema, *, num_neighbours: int = 8, most_steps: int = 4000
    ) -> Nearest:
        """The engine, fitted to these episodes.

        Args:
            episodes: any number; steps next to a missing value are left out.
            schema: of the world.
            num_neighbours: as in the class.
            most_steps: largest number of logged steps to keep, evenly spaced.

        Raises:
            InputError: an input is discrete, or no signal is a vector.
            DataError: at most `num_neighbours` steps are complete.
        """
        signals = tuple(signal for signal in schema.observations if signal.kind is Kind.VECTOR)
        inputs = (*schema.actions, *schema.exogenous)
        if not signals or any(signal.kind is not Kind.VECTOR for signal in inputs):
            raise InputError("nearest looks up vectors. Give at least one vector observation, and vector inputs only.")
        pairs = [_pairs(episode, signals, inputs) for episode in episodes]
        before, after = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if len(before) <= num_neighbours:
            raise DataError(
                f"{len(before)} steps are complete, expected more than num_neighbours {num_neighbours}", fix="Add logs."
            )
        size = after.shape[1]
        centre, scale = before.mean(0), before.std(0)
        scale = np.where(scale > 1e-9 * (1 + np.abs(centre)), scale, 1.0)
        steps, changes = (before - centre) / scale, (after - before[:, :size]) / scale[:size]
        wide = np.concatenate([steps, np.ones((len(steps), 1))], 1)
        trend = np.linalg.lstsq(wide, changes, rcond=None)[0]
        kept = np.unique(np.linspace(0, len(steps) - 1, min(most_steps, len(steps))).astype(int))
        return cls(
            schema=schema,
            typical=typical_values(episodes, signals),
            context=1,
            steps=steps[kept],
            changes=(changes - wide @ trend)[kept],
            trend=trend,
            centre=centre,
            scale=scale,
            num_neighbours=num_neighbours,
        )

    def describe(self) -> Card:
        """The signals and abilities of this engine."""
        return replace(super().describe(), abilities=("novelty",))

    def path(self, past: Arrays, future: Future) -> Arrays:
        """Predictions step by step."""
        return self._split(self._path(past, future))

    def novelty(self, belief: EngineBelief) -> Floats:
        """The distance of the present to the nearest logged step."""
        return self._distance_to_nearest(self._standard(self._present(belief)))

    def novelty_ahead(self, belief: EngineBelief, future: Future, *, seed: int) -> Floats:
        """The same distance for each predicted state."""
        del seed
        past = {name: value[:, None] for name, value in self._present(belief).items()}
        return self._distance_to_nearest(
            (self._path(past, future) - self.centre[: self._size]) / self.scale[: self._size]
        )

    def to_parts(self) -> Parts:
        """Settings and fitted arrays."""
        kept = {name: vars(self)[name] for name in ARRAYS}
        typical = {f"typical.{name}": value for name, value in self.typical.items()}
        return Parts(config={"num_neighbours": self.num_neighbours}, arrays={**kept, **typical})

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> Nearest:
        """The engine that `to_parts` stored.

        Raises:
            DataError: an array or setting is missing, or its shape or dtype does not fit the others.
        """
        typical = {s.name: parts.arrays.get(f"typical.{s.name}") for s in schema.observations if s.kind is Kind.VECTOR}
        size = sum(schema[name].size for name in typical)
        width = size + sum(signal.size for signal in (*schema.actions, *schema.exogenous))
        found = {name: np.asarray(parts.arrays.get(name)) for name in ARRAYS}
        number, rows = parts.config.get("num_neighbours"), len(np.atleast_1d(found["steps"]))
        shapes = {"steps": (rows, width), "changes": (rows, size), "trend": (width + 1, size)}
        shapes |= {"centre": (width,), "scale": (width,)}
        for name, shape in shapes.items():
            if found[name].shape != shape or found[name].dtype.kind != "f" or not np.isfinite(found[name]).all():
                raise _damaged(f"{name} is {found[name].dtype}{found[name].shape}, expected finite floats {shape}")
        if type(number) is not int or not 1 <= number < rows:
            raise _damaged(f"num_neighbours is {number!r}, expected 1 to {rows - 1}")
        kept = {name: v for name, v in typical.items() if v is not None and v.shape == schema[name].shape}
        if kept.keys() != typical.keys() or not (found["scale"] > 0).all():
            raise _damaged("a typical value is missing, or a scale is not above 0")
        return cls(schema=schema, typical=kept, context=1, num_neighbours=number, **found)

    @property
    def _size(self) -> int:
        return self.changes.shape[1]

    def _path(self, past: Arrays, future: Future) -> Floats:
        """The prediction [W, N, T, D], physical units."""
        leading = next(iter(future.actions.values())).shape[:3]
        state = np.repeat(self._standard({name: value[:, -1] for name, value in past.items()})[:, None], leading[1], 1)
        known = [np.broadcast_to(future.exogenous[s.name][:, None], (*leading, s.size)) for s in self.schema.exogenous]
        inputs = np.concatenate([*(future.actions[s.name] for s in self.schema.actions), *known], -1)
        inputs = (inputs - self.centre[self._size :]) / self.scale[self._size :]
        path = np.empty((*leading, self._size))
        for step in range(leading[2]):
            state = state + self._change(np.concatenate([state, inputs[:, :, step]], -1))
            path[:, :, step] = state
        return path * self.scale[: self._size] + self.centre[: self._size]

    def _change(self, steps: Floats) -> Floats:
        """The change [W, N, D] that follows steps [W, N, D + U]."""
        flat = steps.reshape(-1, steps.shape[-1])
        distance, number = _distances(flat, self.steps), self.num_neighbours
        near = np.argpartition(distance, number, axis=1)[:, : number + 1]
        far = np.take_along_axis(distance, near, 1)
        # The weight of the farthest neighbour is 0, so ties at the limit do not change the prediction.
        weights = 1 - np.sqrt(far / np.maximum(far.max(1, keepdims=True), 1e-12))
        weights = weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)
        own = (weights[..., None] * self.changes[near]).sum(1)
        change = flat @ self.trend[:-1] + self.trend[-1] + own
        return change.reshape(*steps.shape[:-1], self._size)

    def _distance_to_nearest(self, states: Floats) -> Floats:
        """The distance [...] of standardised states [..., D] to the nearest logged state."""
        flat = _distances(states.reshape(-1, self._size), self.steps[:, : self._size]).min(1)
        return np.sqrt(flat).reshape(states.shape[:-1])

    def _present(self, belief: EngineBelief) -> Arrays:
        """Per signal its last value [W, *shape]; the typical value if there is none."""
        belief = own_belief(belief, Recent)
        return {
            s.name: np.where(belief.known[s.name][:, -1:], belief.values[s.name][:, -1], self.typical[s.name])
            for s in self.signals
        }

    def _standard(self, present: Arrays) -> Floats:
        joined = np.concatenate([present[signal.name] for signal in self.signals], -1, dtype=np.float64)
        return (joined - self.centre[: self._size]) / self.scale[: self._size]

    def _split(self, joined: Floats) -> Arrays:
        ends = np.cumsum([signal.size for signal in self.signals])[:-1]
        return {s.name: part for s, part in zip(self.signals, np.split(joined, ends, -1), strict=True)}


def _pairs(episode: Episode, signals: Sequence[Signal], inputs: Sequence[Signal]) -> tuple[Floats, Floats]:
    """Complete steps [m, D + U] of an episode, and the signals [m, D] after them."""
    num_steps = episode.num_steps
    seen = np.ones(num_steps + 1, bool)
    for signal in signals:
        seen &= episode.observed.get(signal.name, np.ones(num_steps + 1, bool)).astype(bool)
    table = np.concatenate([episode.observations[signal.name] for signal in signals], -1, dtype=np.float64)
    given = [{**episode.actions, **episode.exogenous}[signal.name] for signal in inputs]
    before = np.concatenate([table[:-1], *given], -1, dtype=np.float64)
    complete = seen[:-1] & seen[1:]
    return before[complete], table[1:][complete]


def _distances(points: Floats, logged: Floats) -> Floats:
    """Squared distances [m, M]."""
    squares = (points**2).sum(1)[:, None] + (logged**2).sum(1) - 2 * points @ logged.T
    return np.maximum(squares, 0.0)


def _damaged(problem: str) -> DataError:
    return DataError(f"these are not the parts of a nearest engine: {problem}", fix="Store it again.")
