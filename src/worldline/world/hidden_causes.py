"""Hidden causes by which episodes differ: learned from many episodes, inferred in one; or regressed on one alone.

In episode i, with features x (state and input) and residuals e of some engine,

    e = x @ (mean + sum over causes r of size[i, r] * directions[r]) + noise,    size[i, r] ~ N(0, 1)

A cause, such as a friction, is one number per episode, however many signals it affects. With known directions, one
episode determines the sizes precisely. Estimating its effect on each signal separately would be less precise.

The model is linear Gaussian, so both steps of expectation maximisation are in closed form. Source: Dempster, Laird,
Rubin 1977. The model is that of Laird and Ware 1982 (random effects), with few effects for many coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, log
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MAX_CAUSES: Final = 4

MIN_STANDARD_ERRORS: Final = 1.0
"""Standard errors by which one more cause must raise the log-likelihood of held-out episodes."""

MAX_SIZE: Final = 4.0
"""Largest size of a cause, in standard deviations over the fitted episodes. Beyond it, an episode is out of
distribution. It is above 3: a nonlinear cause takes two directions, and reaches a little beyond 3 in one of them."""

MIN_EPISODES: Final = 16
"""One half is fitted, the other half chooses the number of causes."""

MAX_TOGETHER: Final = 3
"""Largest set of features."""

MAX_FEATURES: Final = 24
"""Number of features that sets are built from: those with the largest single correlation."""

_ITERATIONS = 100
_MIN_GAIN_NATS = 1e-3
"""Gain per episode below which the iteration stops."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenCauses:
    """The fitted model; see `fit_causes`.

    Args:
        mean: [P, D], part of the residuals common to all episodes, per unit of each feature.
        directions: [R, P, D], addition of a cause of size 1.
        noise: [D, D], covariance of the rest, invertible.
        still: whether the residuals are those of persistence instead of an engine's predictions.
    """

    mean: Floats
    directions: Floats
    noise: Floats
    still: bool = False

    def infer(self, features: Float[np.ndarray, "n P"], residuals: Float[np.ndarray, "n D"]) -> Floats | None:
        """The posterior mean of the weights [P, D] of one episode; None if the episode is out of distribution.

        An empty episode gives the mean. Directions are valid only within the range of the fitted episodes.
        """
        sizes = _infer(self, _sums([(features, residuals)])).sizes[0]
        if np.abs(sizes).max() > MAX_SIZE:
            return None
        return np.asarray(self.mean + np.tensordot(sizes, self.directions, 1))


def fit_causes(tables: Sequence[tuple[Floats, Floats]]) -> HiddenCauses | None:
    """Fits the causes. Their number is chosen by the likelihood of held-out episodes.

    Args:
        tables: per episode features [n, P] and residuals [n, D]; n may differ.

    Returns:
        None if there are fewer than `MIN_EPISODES` episodes, or no cause helps.
    """
    if len(tables) < MIN_EPISODES:
        return None
    # Mean squares of 1, so that the priors and tolerances of the fit do not depend on units.
    every = np.concatenate([features for features, _ in tables]), np.concatenate([rest for _, rest in tables])
    scales = tuple(np.where(size > 0, size, 1.0) for size in (np.sqrt((part**2).mean(0)) for part in every))
    scaled = [(features / scales[0], residuals / scales[1]) for features, residuals in tables]
    first, second = _sums(scaled[::2]), _sums(scaled[1::2])
    # More causes always fit their own half better, so the other half chooses the number.
    number, best = 0, _infer(_fit(first, 0), second).log_likelihood
    for more in range(1, MAX_CAUSES + 1):
        score = _infer(_fit(first, more), second).log_likelihood
        gain = score - best
        if gain.mean() > MIN_STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)):
            number, best = more, score
    if number == 0:
        return None
    fitted = _fit(_sums(scaled), number)
    unit, noise_unit = scales[1] / scales[0][:, None], np.outer(scales[1], scales[1])
    return HiddenCauses(mean=fitted.mean * unit, directions=fitted.directions * unit, noise=fitted.noise * noise_unit)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sums:
    """Sufficient statistics of K episodes.

    Args:
        rows: [K], n of each.
        xx: [K, P, P], features by features.
        xe: [K, P, D], features by residuals.
        ee: [K, D, D], residuals by residuals.
    """

    rows: Floats
    xx: Floats
    xe: Floats
    ee: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Posterior:
    """The posterior of the sizes in K episodes.

    Args:
        sizes: [K, R], mean.
        spread: [K, R, R], covariance.
        log_likelihood: [K], up to a constant.
    """

    sizes: Floats
    spread: Floats
    log_likelihood: Floats


def _sums(tables: Sequence[tuple[Floats, Floats]]) -> _Sums:
    return _Sums(
        rows=np.array([float(len(features)) for features, _ in tables]),
        xx=np.stack([features.T @ features for features, _ in tables]),
        xe=np.stack([features.T @ residuals for features, residuals in tables]),
        ee=np.stack([residuals.T @ residuals for _, residuals in tables]),
    )


def _infer(causes: HiddenCauses, sums: _Sums) -> _Posterior:
    # What the mean leaves, as statistics: of features by residuals, and of residuals by residuals.
    precision = np.linalg.inv(causes.noise)
    left = sums.xe - sums.xx @ causes.mean
    rest = sums.ee - sums.xe.transpose(0, 2, 1) @ causes.mean - causes.mean.T @ left
    # The normal posterior of the sizes, whose prior is N(0, 1).
    pull = causes.directions @ precision
    among = np.einsum("rpd,kpq,sqd->krs", pull, sums.xx, causes.directions, optimize=True)
    towards = np.einsum("rpd,kpd->kr", pull, left)
    spread = np.linalg.inv(np.eye(len(causes.directions)) + among)
    sizes = np.einsum("krs,ks->kr", spread, towards)
    # The marginal likelihood, with the sizes integrated out.
    log_likelihood = 0.5 * (
        (sizes * towards).sum(1)
        + np.linalg.slogdet(spread)[1]
        - np.einsum("de,kde->k", precision, rest)
        - sums.rows * np.linalg.slogdet(causes.noise)[1]
    )
    return _Posterior(sizes=sizes, spread=spread, log_likelihood=log_likelihood)


def _fit(sums: _Sums, number: int) -> HiddenCauses:
    """Fits `number` causes; features and residuals have mean square 1."""
    causes, before = _start(sums, number), -np.inf
    for _ in range(_ITERATIONS):
        posterior = _infer(causes, sums)
        now = float(posterior.log_likelihood.sum())
        if now - before < _MIN_GAIN_NATS * len(sums.rows):
            break
        before, causes = now, _maximise(sums, posterior.sizes, posterior.spread)
    return causes


def _start(sums: _Sums, number: int) -> HiddenCauses:
    """The mean over all episodes, and the principal directions of the single-episode regressions around it."""
    num_episodes, size, targets = sums.xe.shape
    none = _maximise(sums, np.zeros((num_episodes, 0)), np.zeros((num_episodes, 0, 0)))
    own = np.linalg.solve(sums.xx + np.eye(size), sums.xe - sums.xx @ none.mean)
    _, lengths, axes = np.linalg.svd(own.reshape(num_episodes, -1), full_matrices=False)
    directions = lengths[:number, None] / np.sqrt(num_episodes) * axes[:number]
    return HiddenCauses(mean=none.mean, directions=directions.reshape(-1, size, targets), noise=none.noise)


def _maximise(sums: _Sums, inferred: Floats, spread: Floats) -> HiddenCauses:
    """One regression on every feature times 1 and times the inferred size [K, R] of every cause."""
    num_episodes, size, targets = sums.xe.shape
    # The mean is a cause of size 1. Second moments of uncertain sizes contain their variance.
    sizes = np.concatenate([np.ones((num_episodes, 1)), inferred], 1)
    second = sizes[:, :, None] * sizes[:, None, :]
    second[:, 1:, 1:] += spread
    among = np.einsum("krs,kpq->rpsq", second, sums.xx).reshape(sizes.shape[1] * size, -1)
    towards = np.einsum("kr,kpd->rpd", sizes, sums.xe).reshape(-1, targets)
    total = float(sums.rows.sum())
    stacked = np.linalg.solve(among + 1e-9 * total * np.eye(len(among)), towards)  # features may be duplicates
    noise = (sums.ee.sum(0) - stacked.T @ towards) / total
    weights = stacked.reshape(-1, size, targets)
    # Symmetric and positive definite also after rounding, because it is inverted.
    return HiddenCauses(mean=weights[0], directions=weights[1:], noise=(noise + noise.T) / 2 + 1e-12 * np.eye(targets))


def sparse_bayesian_regression(
    features: Float[np.ndarray, "n P"], residuals: Float[np.ndarray, "n D"]
) -> Float[np.ndarray, "P D"]:
    """The posterior mean of the weights, averaged over every small set of features and the empty set.

    Each set is a regression with a g-prior, weighted by its evidence. The prior holds as much information as one
    step. It is wider for large weights, which it would otherwise shrink too much. Set sizes 0, 1, 2 and 3 have
    equal prior probability, and so have all sets of one size. If the features explain nothing, the weights are close
    to 0. The scale of a feature does not matter, but its zero does: friction is linear in velocity with one
    feature, in "velocity - 3" with two.

    Args:
        features: [n, P], features of n steps.
        residuals: [n, D], residuals of each target, in any unit.

    Returns:
        [P, D], weights in units of residual per feature; 0 if n is too small.

    Source: Zellner 1986 (g-prior); Liang et al. 2008, sections 2.1 (evidence) and 2.4 (g, here at least n); Scott and
    Berger 2010 (prior over sizes).
    """
    num_rows, num_features = features.shape
    weights = np.zeros((num_features, residuals.shape[1]))
    scale = np.sqrt((features**2).mean(0)) if num_rows else np.zeros(num_features)
    usable = np.flatnonzero(scale > 0)
    if num_rows < MAX_TOGETHER + 2 or not len(usable):
        return weights
    table = features[:, usable] / scale[usable]
    for target, values in enumerate(residuals.T):
        power = float((values**2).mean())
        if power > 0:
            weights[usable, target] = _average(table, values / np.sqrt(power)) * np.sqrt(power) / scale[usable]
    return weights


def _average(table: Float[np.ndarray, "n P"], values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "P"]:
    """The posterior mean of the weights [P]; the columns of `table` and `values` have mean square 1."""
    num_rows, num_features = table.shape
    # All sets of three among many features would be too many, so the features are screened by correlation.
    cross = table.T @ values / num_rows
    tried = np.sort(np.argsort(-(cross**2), kind="stable")[:MAX_FEATURES])
    gram = table[:, tried].T @ table[:, tried] / num_rows
    evidence, means = [np.zeros(1)], [np.zeros((1, num_features))]
    for size in range(1, min(MAX_TOGETHER, len(tried)) + 1):
        sets = np.array(list(combinations(range(len(tried)), size)))
        among = gram[sets[:, :, None], sets[:, None, :]] + 1e-9 * np.eye(size)  # duplicate features share the weight
        weights = np.linalg.solve(among, cross[tried][sets][..., None])[..., 0]
        # The g-prior with g = n, or wider where the F ratio asks for it (local empirical Bayes).
        explained = np.clip((weights * cross[tried][sets]).sum(1), 0.0, 1.0 - 1e-12)
        ratio = explained / size / ((1 - explained) / (num_rows - size))
        width = np.maximum(num_rows, ratio - 1)
        evidence.append(_evidence(explained, width, num_rows, size) - log(comb(len(tried), size)))
        spread = np.zeros((len(sets), num_features))
        np.put_along_axis(spread, tried[sets], weights * (width / (width + 1))[:, None], 1)
        means.append(spread)
    # The average over sets, weighted by evidence; the largest one is subtracted, so that no exponential overflows.
    every = np.concatenate(evidence)
    share: NDArray[np.floating] = np.exp(every - every.max())
    return np.asarray(share @ np.concatenate(means) / share.sum())


def _evidence(
    explained: Float[np.ndarray, "M"], width: Float[np.ndarray, "M"], num_rows: int, size: int
) -> Float[np.ndarray, "M"]:
    """The log evidence relative to the empty set, from the explained share of the variance."""
    return np.asarray((num_rows - size) / 2 * np.log1p(width) - num_rows / 2 * np.log1p(width * (1 - explained)))
