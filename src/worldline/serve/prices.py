"""How long calls take: an estimate before they begin, corrected by the calls before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, final

from worldline.engines.base import Card
from worldline.serve.scheduler import Lane

QUICK_S: Final = 0.05
"""Longest estimated time of calls that are computed beside predictions."""
STEP_S: Final = 1e-3
"""Time of an observation or a predicted step, if the card has no measured call."""
VECTOR: Final = 64
"""Rollouts that take about as long together as one."""

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class CallPrice:
    """The estimated time of a call.

    Args:
        kind: world, verb, and the size within a factor of two.
        work: observations and steps, times the rollouts beyond `VECTOR`.
        seconds: that the call takes, without a search.
        search_s: time limit of the search of a plan; 0 for other calls.
    """

    kind: tuple[str, str, int, int]
    work: float
    seconds: float
    search_s: float

    @property
    def lane(self) -> Lane:
        """The workers for a call of this duration."""
        return Lane.QUICK if self.seconds + self.search_s <= QUICK_S else Lane.SLOW


@final
class Prices:
    """The time of a unit of work, per kind of call. Threads may share it."""

    def __init__(self) -> None:
        self._rates = dict[tuple[str, str, int, int], float]()

    def of(
        self, world: str, verb: str, card: Card, *, length: int, rollouts: int = 1, search_s: float | None = 0.0
    ) -> CallPrice:
        """The price of a call.

        Args:
            world: name of the world.
            verb: of the call.
            card: its measured latency is the estimate for the first call of a kind.
            length: observations that are encoded, and steps that follow one another.
            rollouts: worlds, times candidates and samples.
            search_s: as in `CallPrice`; None for no limit.
        """
        kind = (world, verb, length.bit_length(), rollouts.bit_length())
        first = STEP_S
        if card.call is not None and card.call.latency_s > 0:
            first = card.call.latency_s / (card.context + max(card.band_horizon, 1))
        work = length * max(1.0, rollouts / VECTOR)
        limit_s = math.inf if search_s is None else search_s
        return CallPrice(kind=kind, work=work, seconds=work * self._rates.get(kind, first), search_s=limit_s)

    def timed(self, price: CallPrice, function: Callable[[], T]) -> T:
        """The result of a call, whose duration corrects its price. That of a call that fails would be too short."""
        began_s = time.perf_counter()
        result = function()
        self.learn(price, time.perf_counter() - began_s)
        return result

    def learn(self, price: CallPrice, took_s: float) -> None:
        """Corrects a price by the duration of one call: the geometric mean, so that a busy moment does not decide."""
        if not price.search_s:
            self._rates[price.kind] = math.sqrt(price.seconds * took_s) / price.work
