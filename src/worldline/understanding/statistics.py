"""Intervals for figures measured on episodes, which are independent while the windows within them are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.contracts.evaluation import Rate
from worldline.contracts.schema import Signal
from worldline.control.intervals import wilson

Floats = NDArray[np.floating]

NUM_DRAWS: Final = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured figure with its 95 % interval.

    Args:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A measured figure at each of T steps, with its pointwise 95 % interval.

    Args:
        value: [T].
        low: [T].
        high: [T].
    """

    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, step: int) -> Estimate:
        """The figure after `step` steps, from 1 to T."""
        return Estimate(value=self.value[step - 1], low=self.low[step - 1], high=self.high[step - 1])


def cluster_rate(hits: NDArray[np.bool_], cluster: NDArray[np.integer]) -> Rate:
    """The share of `hits` [W], its Wilson interval widened for hits that come in clusters.

    The design effect is measured, and at least 1. Where all hit or all missed it cannot be: a cluster then
    counts as one trial.

    Args:
        hits: one for each window.
        cluster: [W], the episode of each window, from 0.
    """
    share, trials = float(hits.mean()), len(hits)
    present = np.unique(cluster)
    if share in (0.0, 1.0) or len(present) < 2:
        effective = float(len(present))
    else:
        residual = np.array([(hits[cluster == one] - share).sum() for one in present])
        variance = len(present) / (len(present) - 1) * (residual**2).sum() / trials**2
        effective = min(float(trials), share * (1 - share) / variance) if variance > 0 else float(trials)
    return wilson(int(hits.sum()), trials, effective_trials=max(effective, 1.0))


def cluster_sums(values: Floats, cluster: NDArray[np.integer], num_clusters: int) -> Floats:
    """Sums [E, ...] of `values` [W, ...] over the windows of each of E clusters."""
    shape, width = values.shape[1:], math.prod(values.shape[1:])
    # One bin for each cluster and column: memory grows with W, where a membership matrix grows with E x W.
    bins = cluster[:, None] * width + np.arange(width)
    sums = np.bincount(bins.ravel(), weights=values.ravel(), minlength=num_clusters * width)
    return np.asarray(sums.reshape(num_clusters, *shape))


def draw_clusters(num_clusters: int, seed: int) -> Floats:
    """How often each of E clusters is drawn, in each of 2,000 bootstrap draws: [draws, E].

    Source: Davison and Hinkley (1997), section 3.8 (resampling whole clusters).
    """
    chances = np.full(num_clusters, 1 / num_clusters)
    return np.asarray(np.random.default_rng(seed).multinomial(num_clusters, chances, size=NUM_DRAWS), dtype=float)


@cache
def student_quantile(tail: float, degrees: float) -> float:
    """What Student's t exceeds with the chance `tail`, to four digits.

    Args:
        tail: in (0, 0.5).
        degrees: of freedom, at least 1.
    """
    # With t = sqrt(degrees) / tan(angle) its density is a power of a sine, whose range has an end.
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.sin(angle) ** (degrees - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sqrt(degrees) / np.tan(np.interp(tail, below * 0.5 / below[-1], angle)))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Their quotient; NaN where the denominator is 0."""
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=empty, where=denominator != 0))


def from_mean(values: NDArray[np.generic], signal: Signal) -> Floats:
    """Each of `values` [..., n] less the mean over all axes but the last; of an angle the shorter way round.

    Source: Mardia and Jupp (2000), "Directional statistics", section 2.2 (the mean direction).
    """
    known = values.astype(float)
    flat = known.reshape(-1, known.shape[-1])
    if signal.period is None:
        return np.asarray(known - flat.mean(0))
    turn = 2 * np.pi / signal.period
    return np.asarray(signal.difference(known, np.angle(np.exp(1j * turn * flat).mean(0)) / turn))


def curve(value: Floats, draws: Floats) -> Curve:
    """A curve from its values [T] and their bootstrap draws [draws, T], by percentiles; NaN stays NaN."""
    draws = np.where(np.isnan(value), 0.0, draws)
    low, high = np.nanquantile(draws, (0.025, 0.975), axis=0)
    return Curve(
        value=tuple(map(float, value)),
        low=tuple(map(float, np.minimum(low, value))),
        high=tuple(map(float, np.maximum(high, value))),
    )


def rmse_curve(squared: Floats, known: NDArray[np.bool_], cluster: NDArray[np.integer], weights: Floats) -> Curve:
    """The root mean square error at each step; NaN where nothing is known.

    Args:
        squared: [W, T], the squared error of each window and step; 0 where it is not known.
        known: [W, T], whether it counts.
        cluster: [W], the episode of each window, from 0.
        weights: [draws, E], from `draw_clusters`.
    """
    return curve(*_root_mean_square(squared, known, cluster, weights))


def skill_curve(
    squared: Floats, reference: Floats, known: NDArray[np.bool_], cluster: NDArray[np.integer], weights: Floats
) -> Curve | None:
    """The share of the reference's error that is saved, 1 - error / reference; None where a step of it has none.

    Args:
        squared: as in `rmse_curve`, as are `known`, `cluster` and `weights`.
        reference: [W, T], the squared error of the reference in the same windows.
        known: see `squared`.
        cluster: see `squared`.
        weights: see `squared`.
    """
    value, draws = _root_mean_square(squared, known, cluster, weights)
    theirs, their_draws = _root_mean_square(reference, known, cluster, weights)
    return None if (theirs == 0).any() else curve(1 - value / theirs, 1 - ratio(draws, their_draws))


def _root_mean_square(
    squared: Floats, known: NDArray[np.bool_], cluster: NDArray[np.integer], weights: Floats
) -> tuple[Floats, Floats]:
    """The figure [T], and its bootstrap draws [draws, T]."""
    sums = cluster_sums(squared, cluster, weights.shape[1])
    counts = cluster_sums(known.astype(float), cluster, weights.shape[1])
    return np.sqrt(ratio(sums.sum(0), counts.sum(0))), np.sqrt(ratio(weights @ sums, weights @ counts))


def r_squared(truth: Floats, read: Floats, episode: NDArray[np.integer], *, seed: int) -> Estimate | None:
    """The share of the variance of `truth` that `read` explains; None where `truth` does not vary.

    Args:
        truth: [n, components].
        read: [n, components].
        episode: [n], which episode each row is from, from 0; at least two.
        seed: of the bootstrap over episodes.
    """
    num_episodes = int(episode.max()) + 1
    weights = draw_clusters(num_episodes, seed)
    centred = truth - truth.mean(0)
    parts = np.stack([(truth - read) ** 2, centred, centred**2, np.ones_like(centred)])
    sums = cluster_sums(np.moveaxis(parts, 1, 0), episode, num_episodes)
    draws = np.tensordot(weights, sums, axes=(1, 0))
    value, spread = _explained(sums.sum(0, keepdims=True)), centred.var()
    return curve(value, _explained(draws)[:, None]).at(1) if spread > 1e-12 else None


def _explained(sums: Floats) -> Floats:
    """R² [draws] from sums [draws, 4, components] of squared error, value, squared value, and count."""
    error, total, square, count = np.moveaxis(sums, 1, 0)
    return np.asarray(1 - ratio(error.sum(-1), (square - ratio(total**2, count)).sum(-1)))
