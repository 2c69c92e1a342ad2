"""Shares of callers in what a service has only once: memory for requests, open bodies, sockets and streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from worldline.serve.problems import OverloadedError


@final
class Shares:
    """Divides a resource among callers, without a fixed number of them.

    A caller may hold at most as much as is free. So one caller gets half of all, two get a third each, and a further
    one always finds as much as each of the others can hold. All methods run in the event loop.

    Args:
        limit: of all callers together.
        what: is divided, for messages, such as "WebSockets".

    Source: Choudhury, Hahne 1998 (10.1109/90.664262), section III, with the factor 1.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit, self._what = limit, what
        self._held = Counter[str]()
        self.used = 0

    @contextmanager
    def open(self, caller: str, amount: int = 0) -> Iterator[Share]:
        """A share that is given back after the block.

        Args:
            caller: id of the caller.
            amount: that it holds at first.

        Raises:
            OverloadedError: the caller holds too much.
        """
        share = Share(self, caller)
        share.resize(amount)
        try:
            yield share
        finally:
            share.resize(0)

    def change(self, caller: str, by: int) -> None:
        """Changes what a caller holds.

        Raises:
            OverloadedError: the caller would hold more than is free.
        """
        held = self._held[caller]
        if by > 0 and held + by > self._limit - self.used:
            raise OverloadedError(
                f"{held + by} {self._what} of this token are more than are free: {self._limit - self.used} of "
                f"{self._limit}. End some, or try again in 1 s."
            )
        self._held[caller] += by
        self.used += by
        if not self._held[caller]:
            del self._held[caller]


@final
class Share:
    """What one request or connection of a caller holds.

    Args:
        shares: of all callers.
        caller: id of the caller.
    """

    def __init__(self, shares: Shares, caller: str) -> None:
        self._shares, self._caller, self._amount = shares, caller, 0

    def resize(self, amount: int) -> None:
        """Holds another amount.

        Raises:
            OverloadedError: as in `Shares.change`. Then nothing changes.
        """
        self._shares.change(self._caller, amount - self._amount)
        self._amount = amount
