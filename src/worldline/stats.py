"""Confidence intervals for figures on episodes. Episodes are independent; windows of one episode are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from worldline.errors import InputError

__all__ = [
    "Curve",
    "Estimate",
    "Floats",
    "Rate",
    "Tails",
    "cluster_rate",
    "cluster_sums",
    "curve",
    "draw_clusters",
    "ratio",
    "ratio_estimate",
    "rmse_curve",
    "root_mean_square",
    "separation",
    "simultaneous_intervals",
    "skill_curve",
    "student_quantile",
    "tails",
    "wilson",
]

Floats = NDArray[np.floating]

NUM_DRAWS: Final = 2000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of successes with its 95 % Wilson interval.

    Args:
        successes: number of successes.
        trials: number of trials.
        low: lower end, 0 to 1.
        high: upper end, 0 to 1.
    """

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.successes / self.trials


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured figure with its interval, of 95 % unless stated otherwise.

    Args:
        value: the figure.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, low: float | np.floating, high: float | np.floating) -> Self:
        """The figure with an interval that is widened to contain it."""
        return cls(value=value, low=min(float(low), value), high=max(float(high), value))

    def times(self, factor: float) -> Estimate:
        """The figure in another unit; the factor is above 0."""
        return Estimate(value=factor * self.value, low=factor * self.low, high=factor * self.high)


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
    """The share of `hits` [W], with a Wilson interval that is widened by the design effect of clusters.

    The design effect is estimated, and at least 1. If all or none hit, it cannot be estimated, and each cluster
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
        residual = np.array([(hits[cluster == episode] - share).sum() for episode in present])
        variance = len(present) / (len(present) - 1) * (residual**2).sum() / trials**2
        effective = min(float(trials), share * (1 - share) / variance) if variance > 0 else float(trials)
    return wilson(int(hits.sum()), trials, effective_trials=max(float(effective), 1.0))


def cluster_sums(values: Floats, cluster: NDArray[np.integer], num_clusters: int) -> Floats:
    """Sums [E, ...] of `values` [W, ...] over the windows of each of E clusters."""
    shape, width = values.shape[1:], math.prod(values.shape[1:])
    # One bin for each cluster and column: memory grows with W; a membership matrix would grow with E x W.
    bins = cluster[:, None] * width + np.arange(width)
    sums = np.bincount(bins.ravel(), weights=values.ravel(), minlength=num_clusters * width)
    return np.asarray(sums.reshape(num_clusters, *shape))


def draw_clusters(num_clusters: int, seed: int) -> Floats:
    """The count of each of E clusters in each of 2,000 bootstrap draws: [draws, E].

    Source: Davison and Hinkley (1997), section 3.8 (resampling whole clusters).
    """
    chances = np.full(num_clusters, 1 / num_clusters)
    return np.asarray(np.random.default_rng(seed).multinomial(num_clusters, chances, size=NUM_DRAWS), dtype=float)


def student_quantile(tail: float, degrees: float) -> float:
    """The value that Student's t exceeds with probability `tail`.

    Args:
        tail: in (0, 1).
        degrees: of freedom, above 0.
    """
    from scipy.special import stdtrit  # scipy takes up to a second to import, and few processes need it

    return float(stdtrit(degrees, 1 - tail))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """`numerator` / `denominator`; NaN if the denominator is 0."""
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.asarray(np.divide(numerator, denominator, out=empty, where=denominator != 0))


def curve(value: Floats, draws: Floats) -> Curve:
    """A curve from values [T] and their bootstrap draws [draws, T], with percentile intervals; NaN stays NaN."""
    draws = np.where(np.isnan(value), 0.0, draws)
    low, high = np.nanquantile(draws, (0.025, 0.975), axis=0)
    return Curve(
        value=tuple(map(float, value)),
        low=tuple(map(float, np.minimum(low, value))),
        high=tuple(map(float, np.maximum(high, value))),
    )


def ratio_estimate(
    parts: Floats, cluster: NDArray[np.integer], weights: Floats, transform: Callable[[Floats], Floats] = np.asarray
) -> Estimate:
    """The ratio of two sums over windows, with its bootstrap interval over clusters.

    Args:
        parts: [W, 2], the terms of numerator and denominator in each window.
        cluster: [W], the episode of each window, from 0.
        weights: [draws, E], from `draw_clusters`.
        transform: of the ratio, increasing.
    """
    sums = cluster_sums(parts, cluster, weights.shape[1])
    value, draws = (transform(ratio(*np.moveaxis(rows @ sums, -1, 0))) for rows in (np.ones_like(weights[:1]), weights))
    return curve(value, draws[:, None]).at(1)


def rmse_curve(squared: Floats, known: NDArray[np.bool_], cluster: NDArray[np.integer], weights: Floats) -> Curve:
    """The root mean square error at each step; NaN for a step without known errors.

    Args:
        squared: [W, T], the squared error of each window and step; 0 if unknown.
        known: [W, T], whether the error is known.
        cluster: [W], the episode of each window, from 0.
        weights: [draws, E], from `draw_clusters`.
    """
    return curve(*root_mean_square(squared, known, cluster, weights))


def skill_curve(
    squared: Floats, reference: Floats, known: NDArray[np.bool_], cluster: NDArray[np.integer], weights: Floats
) -> Curve | None:
    """The skill at each step, 1 - error / error of the reference; None if the reference has no error at a step.

    Args:
        squared: as in `rmse_curve`.
        reference: [W, T], the squared error of the reference in the same windows.
        known: as in `rmse_curve`.
        cluster: as in `rmse_curve`.
        weights: as in `rmse_curve`.
    """
    value, draws = root_mean_square(squared, known, cluster, weights)
    baseline, baseline_draws = root_mean_square(reference, known, cluster, weights)
    return None if (baseline == 0).any() else curve(1 - value / baseline, 1 - ratio(draws, baseline_draws))


def root_mean_square(
    squared: Floats, known: NDArray[np.bool_ | np.integer], cluster: NDArray[np.integer], weights: Floats
) -> tuple[Floats, Floats]:
    """The root mean square [T], and its bootstrap draws [draws, T]; NaN without known errors.

    Args:
        squared: as in `rmse_curve`; or [W, T], each a sum of several squared errors.
        known: [W, T], whether the error is known, or how many errors the sum has.
        cluster: as in `rmse_curve`.
        weights: as in `rmse_curve`.
    """
    sums = cluster_sums(squared, cluster, weights.shape[1])
    counts = cluster_sums(known.astype(float), cluster, weights.shape[1])
    return np.sqrt(ratio(sums.sum(0), counts.sum(0))), np.sqrt(ratio(weights @ sums, weights @ counts))


def simultaneous_intervals(draws: Floats, num_clusters: int) -> Floats:
    """Intervals of K figures that all contain their true figures with 95 % probability (max-t bootstrap).

    The intervals are symmetric. Student's t replaces the normal distribution, because few clusters vary too little.

    Args:
        draws: [1 + draws, K]: the figures, then those of bootstrap draws of clusters. A figure may be NaN.
        num_clusters: E, at least 2.

    Returns:
        [3, K]: the figures, the lower and the upper ends.

    Source: Montiel Olea and Plagborg-Moller 2019, "Simultaneous confidence bands", section 3.
    """
    value, apart = draws[0], np.abs(draws[1:] - draws[0])
    spread = np.sqrt(ratio(np.nansum(np.square(apart), 0), np.isfinite(apart).sum(0)))
    furthest = np.nan_to_num(ratio(apart, spread)).max(1, initial=0.0)
    tail = max(NormalDist().cdf(-float(np.quantile(furthest, 0.95))), 1e-12)
    half = student_quantile(tail, num_clusters - 1) * math.sqrt(num_clusters / (num_clusters - 1)) * spread
    return np.stack([value, value - half, value + half])


def wilson(successes: int, trials: int, *, effective_trials: float | None = None) -> Rate:
    """The share of successes with its 95 % Wilson score interval.

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        effective_trials: equivalent number of independent trials, above 0; None if all are independent.

    Raises:
        InputError: a count is out of range.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; the effective
    number of trials: Kish 1965, "Survey sampling", section 8.2.
    """
    if not (trials >= 1 and 0 <= successes <= trials):
        raise InputError(f"{successes} successes in {trials} trials. Give at least one trial and no more successes.")
    n = trials if effective_trials is None else effective_trials
    z = NormalDist().inv_cdf(0.975)
    share, shrink = successes / trials, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / shrink
    # Without successes or without failures one end equals the share; rounding must not move it beyond.
    return Rate(
        successes=successes,
        trials=trials,
        low=min(max(centre - half, 0.0), share),
        high=max(min(centre + half, 1.0), share),
    )


@dataclass(frozen=True, kw_only=True)
class Tails:
    """Tail probabilities of a count.

    Args:
        low: probability of this count or a smaller one.
        high: probability of this count or a larger one.
    """

    low: float
    high: float


def tails(count: int, trials: int, share: float, num_calibration: int | None = None) -> Tails:
    """The tail probabilities of a count if each trial hits with probability `share`.

    Args:
        count: hits, 0 to `trials`.
        trials: at least 1, exchangeable with each other and with the calibration data.
        share: claimed probability, in (0, 1).
        num_calibration: number of calibration episodes of a split conformal prediction, whose coverage is a random
            variable; None if `share` is exact.

    Raises:
        InputError: a count or share out of range.

    Source: Vovk 2012 (1209.2673), proposition 2a: given its n calibration examples, split conformal prediction
        covers with probability Beta(n + 1 - l, l), l = floor((n + 1)(1 - share)); the count is then beta-binomial.
    """
    if not (0 <= count <= trials and trials >= 1 and 0 < share < 1):
        raise InputError(f"{count} of {trials} at {share}. Give at least one trial and a share between 0 and 1.")
    from scipy.stats import betabinom, binom  # imported here for the reason in `student_quantile`

    if num_calibration is None:
        hits = binom(trials, share)
    else:
        # Too few calibration episodes for this share leave none outside: the band is infinite and covers everything.
        outside = math.floor((num_calibration + 1) * (1 - share) + 1e-9)
        hits = betabinom(trials, num_calibration + 1 - outside, outside) if outside else binom(trials, 1.0)
    return Tails(low=float(hits.cdf(count)), high=float(hits.sf(count - 1)))


def separation(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    """The share of pairs in which `low` is below `high`, with ties as half (AUROC): 0.5 for chance, 1 for perfect."""
    below = low[:, None] < high[None]
    return float((below + 0.5 * (low[:, None] == high[None])).mean())
