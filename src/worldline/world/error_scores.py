"""Scores of prediction errors: of whole paths for bands, and of single steps for p-values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.schema import Schema

Floats = NDArray[np.floating]

BOUND_LEVEL: Final = 0.75
"""Confidence level of the upper bound of the correlation of windows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPValues:
    """P-values of W steps. Before ranking, the same structure holds their scores.

    Args:
        signals: per predicted signal [W].
        entities: per entity [W].
        steps: [W].
    """

    signals: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats


def running_scores(error: Floats, scale: Floats, known: NDArray[np.bool_]) -> Floats:
    """The scores [T, W] of errors [W, T, *shape]: the largest error over scale up to each step.

    NaN if nothing was `known` [W, T] up to that step. Unknown errors are 0.
    """
    largest = np.maximum.accumulate((error / scale).max(-1), axis=1)
    return np.asarray(np.where(np.logical_or.accumulate(known, axis=1), largest, np.nan).T)


def design_effect(scores: Floats, num_windows: int) -> Floats:
    """The number of windows [T] of one episode that are worth one independent window: 1 + (k - 1) * correlation.

    The correlation is that of two windows of an episode: the intraclass correlation of the normal scores of the ranks,
    0 to 1. Few episodes determine it badly, so its upper confidence bound is used. Missing scores count as the mean of
    their episode. The correlation is 1 if there is one episode only, or no score of an episode.

    Args:
        scores: [T, K * k], episode by episode; NaN if missing.
        num_windows: k, windows per episode.

    Source: Kish 1965, Survey Sampling; Searle 1971, Linear Models, section 9.9, for the confidence bound.
    """
    from scipy.special import fdtri, ndtri  # imported here for the reason in `stats.student_quantile`
    from scipy.stats import rankdata

    num_steps, total = scores.shape
    num_episodes = total // num_windows
    effects = np.full(num_steps, float(num_windows))
    counts = np.isfinite(scores).reshape(num_steps, num_episodes, num_windows).sum(2)
    some = (counts > 0).all(1)
    if num_windows == 1 or num_episodes < 2 or not some.any():
        return effects
    # Normal scores of the ranks: the scores themselves have heavy tails, which would hide the correlation.
    policy = "omit" if np.isnan(scores[some]).any() else "propagate"  # omitting is slow
    ranks = rankdata(scores[some], axis=1, nan_policy=policy)
    normal = ndtri((ranks - 0.5) / np.isfinite(ranks).sum(1, keepdims=True)).reshape(-1, num_episodes, num_windows)
    normal = np.where(np.isfinite(normal), normal, np.nanmean(normal, axis=2, keepdims=True))
    # Analysis of variance between and within episodes; the quantile of F turns the ratio into its upper bound.
    means = normal.mean(2)
    between = num_windows * means.var(1, ddof=1)
    within = normal.var(2, ddof=1).mean(1)
    smallest = fdtri(num_episodes - 1, num_episodes * (num_windows - 1), 1 - BOUND_LEVEL)
    f_ratio = between / np.maximum(within, 1e-12) / smallest
    correlation = np.where(between + within > 0, (f_ratio - 1) / (f_ratio + num_windows - 1), 1.0)
    effects[some] = 1 + (num_windows - 1) * np.clip(correlation, 0.0, 1.0)
    return effects


def sorted_scores(score: Floats) -> Floats:
    """The finite scores, sorted."""
    return np.sort(score[np.isfinite(score)])


def one_step_scores(error: Floats, scale: Floats | None) -> Floats:
    """The score [W] of one-step errors [W, ...]: the largest, over the first step of `scale` if there is one."""
    relative = error if scale is None else error / scale[0]
    return np.asarray(relative.reshape(len(error), -1).max(1))


def score_unit(score: Floats) -> Floats:
    """The 90 % quantile of scores [W]; 1 if it is 0 or there is none."""
    finite = sorted_scores(score)
    quantile = np.quantile(finite, 0.9) if len(finite) else 0.0
    return np.asarray(quantile if quantile > 0 else 1.0)


def combined_scores(schema: Schema, scores: Mapping[str, Floats], unit: Mapping[str, Floats]) -> StepPValues:
    """The scores [W] per entity and of all signals: the largest score over unit, without NaN."""
    relative = {name: score / unit[name] for name, score in scores.items()}
    entities: dict[str, Floats] = {}
    for name, score in relative.items():
        entity = schema[name].entity
        if entity is not None:
            entities[entity] = np.fmax(entities.get(entity, score), score)
    # A world of images only may predict nothing; it is calibrated for trust.
    steps = np.fmax.reduce(list(relative.values())) if relative else np.zeros(0)
    return StepPValues(signals=relative, entities=entities, steps=steps)


def mean_error(error: Floats, known: NDArray[np.bool_]) -> Floats:
    """The mean [T, n] of errors [W, T, n] that are `known` [W, T]; the mean over all steps where none is."""
    count = known.sum(0)[:, None]
    overall = error.sum((0, 1)) / max(1, known.sum())
    return np.asarray(np.where(count > 0, error.sum(0) / np.maximum(count, 1), overall))


def p_value(reference: Floats, score: Floats, effect: float) -> Floats:
    """The conformal p-value: the share of windows, this one included, that scored as high.

    Args:
        reference: [n] sorted scores.
        score: [W].
        effect: d, the number of windows that are worth an independent one. This window counts as so many.
    """
    higher = len(reference) - np.searchsorted(reference, score, side="left")
    return np.asarray((effect + higher) / (effect + len(reference)))
