"""How sure a measured share is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from worldline.stats import Rate
from worldline.errors import InputError


def wilson(successes: int, trials: int, level: float = 0.95, *, effective_trials: float | None = None) -> Rate:
    """The share of successes with its Wilson score interval.

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        level: how often such an interval holds the true share, in (0, 1).
        effective_trials: how many independent trials they are worth, more than 0; None where all are independent.

    Raises:
        InputError: a count or the level is out of range.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; the effective
    number of trials: Kish 1965, "Survey sampling", section 8.2.
    """
    if not (trials >= 1 and 0 <= successes <= trials):
        raise InputError(f"{successes} successes in {trials} trials. Give at least one trial and no more successes.")
    if not 0 < level < 1:
        raise InputError(f"level is {level}. It must be between 0 and 1, such as 0.95.")
    n = trials if effective_trials is None else effective_trials
    if not n > 0:
        raise InputError(f"effective_trials is {n}. It must be more than 0.")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrink = successes / trials, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / shrink
    # At 0 and at all successes an end is exact; rounding must not put it beyond the share.
    return Rate(
        successes=successes,
        trials=trials,
        low=min(max(centre - half, 0.0), share),
        high=max(min(centre + half, 1.0), share),
    )
