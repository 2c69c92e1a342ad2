"""What all tests of a log share: their false-alarm rate, their three parts, and null distributions from the log itself.

A test computes a statistic for each place of a log, and a limit that the statistics of a correct log exceed with the
probability `LEVEL`, whatever their number. It words a finding for what is above the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.stats import gamma, gumbel_r, norm

from worldline.data.checks import Finding
from worldline.schema import Signal
from worldline.stats import Floats

FALSE_ALARM_RATE: Final = 0.03
"""Nominal probability that a correct log has any warning of `worldline check`. The families of tests share it."""
FAMILIES: Final = ("late actions", "changes", "joins", "shifted parts", "stuck sensors", "outliers")
LEVEL: Final = FALSE_ALARM_RATE / len(FAMILIES)
"""Nominal probability of a false alarm of one family, over all signals and places of a log."""
MIN_VALUES: Final = 20
"""Smallest number of values from which a distribution follows."""
SEVERAL: Final = 0.1
"""Share of the level for each test of several values; it hardly changes their limits."""
MAX_FINDINGS: Final = 5
"""Findings of one kind for one signal; the last gives the number of further ones."""


class LogTest(NamedTuple):
    """One family of tests of a log.

    Args:
        statistic: of each place, [...].
        limit: what the statistics of a correct log exceed with the probability `LEVEL`; broadcasts to their shape.
        sentences: the findings about the places [k, axes] whose statistic is above the limit.
    """

    statistic: Floats
    limit: Floats | float
    sentences: Callable[[Int[np.ndarray, "k axes"]], Iterable[Finding]]

    def findings(self) -> list[Finding]:
        """The findings about the log; empty if its statistics are those of a correct log."""
        above = np.argwhere(self.statistic > self.limit)
        return few(self.sentences(above)) if len(above) else []


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

    def limit(self, values: Floats, tested: Floats | None = None) -> float:
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
        limits = [self.exceeded_by(at / len(tested), values) for at in gamma.ppf(levels, self.counts)]
        above = [at for at, count in zip(limits, self.counts, strict=True) if (tested > at).sum() >= count]
        return min(above, default=np.inf)

    def exceeded_by(self, share: float, values: Floats) -> float:
        """The limit that this share of the values exceeds in a correct log."""
        low, high = np.quantile(values, self.quantiles)
        first, last = self.family.ppf(self.quantiles)
        return float(high + (high - low) / (last - first) * (self.family.isf(share) - last))


MAXIMA: Final = NullDistribution(gumbel_r, (0.1, 0.65), (1, 3))
RUNS: Final = NullDistribution(gumbel_r, (0.4, 0.9), (1, 3))
"""Of maxima without the largest one of each part, so that no value is faulty."""
MEANS: Final = NullDistribution(norm, (0.2, 0.75), (1, 3, 8))
"""Of means of many steps."""


def part_of(signal: Signal, component: int) -> str:
    """The subject of a sentence about a component."""
    if signal.size == 1 or signal.num_values is not None:
        return "it"
    return f"component {signal.components[component] if signal.components else component}"


def few(findings: Iterable[Finding]) -> list[Finding]:
    """At most `MAX_FINDINGS` findings for each signal; the last gives the number of further ones."""
    by_signal: dict[str | None, list[Finding]] = {}
    for finding in findings:
        by_signal.setdefault(finding.signal, []).append(finding)
    shown = []
    for alike in by_signal.values():
        head, rest = alike[:MAX_FINDINGS], alike[MAX_FINDINGS - 1 :]
        if len(rest) > 1:
            places = tuple(place for finding in rest for place in finding.places)
            problem = f"{head[-1].problem} (and {len(rest) - 1} more like this)"
            head[-1] = replace(head[-1], problem=problem, places=places)
        shown += head
    return shown
