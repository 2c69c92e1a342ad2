"""What fits into the time that is left of a search, by what the search took so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, final

HEADROOM: Final = 1.5
"""A population is taken to need so many times what one as large took at most: machines do other things too."""


@final
class DeadlineBatcher:
    """How many sequences can still be costed before a deadline.

    Sequences are taken to need no more time than a larger population did, and as many times that of the largest as they
    are more: both err on the safe side where sequences are worked on in batches.

    Args:
        limit_s: seconds from now; None for no limit.
        first: sequences that are costed at first, however short the time; at least 1.
        clock: gives seconds that only go forward.
    """

    def __init__(self, limit_s: float | None, *, first: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ends_s = None if limit_s is None else clock() + limit_s
        self._first, self._clock = first, clock
        self._longest_s: dict[int, float] = {}
        self._count, self._since_s = 0, 0.0

    def next(self, count: int) -> int:
        """How many of `count` sequences to cost now; 0 where there is no time. They take until this is asked again."""
        if self._ends_s is None:
            return count
        now_s = self._clock()
        if self._count:
            self._longest_s[self._count] = max(now_s - self._since_s, self._longest_s.get(self._count, 0.0))
        self._since_s = now_s
        self._count = self._fitting(count, self._ends_s - now_s) if self._longest_s else min(count, self._first)
        return self._count

    def _fitting(self, count: int, left_s: float) -> int:
        """The most of `count` sequences that are costed in time."""
        fitting = [size for size, took_s in self._longest_s.items() if HEADROOM * took_s <= left_s]
        if left_s <= 0 or not fitting:
            return 0
        most = max(fitting)
        took_s = HEADROOM * self._longest_s[most]
        if most == max(self._longest_s):
            most = max(most, int(most * left_s / took_s)) if took_s > 0 else count
        return min(count, most)
