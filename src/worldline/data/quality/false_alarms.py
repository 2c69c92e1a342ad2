"""The false-alarm rate of all findings of a log, and extreme values that the log itself does not explain."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma, gumbel_r, norm

FALSE_ALARM_RATE: Final = 0.03
"""Nominal probability that a correct log has any warning of `worldline check`. The families of tests share it."""
FAMILIES: Final = ("late actions", "changes", "joins", "shifted parts", "stuck sensors", "outliers")
LEVEL: Final = FALSE_ALARM_RATE / len(FAMILIES)
"""Nominal probability of a false alarm of one family, over all signals and places of a log."""
MIN_VALUES: Final = 20
"""Smallest number of values from which a distribution follows."""


SEVERAL: Final = 0.1
"""Share of the level for each test of several values; it hardly changes their limits."""


class NullDistribution(NamedTuple):
    """What values of the parts of a correct log follow.

    Args:
        family: of SciPy.
        quantiles: of the values, through which the distribution passes; faulty values above the second do not matter.
        counts: of values that are tested together.
    """

    family: Any
    quantiles: tuple[float, float]
    counts: tuple[int, ...]

    def limit(self, values: NDArray[np.floating], tested: NDArray[np.floating] | None = None) -> float:
        """The smallest value that is extreme at `LEVEL`; infinite if no value is.

        The number of values above a limit is nearly Poisson distributed. One value above a high limit is a finding, and
        so are several values above lower limits.

        Args:
            values: [n] of the parts of a log.
            tested: [m] values that may be extreme; default is `values`.
        """
        tested = values if tested is None else tested
        if len(values) < MIN_VALUES:
            return np.inf
        # So many values are expected above a limit that `counts` of them are improbable. Most of the level is for one.
        levels = LEVEL * np.append(1 - SEVERAL * (len(self.counts) - 1), np.full(len(self.counts) - 1, SEVERAL))
        expected = gamma.ppf(levels, self.counts)
        limits = [self.exceeded_by(at / len(tested), values) for at in expected]
        above = [at for at, count in zip(limits, self.counts, strict=True) if (tested > at).sum() >= count]
        return min(above, default=np.inf)

    def exceeded_by(self, share: float, values: NDArray[np.floating]) -> float:
        """The limit that this share of the values exceeds in a correct log."""
        low, high = np.quantile(values, self.quantiles)
        first, last = self.family.ppf(self.quantiles)
        return float(high + (high - low) / (last - first) * (self.family.isf(share) - last))


MAXIMA: Final = NullDistribution(gumbel_r, (0.1, 0.65), (1, 3))
RUNS: Final = NullDistribution(gumbel_r, (0.4, 0.9), (1, 3))
"""Of maxima without the largest one of each part, so that no value is faulty."""
MEANS: Final = NullDistribution(norm, (0.2, 0.75), (1, 3, 8))
"""Of means of many steps."""
