"""Scores with bootstrap intervals over scenes, the independent units of a test.

A statistic is a function of the weights of the scenes [draws, E]. It is called once with ones, for its value, and once
with 2,000 bootstrap draws. Figures are rounded to six decimals, so that stored answers get the same grade on every
machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.audit.grades import Cell, Score
from worldline.errors import InputError
from worldline.stats import draw_clusters, ratio

Floats = NDArray[np.floating]
Statistic = Callable[[Floats], Floats]
"""Maps scene weights [draws, E] to the figure [draws]."""

GATE: Final = 0.05
"""Smallest distance of baseline and upper bound in a scored cell, as a share of the marginal loss."""
HALF: Final = 0.5
DECIMALS: Final = 6
MIN_SCENES: Final = 10


def score(statistic: Statistic, num_scenes: int, *, seed: int = 0) -> Score | None:
    """The statistic with its bootstrap intervals; None if it is not finite.

    Args:
        statistic: maps scene weights to the figure.
        num_scenes: E, at least 10.
        seed: seed of the draws.

    Raises:
        InputError: there are too few scenes for an interval.
    """
    if num_scenes < MIN_SCENES:
        raise InputError(f"expected at least {MIN_SCENES} scenes for an interval, got {num_scenes}. Grade more scenes.")
    value = float(statistic(np.ones((1, num_scenes)))[0])
    draws = np.asarray(statistic(draw_clusters(num_scenes, seed)), dtype=float)
    if not np.isfinite(value):
        return None
    # An undefined draw widens the interval at both ends.
    high = np.quantile(np.where(np.isnan(draws), np.inf, draws), 0.975, method="inverted_cdf")
    draws = np.where(np.isnan(draws), -np.inf, draws)
    low, surely = np.quantile(draws, (0.025, 0.001), method="inverted_cdf")
    return Score(
        value=_rounded(value),
        low=_rounded(min(low, value)),
        high=_rounded(max(high, value)),
        surely=_rounded(min(surely, value)),
        p_half=_rounded((1 + int((draws <= HALF).sum())) / (1 + len(draws))),
        draws=tuple(draws.tolist()),
    )


def skill(loss: Float[np.ndarray, "E"], floor: Float[np.ndarray, "E"], ceiling: Float[np.ndarray, "E"]) -> Statistic:
    """(floor - loss) / (floor - ceiling), each summed over the scenes.

    Args:
        loss: loss of each scene.
        floor: loss of the best trivial baseline; for the error of an effect, the squared true effect.
        ceiling: loss of the best possible estimate; zeros if the ground truth can be known.
    """
    parts = np.stack([floor - loss, floor - ceiling], 1).astype(float)

    def statistic(weights: Floats) -> Floats:
        gained, possible = np.moveaxis(weights @ parts, -1, 0)
        return ratio(gained, np.where(possible > 0, possible, 0.0))

    return statistic


def skill_cell(
    name: str,
    loss: Floats,
    floor: Floats,
    ceiling: Floats | None = None,
    *,
    marginal: Floats | float | None = None,
    gate: float = GATE,
) -> Cell:
    """A cell scored by `skill`; gated (not scored) if baseline and upper bound are too close.

    Args:
        name: name of the cell.
        loss: [E].
        floor: [E].
        ceiling: [E]; None for zeros.
        marginal: loss [E], or its mean, of predicting the mean over all scenes. None gates only a floor that is no
            worse than the ceiling.
        gate: smallest distance of floor and ceiling, as a share of `marginal`. A gated world counts as worse if its
            loss exceeds the floor by more than `GATE` of `marginal`, whatever `gate` is.
    """
    ceiling = np.zeros_like(floor) if ceiling is None else ceiling
    size = 0.0 if marginal is None else float(np.mean(marginal))
    raw = rounded(loss=loss.mean(), floor=floor.mean(), ceiling=ceiling.mean())
    raw |= {} if marginal is None else rounded(marginal=size)
    apart = float(floor.mean() - ceiling.mean())
    if apart <= gate * size:
        worse = not float(loss.mean() - floor.mean()) <= GATE * size  # NaN counts as worse
        note = "gated: the best trivial model is as good as can be"
        return Cell(name=name, score=None, raw=raw, note=f"{note}; this one is worse" if worse else note)
    return cell(name, skill(loss, floor, ceiling), len(loss), raw=raw)


def cell(name: str, statistic: Statistic, num_scenes: int, *, raw: Mapping[str, float] | None = None) -> Cell:
    """A cell scored by any statistic; not scored if the statistic is not finite."""
    result = score(statistic, num_scenes)
    return Cell(name=name, score=result, raw=raw or {}, note="" if result else "undefined for these answers")


def accuracy(hits: Float[np.ndarray, "E"], chance: float = HALF) -> Statistic:
    """Share of hits, rescaled so that guessing gives 0.

    Args:
        hits: 1, 0, or 0.5 for a tie; or the mean of several in one scene.
        chance: share of hits of guessing, in [0, 1).
    """

    def statistic(weights: Floats) -> Floats:
        return (ratio(weights @ hits.astype(float), weights.sum(-1)) - chance) / (1 - chance)

    return statistic


def auroc(values: Float[np.ndarray, "E"], positive: Bool[np.ndarray, "E"]) -> Statistic:
    """2 * AUROC - 1; ties count half.

    Args:
        values: of each scene.
        positive: whether the value should be large.
    """
    above, below = values[positive], values[~positive]
    wins = (above[:, None] > below[None]) + 0.5 * (above[:, None] == below[None])

    def statistic(weights: Floats) -> Floats:
        first, other = weights[:, positive], weights[:, ~positive]
        share = ratio(((first @ wins) * other).sum(-1), first.sum(-1) * other.sum(-1))
        return 2 * share - 1

    return statistic


def rounded(**figures: SupportsFloat) -> dict[str, float]:
    """Raw figures, rounded as they are stored."""
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: SupportsFloat) -> float:
    return round(float(value), DECIMALS) + 0.0  # no negative zero
