"""Exact chances, so that a check by counting says how likely it is to be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tails:
    """How likely a count is under a claim.

    Args:
        low: chance of this count or a smaller one.
        high: chance of this count or a larger one.
    """

    low: float
    high: float


def tails(count: int, trials: int, share: float, num_calibration: int | None = None) -> Tails:
    """The chances of a count where each trial is said to hit with probability `share`.

    Args:
        count: hits, 0 to `trials`.
        trials: at least 1, exchangeable with each other and with the calibration data.
        share: that is claimed, in (0, 1).
        num_calibration: episodes that the claim was calibrated on, as in split conformal prediction, whose share
            is itself a draw; None where it is exact.

    Raises:
        InputError: a count or share out of range.

    Source: Vovk 2012 (1209.2673), proposition 2a: given its n calibration examples, split conformal prediction
        covers with probability Beta(n + 1 - l, l), l = floor((n + 1)(1 - share)); the count is then beta-binomial.
    """
    if not (0 <= count <= trials and trials >= 1 and 0 < share < 1):
        raise InputError(f"{count} of {trials} at {share}. Give at least one trial and a share between 0 and 1.")
    logs = _binomial(trials, share) if num_calibration is None else _beta_binomial(trials, share, num_calibration)
    chances = np.exp(logs)
    return Tails(low=min(1.0, float(chances[: count + 1].sum())), high=min(1.0, float(chances[count:].sum())))


def separation(low: NDArray[np.floating], high: NDArray[np.floating]) -> float:
    """The share of pairs in which `low` is below `high`, ties half: 0.5 where they tell nothing, 1 where everything."""
    below = low[:, None] < high[None]
    return float((below + 0.5 * (low[:, None] == high[None])).mean())


def _binomial(trials: int, share: float) -> NDArray[np.floating]:
    """Log chance of each count from 0 to `trials`."""
    return np.array(
        [_choose(trials, k) + k * math.log(share) + (trials - k) * math.log1p(-share) for k in range(trials + 1)]
    )


def _beta_binomial(trials: int, share: float, num_calibration: int) -> NDArray[np.floating]:
    """Log chance of each count from 0 to `trials`, the share being drawn once."""
    outside = math.floor((num_calibration + 1) * (1 - share) + 1e-9)
    if outside == 0:  # too few examples for this share: everything is inside
        return np.array([-math.inf] * trials + [0.0])
    inside = num_calibration + 1 - outside
    return np.array(
        [
            _choose(trials, k) + _log_beta(k + inside, trials - k + outside) - _log_beta(inside, outside)
            for k in range(trials + 1)
        ]
    )


def _choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: int, b: int) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
