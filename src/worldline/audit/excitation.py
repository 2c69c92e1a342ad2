"""Excitation of the actions, and the placebo test for hidden causes.

Excitation is the part of an action that the history does not predict. Effects are identified from this part alone. An
action that is held for many rows is measured where it changes, because it is predictable while it is held.

The placebo test correlates the error of a world with the next action, which cannot have caused it. A controller reacts
to observations and an action is often held, so the two may be correlated for harmless reasons. Therefore the part of
the action that the last observation and the last action explain is removed. The remaining correlation comes from a
cause with a memory: a controller's, or a hidden cause of both. The logs do not distinguish these. They also do not
reveal a hidden cause that is independent at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from worldline.audit.measured import Excitation, Placebo
from worldline.audit.regression_rows import RegressionRows, action_names
from worldline.data.quality.regressions import MIN_CHANGES, action_changes, folds, residuals, residuals_at_changes
from worldline.schema import Schema
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio, ratio_estimate, student_quantile

MIN_EXCITATION: Final = 0.05
"""Share of unexplained variance of an action below which its effects are not identifiable."""
MIN_RANDOMISED: Final = 200
"""Number of flagged random steps that identifies effects, whatever the other steps are."""
MAX_ROWS: Final = 12_000
MIN_CORRELATION: Final = 0.1
"""Smallest absolute correlation of a placebo finding."""
MAX_CORRELATION: Final = 1 - 1e-9
"""Bound of correlations before Fisher's z, which diverges at 1."""
ALPHA: Final = 0.01
"""Family-wise error rate of the placebo findings over all pairs."""
MIN_EPISODES: Final = 20
"""Smallest number of episodes of a placebo finding; intervals from fewer have unreliable tails."""
MIN_PAIRS: Final = 20
"""Smallest number of pairs of error and next action of a tested signal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Innovations:
    """Residuals of the actions after cross-validated regressions; each row is predicted from other episodes.

    Args:
        rows: used rows, subsampled if there are many.
        left: [n, m] residuals of the better of a linear and a nonlinear regression on the history.
        unexplained: [n, m] the same, given only the last observation, the last action and the inputs.
    """

    rows: RegressionRows
    left: Floats
    unexplained: Floats


def innovations(rows: RegressionRows, *, seed: int) -> Innovations:
    """Residuals of each action given the history.

    Args:
        rows: rows of the logs.
        seed: seed of the folds and of the nonlinear regression.
    """
    draw = np.random.default_rng([seed, 11])
    if len(rows.episode) > MAX_ROWS:
        chosen = np.zeros(len(rows.episode), bool)
        chosen[draw.permutation(len(chosen))[:MAX_ROWS]] = True
        rows = rows.of(chosen)
    fold = folds(np.unique(rows.episode, return_inverse=True)[1], draw)
    left, unexplained = (residuals(known, rows.action, fold, draw) for known in (rows.history, rows.present))
    return Innovations(rows=rows, left=left, unexplained=unexplained)


def excitations(regressed: Innovations, schema: Schema, *, seed: int) -> tuple[Excitation, ...]:
    """1 - R^2 of each action component, with its interval over episodes.

    It is the larger of two: over all rows, and over the rows where a held action changes. The first one counts the time
    of a change, the second one the new level.

    Args:
        regressed: result of `innovations`.
        schema: of the rows.
        seed: seed of the folds and of the bootstrap.
    """
    rows, draw = regressed.rows, np.random.default_rng([seed, 12])
    weights = draw_clusters(rows.num_episodes, seed)
    flagged = int(rows.randomised.sum()) >= MIN_RANDOMISED
    changed = action_changes(rows.action, rows.before[:, -1], schema)
    fold = folds(np.unique(rows.episode, return_inverse=True)[1], draw)
    at_changes = residuals_at_changes(rows.history, rows.action, changed, fold, draw)
    results = []
    for k, name in enumerate(action_names(schema)):
        shares = (_share(part[:, k], rows.action[:, k], rows, weights) for part in (regressed.left, at_changes))
        random, num_changes = rows.action[rows.randomised, k], int(changed[:, k].sum())
        varies = flagged and float(random.var()) >= MIN_EXCITATION * float(rows.action[:, k].var()) > 0
        left = max(shares, key=lambda share: share.value)
        enough = bool(varies or (left.value >= MIN_EXCITATION and num_changes >= MIN_CHANGES))
        results.append(Excitation(action=name, left=left, num_changes=num_changes, enough=enough))
    return tuple(results)


def _share(left: Floats, action: Floats, rows: RegressionRows, weights: Floats) -> Estimate:
    """Mean squared residual divided by the variance, at most 1, over the rows with a residual.

    0 for a constant action, and without residuals.
    """
    known = np.isfinite(left)
    left, centred = left[known], action[known] - (action[known].mean() if known.any() else 0.0)
    if not (centred**2).sum() > 0:
        return Estimate(value=0.0, low=0.0, high=0.0)
    squares = np.stack([left**2, centred**2], 1)
    return ratio_estimate(squares, rows.episode[known], weights, lambda share: np.minimum(1.0, share))


def placebos(
    regressed: Innovations,
    errors: Float[np.ndarray, "k d"],
    episode: Int[np.ndarray, "k"],
    step: Int[np.ndarray, "k"],
    names: tuple[Sequence[str], Sequence[str]],
) -> tuple[Placebo, ...]:
    """Correlations of the error of observation t with the next action t, over the known errors of each signal.

    A signal with too few known errors or too few episodes is left out.

    Args:
        regressed: result of `innovations`.
        errors: one-step errors of the world; NaN if unknown.
        episode: episode of each error, as in the rows.
        step: index t of the observation of each error.
        names: names of the components of actions and errors.
    """
    rows = regressed.rows
    # Pairs of an error and the row of the same step.
    length = 1 + max(int(steps.max(initial=0)) for steps in (step, rows.step))
    places = (episode * length + step, rows.episode * length + rows.step)
    _, mine, theirs = np.intersect1d(*places, assume_unique=True, return_indices=True)
    needed = min(MIN_EPISODES, len(np.unique(episode[mine])))
    tested = []
    for column, signal in enumerate(names[1]):
        known = np.isfinite(errors[mine, column])
        own, row, cluster = mine[known], theirs[known], np.unique(episode[mine[known]], return_inverse=True)[1]
        if len(own) >= MIN_PAIRS and int(cluster.max()) + 1 >= needed:
            tested.append((signal, errors[own, column], row, cluster))
    alpha = ALPHA / max(1, len(tested) * rows.action.shape[1])
    placebos = []
    for (a, action), (signal, error, row, cluster) in product(enumerate(names[0]), tested):
        value, strict = (_correlation(error, regressed.unexplained[row, a], cluster, p) for p in (0.05, alpha))
        count = int(cluster.max()) + 1
        is_found = count >= MIN_EPISODES and (strict.low > 0 or strict.high < 0) and abs(value.value) >= MIN_CORRELATION
        placebos.append(Placebo(action=action, signal=signal, value=value, num_episodes=count, found=bool(is_found)))
    return tuple(placebos)


def _correlation(first: Floats, other: Floats, cluster: Int[np.ndarray, "k"], alpha: float) -> Estimate:
    """Correlation with its jackknife interval over episodes, computed on Fisher's z; 0 if an input is constant.

    A bootstrap over episodes cannot resolve the tail of an `alpha` shared by many pairs, and underestimates it for few
    episodes. Student's degrees of freedom use the effective number of episodes of equal length.

    Source: MacKinnon, Nielsen and Webb (2023), "Fast and reliable jackknife and bootstrap methods for cluster-robust
    inference", section 2; Kish (1965), "Survey sampling", section 8.2.
    """
    first, other = first - first.mean(), other - other.mean()
    products = np.stack([first * other, first**2, other**2, first, other, np.ones_like(first)], 1)
    count = int(cluster.max()) + 1
    sums = cluster_sums(products, cluster, count)
    value = float(_pearson(sums.sum(0, keepdims=True))[0])
    effective = sums[:, -1].sum() ** 2 / (sums[:, -1] ** 2).sum()
    if effective < 2:
        return Estimate(value=value, low=-1.0, high=1.0)
    # Each part leaves one episode out.
    correlations = value, _pearson(sums.sum(0) - sums)
    overall, parts = (np.arctanh(np.clip(r, -MAX_CORRELATION, MAX_CORRELATION)) for r in correlations)
    error = np.sqrt((count - 1) / count * ((parts - overall) ** 2).sum())
    half = student_quantile(alpha / 2, float(effective - 1)) * error
    return Estimate.around(value, np.tanh(overall - half), np.tanh(overall + half))


def _pearson(sums: Floats) -> Floats:
    """Correlations [k] from sums [k, 6] of products, squares, values and count."""
    xy, xx, yy, x, y, n = np.moveaxis(sums, -1, 0)
    mean_x, mean_y = ratio(x, n), ratio(y, n)
    power = (xx - mean_x * x) * (yy - mean_y * y)
    return np.nan_to_num(ratio(xy - mean_x * y, np.sqrt(np.maximum(power, 0.0))))
