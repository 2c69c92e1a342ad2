"""Measured figures, each with its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of successes with its 95 % Wilson interval.

    Args:
        successes: how many succeeded.
        trials: out of how many.
        low: lower end, 0 to 1.
        high: upper end.
    """

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.successes / self.trials
