"""Baselines that see only the inputs of a world, from which they read the other signals linearly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines.base import Card, EngineBelief, Noise, Samples
from worldline.engines.fixed_lag import FixedLagBaseline
from worldline.engines.numpy_engine import NumpyEngine
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import DataError
from worldline.schema import Kind, Signal
from worldline.stats import Floats

GRIDS: Final = (8, 16)
"""Rows and columns to which images are reduced; the readout uses those with the smaller error."""
MAX_FITTED_FRAMES: Final = 6000
"""Approximate largest number of training images on which baselines are fitted; bounds memory."""
RIDGE: Final = 1e-3
"""Penalty of the readout, relative to the mean variance of a feature."""
TINY: Final = 1e-12
"""Smallest penalty, so that constant features have a solution."""


def unseen_vectors(card: Card) -> list[Signal]:
    """The predicted vector observations that are no inputs of the world."""
    signals = (card.schema[name] for name in card.predicts if name not in card.inputs)
    return [signal for signal in signals if signal.kind is Kind.VECTOR]


def needs_readouts(card: Card) -> bool:
    """Whether baselines must read predicted signals from the inputs, which are vectors or images."""
    return bool(unseen_vectors(card)) and any(card.schema[name].kind is not Kind.DISCRETE for name in card.inputs)


def needs_images(card: Card) -> bool:
    """Whether baselines with the inputs of the world must see its images."""
    return needs_readouts(card) and any(card.schema[name].kind is Kind.IMAGE for name in card.inputs)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InputReadouts:
    """Linear readouts of the predicted vectors that are no inputs of a world, from one observation of its inputs.

    Args:
        inputs: vectors and images.
        targets: signals that are read.
        readouts: per target, the rows and columns to which images are reduced, and the weights [P + 1, size] of the
            features and a constant. A periodic signal is read as its cosine and sine.
    """

    inputs: tuple[Signal, ...]
    targets: tuple[Signal, ...]
    readouts: Mapping[str, tuple[int, Floats]]

    @classmethod
    def fit(cls, episodes: Sequence[Episode], card: Card, rare: Sequence[str] = ()) -> InputReadouts:
        """The readouts, each with the grid that has the smallest error on every third episode.

        Args:
            episodes: logged episodes; those without images are left out.
            card: of the world.
            rare: input vectors to leave out, because they are rarely observed.

        Raises:
            DataError: no episode has all inputs.
        """
        signals = [card.schema[name] for name in card.inputs if name not in rare]
        inputs = tuple(signal for signal in signals if signal.kind is not Kind.DISCRETE)
        names = [signal.name for signal in inputs]
        full = [episode for episode in episodes if set(names) <= episode.observations.keys()]
        if not inputs or not full:
            raise DataError("no episode has all inputs of the world", fix="Give logs with these signals.")
        grids = GRIDS if any(signal.kind is Kind.IMAGE for signal in inputs) else GRIDS[:1]
        tables = {grid: [_features(episode.observations, inputs, grid) for episode in full] for grid in grids}
        targets, readouts = tuple(unseen_vectors(card)), {}
        for target in targets:
            known = [_known(episode, [*names, target.name]) for episode in full]
            values = [_regression_target(episode.observations[target.name], target) for episode in full]
            rows = {grid: _rows(table, known) for grid, table in tables.items()}
            readouts[target.name] = _best_readout(rows, _rows(values, known))
        return cls(inputs=inputs, targets=targets, readouts=readouts)

    def __call__(self, observations: Arrays) -> dict[str, NDArray[np.generic]]:
        """The vector inputs without change, and the targets [..., size] that are read."""
        grids = {grid for grid, _ in self.readouts.values()}
        features = {grid: _features(observations, self.inputs, grid) for grid in grids}
        arrays = {signal.name: observations[signal.name] for signal in self.inputs if signal.kind is Kind.VECTOR}
        for signal in self.targets:
            grid, weights = self.readouts[signal.name]
            value = features[grid] @ weights[:-1] + weights[-1]
            if signal.period is not None:
                cosine, sine = np.split(value, 2, -1)
                value = np.arctan2(sine, cosine) * signal.period / (2 * np.pi)
            arrays[signal.name] = value.astype(signal.dtype)
        return arrays

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The vector inputs and the targets."""
        return (*(signal for signal in self.inputs if signal.kind is Kind.VECTOR), *self.targets)

    def episode(self, episode: Episode) -> Episode:
        """The episode with the read signals; a step without all inputs is not observed."""
        known = _known(episode, [signal.name for signal in self.inputs])
        signals = self(episode.observations)
        masks = {} if known.all() else dict.fromkeys(signals, known)
        return replace(episode, observations=signals, observed=masks)


def _known(steps: Episode | History, names: Sequence[str]) -> NDArray[np.bool_]:
    """The observations [T + 1] or [W, H] at which all these signals are observed."""
    return np.asarray(np.logical_and.reduce([steps.mask(name) for name in names]))


def _features(observations: Arrays, inputs: Sequence[Signal], grid: int) -> Floats:
    """Vectors and reduced images [..., P] of observations [..., *shape]."""
    parts = []
    for signal in inputs:
        value = observations[signal.name]
        if signal.kind is Kind.IMAGE:
            value = reduced(value.reshape(-1, *value.shape[-3:]), grid).reshape(*value.shape[:-3], -1)
        parts.append(value.astype(float))
    return np.concatenate(parts, -1)


def reduced(images: NDArray[np.generic], grid: int) -> Float[np.ndarray, "n P"]:
    """Images [n, height, width, channels] as means over at most `grid` by `grid` blocks, from 0 to 1."""
    means = images.astype(np.float32) / 255
    for axis in (1, 2):
        starts = np.unique(np.linspace(0, means.shape[axis], grid, endpoint=False).astype(int))
        sizes = np.diff([*starts, means.shape[axis]]).astype(np.float32)
        means = np.add.reduceat(means, starts, axis=axis)
        means = means / (sizes[:, None, None] if axis == 1 else sizes[:, None])
    return np.asarray(means.reshape(len(means), -1), dtype=np.float32)


def _regression_target(values: NDArray[np.generic], target: Signal) -> Floats:
    """The target [T, D]; a periodic one as its cosine and sine."""
    table = values.astype(float)
    if target.period is None:
        return table
    angle = table * 2 * np.pi / target.period
    return np.concatenate([np.cos(angle), np.sin(angle)], -1)


def _rows(tables: Sequence[Floats], known: Sequence[NDArray[np.bool_]]) -> list[Floats]:
    return [table[mask] for table, mask in zip(tables, known, strict=True)]


def _best_readout(tables: Mapping[int, Sequence[Floats]], targets: Sequence[Floats]) -> tuple[int, Floats]:
    """The best grid, and the weights fitted on all episodes.

    Args:
        tables: per grid the features [n, P] of each episode.
        targets: values [n, D] of each episode.
    """
    rest = [number for number in range(len(targets)) if number % 3]

    def held_out_error(table: Sequence[Floats]) -> float:
        weights = _ridge([table[n] for n in rest], [targets[n] for n in rest])
        errors = (table[n] @ weights[:-1] + weights[-1] - targets[n] for n in range(0, len(table), 3))
        return float(sum((error**2).sum() for error in errors))

    grid = min(tables, key=lambda size: held_out_error(tables[size])) if rest else min(tables)
    return grid, _ridge(tables[grid], targets)


def _ridge(tables: Sequence[Floats], targets: Sequence[Floats]) -> Floats:
    """Weights [P + 1, D] of the features and a constant; zeros without a row."""
    table, target = np.concatenate(tables), np.concatenate(targets)
    if not len(table):
        return np.zeros((table.shape[1] + 1, target.shape[1]))
    mean, level = table.mean(0), target.mean(0)
    products = (table - mean).T @ (table - mean)
    penalty = RIDGE * np.trace(products) / len(mean) + TINY
    weights = np.linalg.solve(products + penalty * np.eye(len(mean)), (table - mean).T @ (target - level))
    return np.concatenate([weights, (level - mean @ weights)[None]])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InputBaseline(NumpyEngine):
    """A baseline on signals that are read from the inputs of a world.

    Args:
        inner: predicts the read signals.
        readout: reads them.
        card: of the world.
    """

    inner: FixedLagBaseline
    readout: InputReadouts
    card: Card

    def describe(self) -> Card:
        """The card of the inner engine, with the schema and the inputs of the world."""
        inner = self.inner.describe()
        predicts = tuple(name for name in self.card.predicts if name in inner.predicts)
        inputs = tuple(signal.name for signal in self.readout.inputs)
        return replace(inner, schema=self.card.schema, inputs=inputs, predicts=predicts)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> EngineBelief:
        """The belief of the inner engine about the read signals."""
        signals = self.readout(steps.observations)
        known = _known(steps, [signal.name for signal in self.readout.inputs])
        observed = dict.fromkeys(signals, known)
        return self.inner.observe(belief, replace(steps, observations=signals, observed=observed), seed=seed)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The prediction of the inner engine."""
        predicted = self.inner.imagine(belief, future, num_samples=num_samples, noise=noise, seed=seed).signals
        return Samples(signals={name: predicted[name] for name in self.describe().predicts})
