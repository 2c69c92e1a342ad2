"""Scores with intervals over scenes, which are the independent units: whatever a scene holds is drawn together.

A statistic is a function of how often each scene counts [draws, E]. It is called once with ones, for its value, and
once with 2,000 bootstrap draws. Figures are rounded to six decimals, far coarser than the arithmetic of any machine, so
that answers that were stored are graded alike everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.audit.grades import Cell, Score
from worldline.errors import InputError
from worldline.stats import draw_clusters, ratio

Floats = NDArray[np.floating]
Statistic = Callable[[Floats], Floats]
"""Takes how often each scene counts [draws, E], gives the figure [draws]."""

GATE: Final = 0.05
"""Share of the marginal loss by which floor and ceiling have to be apart, or a cell is not scored."""
HALF: Final = 0.5
DECIMALS: Final = 6
MIN_SCENES: Final = 10


def score(statistic: Statistic, num_scenes: int, *, seed: int = 0) -> Score | None:
    """The statistic with its bootstrap intervals; None where it is not a finite number.

    Args:
        statistic: see the module.
        num_scenes: E, at least 10.
        seed: of the draws.

    Raises:
        InputError: there are too few scenes for an interval.
    """
    if num_scenes < MIN_SCENES:
        raise InputError(f"{num_scenes} scenes give no interval. Grade at least {MIN_SCENES}.")
    value = float(statistic(np.ones((1, num_scenes)))[0])
    draws = np.asarray(statistic(draw_clusters(num_scenes, seed)), dtype=float)
    if not np.isfinite(value):
        return None
    # A draw in which nothing can be told widens the interval at both ends.
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
        loss: of each scene.
        floor: of the best trivial model; also the squared size of an effect, for an effect's error.
        ceiling: of the best estimate; zeros where the truth can be known.
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
    """A cell scored by `skill`, gated where floor and ceiling are too near each other to tell anything.

    Args:
        name: of the cell.
        loss: [E].
        floor: [E].
        ceiling: [E]; None for zeros.
        marginal: loss [E], or its mean, of predicting the mean over all scenes; the gate is a share of it. None where
            only a floor that is no worse than the ceiling is gated.
        gate: that share. Worse than a gated floor is what loses more than it by `GATE` of the marginal loss, whatever
            this is.
    """
    ceiling = np.zeros_like(floor) if ceiling is None else ceiling
    size = 0.0 if marginal is None else float(np.mean(marginal))
    raw = rounded(loss=loss.mean(), floor=floor.mean(), ceiling=ceiling.mean())
    raw |= {} if marginal is None else rounded(marginal=size)
    apart = float(floor.mean() - ceiling.mean())
    if apart <= gate * size:
        worse = not float(loss.mean() - floor.mean()) <= GATE * size  # so is what is not a number
        note = "gated: the best trivial model is as good as can be"
        return Cell(name=name, score=None, raw=raw, note=f"{note}; this one is worse" if worse else note)
    return cell(name, skill(loss, floor, ceiling), len(loss), raw=raw)


def cell(name: str, statistic: Statistic, num_scenes: int, *, raw: Mapping[str, float] | None = None) -> Cell:
    """A cell scored by any statistic; not scored where the statistic is not a finite number."""
    found = score(statistic, num_scenes)
    return Cell(name=name, score=found, raw=raw or {}, note="" if found else "undefined for these answers")


def accuracy(hits: Float[np.ndarray, "E"], chance: float = HALF) -> Statistic:
    """The share of hits, rescaled so that chance is 0.

    Args:
        hits: 1, 0, or 0.5 for a tie; or the mean of several in one scene.
        chance: share of hits of guessing, in [0, 1).
    """

    def statistic(weights: Floats) -> Floats:
        return (ratio(weights @ hits.astype(float), weights.sum(-1)) - chance) / (1 - chance)

    return statistic


def auroc(values: Float[np.ndarray, "E"], positive: Bool[np.ndarray, "E"]) -> Statistic:
    """2 * AUROC - 1: how much more often a positive scene has the larger value; ties count half.

    Args:
        values: of each scene.
        positive: whether it should be large.
    """
    above, below = values[positive], values[~positive]
    wins = (above[:, None] > below[None]) + 0.5 * (above[:, None] == below[None])

    def statistic(weights: Floats) -> Floats:
        one, other = weights[:, positive], weights[:, ~positive]
        share = ratio(((one @ wins) * other).sum(-1), one.sum(-1) * other.sum(-1))
        return 2 * share - 1

    return statistic


def rounded(**figures: float | np.floating) -> dict[str, float]:
    """Raw figures as they are stored."""
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float | np.floating) -> float:
    return round(float(value), DECIMALS) + 0.0  # no negative zero
