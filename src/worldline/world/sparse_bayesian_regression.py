"""Bayesian linear regression averaged over small sets of features."""

from __future__ import annotations

from itertools import combinations
from math import comb, log
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

MAX_TOGETHER: Final = 3
"""Largest set of features."""

MAX_FEATURES: Final = 24
"""Number of features that sets are built from: those with the largest single correlation."""


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
