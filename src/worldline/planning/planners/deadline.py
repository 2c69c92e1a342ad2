"""Batch sizes that fit into the remaining time of a search, estimated from its earlier batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

HEADROOM: Final = 1.5
"""Safety factor on the longest time that a batch of this size took: other processes share the machine."""


@final
class DeadlineBatcher:
    """Estimates how many sequences can be evaluated before a deadline.

    It assumes that a batch takes at most the time of a larger one, and that larger batches take time in proportion to
    their size. Both assumptions are conservative for batched evaluation.

    Args:
        limit_s: seconds from now; None for no limit.
        first: size of the first batch, which has no time limit; at least 1.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, limit_s: float | None, *, first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ends_s = None if limit_s is None else clock() + limit_s
        self._first, self._clock = first, clock
        self._longest_s: dict[int, float] = {}
        self._count, self._since_s = 0, 0.0

    def next(self, count: int) -> int:
        """How many of `count` sequences to evaluate now; 0 if no time is left. The next call ends their timing."""
        if self._ends_s is None:
            return count
        now_s = self._clock()
        if self._count:
            self._longest_s[self._count] = max(now_s - self._since_s, self._longest_s.get(self._count, 0.0))
        self._since_s = now_s
        self._count = self._fitting(count, self._ends_s - now_s) if self._longest_s else min(count, self._first)
        return self._count

    def _fitting(self, count: int, left_s: float) -> int:
        """How many of `count` sequences can be evaluated in time."""
        fitting = [size for size, took_s in self._longest_s.items() if HEADROOM * took_s <= left_s]
        if left_s <= 0 or not fitting:
            return 0
        size = max(fitting)
        took_s = HEADROOM * self._longest_s[size]
        # Beyond the largest measured size, time is extrapolated. A larger measured size than this did not fit.
        if size == max(self._longest_s):
            size = max(size, int(size * left_s / took_s)) if took_s > 0 else count
        return min(count, size)
