"""What part of some residuals is linear in some features, where few features matter and perhaps none."""

from __future__ import annotations

from itertools import combinations
from math import comb, log
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

MAX_TOGETHER: Final = 3
"""Features that explain one residual together, at most."""

MAX_FEATURES: Final = 24
"""Features that are tried together: those that explain most by themselves."""


def sparse_bayesian_regression(
    features: Float[np.ndarray, "n P"], residuals: Float[np.ndarray, "n D"]
) -> Float[np.ndarray, "P D"]:
    """The weights that are expected, given the residuals: an average over every small set of features, and none.

    Each set is a regression, weighed by how probable it makes the residuals. The prior of its weights holds as much
    information as one step; less, where they are so large that this would pull them down for no reason. Sets of 0, 1,
    2 and 3 features are taken to be equally probable beforehand, and so are all sets of one size: where nothing is to
    be explained the weights are close to 0. Whatever scale a feature has does not matter, but its zero does: a friction
    that acts on velocity is one feature, on "velocity - 3" two.

    Args:
        features: of n steps.
        residuals: of each target, in any unit.

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
    """The expected weights [P]; the columns of `table` and `values` have mean square 1."""
    num_rows, num_features = table.shape
    cross = table.T @ values / num_rows
    tried = np.sort(np.argsort(-(cross**2), kind="stable")[:MAX_FEATURES])
    gram = table[:, tried].T @ table[:, tried] / num_rows
    evidence, found = [np.zeros(1)], [np.zeros((1, num_features))]
    for size in range(1, min(MAX_TOGETHER, len(tried)) + 1):
        sets = np.array(list(combinations(range(len(tried)), size)))
        among = gram[sets[:, :, None], sets[:, None, :]] + 1e-9 * np.eye(size)  # copies of a feature share the weight
        weights = np.linalg.solve(among, cross[tried][sets][..., None])[..., 0]
        explained = np.clip((weights * cross[tried][sets]).sum(1), 0.0, 1.0 - 1e-12)
        ratio = explained / size / ((1 - explained) / (num_rows - size))
        width = np.maximum(num_rows, ratio - 1)
        evidence.append(_evidence(explained, width, num_rows, size) - log(comb(len(tried), size)))
        spread = np.zeros((len(sets), num_features))
        np.put_along_axis(spread, tried[sets], weights * (width / (width + 1))[:, None], 1)
        found.append(spread)
    every = np.concatenate(evidence)
    share: NDArray[np.floating] = np.exp(every - every.max())
    return np.asarray(share @ np.concatenate(found) / share.sum())


def _evidence(
    explained: Float[np.ndarray, "M"], width: Float[np.ndarray, "M"], num_rows: int, size: int
) -> Float[np.ndarray, "M"]:
    """The log of how much more probable than by noise alone the residuals are, by the share that is explained."""
    return np.asarray((num_rows - size) / 2 * np.log1p(width) - num_rows / 2 * np.log1p(width * (1 - explained)))
