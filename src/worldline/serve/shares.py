"""Shares of callers in what a service has only once: memory for requests, open bodies and environments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from worldline.serve.problems import OverloadedError

Resize = Callable[[int], None]
"""Changes the amount that a share holds."""


@final
class Shares:
    """Divides a resource among callers, without a fixed number of them.

    A caller may hold as much as it leaves free, or one more. So one caller gets half of all, two get a third each, and
    a further one always finds as much as each of the others can hold. All methods run in the event loop.

    Args:
        limit: of all callers together.
        what: is divided, for messages, such as "open requests".

    Source: Choudhury, Hahne 1998 (10.1109/90.664262), section III, with the factor 1.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit, self._what = limit, what
        self._held = Counter[str]()
        self.used = 0

    @contextmanager
    def open(self, caller: str, amount: int = 0) -> Iterator[Resize]:
        """What one request or connection holds, until the end of the block.

        Args:
            caller: id of the caller.
            amount: that it holds at first.

        Yields:
            A function that changes the amount. If it raises `OverloadedError`, nothing changes.

        Raises:
            OverloadedError: the caller would hold more than is free.
        """
        held = 0

        def resize(amount: int) -> None:
            nonlocal held
            self._change(caller, amount - held)
            held = amount

        resize(amount)
        try:
            yield resize
        finally:
            resize(0)

    def _change(self, caller: str, by: int) -> None:
        held, free = self._held[caller] + by, self._limit - self.used - by
        if by > 0 and held > free + 1:
            raise OverloadedError(
                f"{held} {self._what} of this token would leave {free} of {self._limit} for others. End some, or "
                "try again in 1 s."
            )
        self._held[caller] = held
        self.used += by
        if not self._held[caller]:
            del self._held[caller]
