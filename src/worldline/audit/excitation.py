"""What of the actions does not follow from the history: only from that can effects be told.

The placebo looks at the error of a world and the action that comes after it, which cannot have caused it. A controller
answers to what it sees, and a lever is held for a while, so both go together for good reasons: what the last
observation and the last action explain is taken out. What is left comes from something with a memory: a controller's,
or a hidden cause of both. Logs cannot tell which; nor do they show a hidden cause that is drawn anew at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from worldline.audit.audit_evidence import Excitation, Placebo
from worldline.audit.regression_rows import RegressionRows
from worldline.data.quality.regression import HeldOut, clipped, folds, scaled, waves
from worldline.stats import Estimate, Floats, cluster_sums, curve, draw_clusters, ratio, student_quantile

ENOUGH: Final = 0.05
"""Share of an action's variance that has to be left, or its effects are not identifiable."""
MIN_RANDOMISED: Final = 200
"""Flagged steps from which effects can be told whatever the others are."""
MAX_ROWS: Final = 12_000
RIDGE: Final = 1e-3
MATERIAL: Final = 0.1
"""Correlation below which a placebo finding is of no weight."""
CLOSEST: Final = 1 - 1e-9
"""Correlation beyond which Fisher's z is not taken, as it has no end."""
ALPHA: Final = 0.01
"""Chance of any false finding among all pairs."""
MIN_EPISODES: Final = 20
"""Below it no placebo finding is sure: the spread of so few episodes tells too little of what is rare."""
MIN_PAIRS: Final = 20
"""Errors of a signal, each with the action after it, below which they are not looked at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Innovations:
    """What regressions leave of the actions, each row predicted from other episodes.

    Args:
        rows: that were looked at, thinned where there are many.
        linear: [n, m] left by a linear regression on the history.
        bent: [n, m] left by one that can bend.
        least: [n, m] of each component what the better of both leaves.
        unexplained: [n, m] the same where the last observation, the last action and the inputs alone are known.
    """

    rows: RegressionRows
    linear: Floats
    bent: Floats
    least: Floats
    unexplained: Floats


def innovations(rows: RegressionRows, *, seed: int) -> Innovations:
    """What of each action does not follow from the history.

    Args:
        rows: of the logs.
        seed: of the folds and of the regression that can bend.
    """
    draw = np.random.default_rng([seed, 11])
    if len(rows.episode) > MAX_ROWS:
        chosen = np.zeros(len(rows.episode), bool)
        chosen[draw.permutation(len(chosen))[:MAX_ROWS]] = True
        rows = rows.of(chosen)
    fold = folds(np.unique(rows.episode, return_inverse=True)[1], draw)
    linear, bent = _both(rows.history, rows.action, fold, draw)
    present = _both(rows.present, rows.action, fold, draw)
    return Innovations(rows=rows, linear=linear, bent=bent, least=_better(linear, bent), unexplained=_better(*present))


def _both(
    known: Floats, target: Floats, fold: Int[np.ndarray, "n"], draw: np.random.Generator
) -> tuple[Floats, Floats]:
    """What a linear regression leaves, and one that can bend."""
    table = np.clip(scaled(clipped(known)), -6, 6)
    bending = np.concatenate([table, waves(table, min(150, len(table) // 10), draw)], 1)
    return _left(table, target, fold), _left(bending, target, fold)


def _better(one: Floats, other: Floats) -> Floats:
    """Of each component the smaller residuals."""
    return np.where((other**2).mean(0) < (one**2).mean(0), other, one)


def _left(table: Floats, target: Floats, fold: Int[np.ndarray, "n"]) -> Floats:
    """Residuals of guesses that stay within what was logged."""
    every = np.arange(table.shape[1]), np.arange(target.shape[1])
    guess = target - HeldOut(table, target, fold).residual(*every, RIDGE)
    return np.asarray(target - np.clip(guess, target.min(0), target.max(0)))


def excitations(found: Innovations, names: Sequence[str], *, seed: int) -> tuple[Excitation, ...]:
    """1 - R^2 of each component of the actions, with its interval over episodes.

    Args:
        found: from `innovations`.
        names: of the components.
        seed: of the bootstrap.
    """
    rows, least = found.rows, found.least
    weights = draw_clusters(rows.num_episodes, seed)
    flagged = int(rows.randomised.sum()) >= MIN_RANDOMISED
    told = []
    for k, name in enumerate(names):
        centred = rows.action[:, k] - rows.action[:, k].mean()
        shares = [_share(left[:, k], centred, rows, weights) for left in (found.linear, found.bent, least)]
        random = rows.action[rows.randomised, k]
        varies = flagged and float(random.var()) >= ENOUGH * float(centred.var()) > 0
        told.append(
            Excitation(
                action=name,
                linear=shares[0].value,
                bent=shares[1].value,
                left=shares[2],
                enough=bool(varies or shares[2].value >= ENOUGH),
            )
        )
    return tuple(told)


def _share(left: Floats, centred: Floats, rows: RegressionRows, weights: Floats) -> Estimate:
    """Mean square that is left over the variance, at most 1; 0 for an action that never changes."""
    if not (centred**2).sum() > 0:
        return Estimate(value=0.0, low=0.0, high=0.0)
    sums = cluster_sums(np.stack([left**2, centred**2], 1), rows.episode, rows.num_episodes)
    draws = weights @ sums
    value = min(1.0, float(sums[:, 0].sum() / sums[:, 1].sum()))
    return curve(np.array([value]), np.minimum(1.0, ratio(draws[:, 0], draws[:, 1]))[:, None]).at(1)


def placebos(
    found: Innovations,
    errors: Float[np.ndarray, "k d"],
    episode: Int[np.ndarray, "k"],
    step: Int[np.ndarray, "k"],
    names: tuple[Sequence[str], Sequence[str]],
) -> tuple[Placebo, ...]:
    """Correlations of the error of observation t with the action taken there, t, each over what is known of its signal.

    A signal is left out of whose errors too few are known, or those of few episodes where there are others.

    Args:
        found: from `innovations`.
        errors: of one step of the world; NaN where it is not known.
        episode: of each error, as in the rows.
        step: the index t of the observation that the error is of: the action t is the next one.
        names: of the components of actions and errors.
    """
    rows = found.rows
    place = {key: k for k, key in enumerate(zip(rows.episode.tolist(), rows.step.tolist(), strict=True))}
    keys = enumerate(zip(episode.tolist(), step.tolist(), strict=True))
    mine, theirs = np.array([(k, place[key]) for k, key in keys if key in place], np.int64).reshape(-1, 2).T
    needed = min(MIN_EPISODES, len(np.unique(episode[mine])))
    known = [np.isfinite(one) for one in errors[mine].T]
    asked = [
        (signal, mine[there], theirs[there], errors[mine[there], s])
        for s, (signal, there) in enumerate(zip(names[1], known, strict=True))
        if there.sum() >= MIN_PAIRS and len(np.unique(episode[mine[there]])) >= needed
    ]
    alpha = ALPHA / max(1, len(asked) * rows.action.shape[1])
    return tuple(
        _placebo((action, signal), error, rows.action[k, a], found.unexplained[k, a], episode[j], alpha)
        for a, action in enumerate(names[0])
        for signal, j, k, error in asked
    )


def _placebo(
    names: tuple[str, str],
    error: Floats,
    action: Floats,
    unexplained: Floats,
    episode: Int[np.ndarray, "k"],
    alpha: float,
) -> Placebo:
    """Of one component of the actions and one of the errors."""
    cluster = np.unique(episode, return_inverse=True)[1]
    num_episodes = int(cluster.max()) + 1
    own, sure = (_correlation(error, unexplained, cluster, one) for one in (0.05, alpha))
    there = num_episodes >= MIN_EPISODES and (sure.low > 0 or sure.high < 0) and abs(own.value) >= MATERIAL
    return Placebo(
        action=names[0],
        signal=names[1],
        raw=_correlation(error, action, cluster, 0.05),
        value=own,
        num_episodes=num_episodes,
        found=bool(there),
    )


def _correlation(one: Floats, other: Floats, cluster: Int[np.ndarray, "k"], alpha: float) -> Estimate:
    """With its interval over episodes: of Fisher's z, by leaving out one episode at a time.

    A bootstrap of the episodes has no tail for an `alpha` that many pairs share, and too short a one where they are
    few. Student's degrees of freedom are of as many episodes of one length as tell as much. The value is 0 where one of
    them does not vary.

    Source: MacKinnon, Nielsen and Webb (2023), "Fast and reliable jackknife and bootstrap methods for cluster-robust
    inference", section 2; Kish (1965), "Survey sampling", section 8.2.
    """
    one, other = one - one.mean(), other - other.mean()
    products = np.stack([one * other, one**2, other**2, one, other, np.ones_like(one)], 1)
    count = int(cluster.max()) + 1
    sums = cluster_sums(products, cluster, count)
    value = float(_pearson(sums.sum(0, keepdims=True))[0])
    worth = sums[:, -1].sum() ** 2 / (sums[:, -1] ** 2).sum()
    if worth < 2:
        return Estimate(value=value, low=-1.0, high=1.0)
    whole, parts = (np.arctanh(np.clip(r, -CLOSEST, CLOSEST)) for r in (value, _pearson(sums.sum(0) - sums)))
    error = np.sqrt((count - 1) / count * ((parts - whole) ** 2).sum())
    half = student_quantile(alpha / 2, float(worth - 1)) * error
    return Estimate(
        value=value, low=min(float(np.tanh(whole - half)), value), high=max(float(np.tanh(whole + half)), value)
    )


def _pearson(sums: Floats) -> Floats:
    """[k] from sums [k, 6] of products, squares, values and count."""
    both, one, other, x, y, n = np.moveaxis(sums, -1, 0)
    mean_x, mean_y = ratio(x, n), ratio(y, n)
    power = (one - mean_x * x) * (other - mean_y * y)
    return np.nan_to_num(ratio(both - mean_x * y, np.sqrt(np.maximum(power, 0.0))))
