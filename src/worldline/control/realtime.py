"""A controller at a fixed rate: what is left of each period is the budget of its plan."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, final

from worldline.control.controller import ReplanningController
from worldline.episode import Arrays
from worldline.errors import ConfigError

LEAST_S: Final = 1e-3
"""The budget of a plan for which no time is left: it costs its first sequences and stops."""
MAX_WAITED: Final = 100
"""Periods after which garbage is collected though there is no time for it."""


@dataclass(frozen=True, kw_only=True)
class PlantReading:
    """What is read from the plant at the start of a period, of W worlds.

    Args:
        observations: as in `ReplanningController.act`, as are the others.
        exogenous: what acted from outside.
        forecast: what will.
    """

    observations: Arrays
    exogenous: Arrays | None = None
    forecast: Arrays | None = None


@dataclass(frozen=True, kw_only=True)
class Period:
    """How one period went. Seconds.

    Args:
        delay_s: from when it was due to when it began.
        read_s: until what is seen was in hand.
        act_s: from then until the action was.
        idle_s: what was left then until the next period; below 0 where the deadline was missed.
        fresh: whether the action is of a plan from what was just read; else it was planned earlier.
    """

    delay_s: float
    read_s: float
    act_s: float
    idle_s: float
    fresh: bool

    @property
    def missed(self) -> bool:
        """Whether the action came after the deadline."""
        return self.idle_s < 0


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RealTimeLoop:
    """Reads, plans and sends once a period, in the caller's thread.

    The deadline of a plan is the end of its period; its budget is what reading left of the period, less `margin_s`. A
    plan that comes too late is not acted on: what was left of the one before it, which was meant for this step, is sent
    at once instead, and the period says so (`missed`, not `fresh`). Only where nothing is left, as in the first period,
    is the late plan sent. The period after a miss begins at once, and those that follow are counted from it.

    Python collects garbage whenever it likes, which may take many milliseconds. While the loop runs it does so in the
    idle time only.

    Args:
        controller: reset; it replans in each period, or however often it was told to.
        period_s: above 0.
        margin_s: what a plan may take longer than it should, at least 0 and below `period_s`. A quarter of the period
            serves where the machine does other things too.
        clock: gives seconds that only go forward.
        sleep: waits for so many seconds.
    """

    controller: ReplanningController
    period_s: float
    margin_s: float
    clock: Callable[[], float] = field(default=time.perf_counter)
    sleep: Callable[[float], None] = field(default=time.sleep)

    def __post_init__(self) -> None:
        if not 0 <= self.margin_s < self.period_s:
            raise ConfigError(f"margin_s is {self.margin_s}. It must be at least 0 and below period_s {self.period_s}.")

    def run(self, read: Callable[[], PlantReading], send: Callable[[Arrays], None]) -> Iterator[Period]:
        """Periods without end: each is over when it is asked for the next; stop asking to stop.

        Args:
            read: waits for what is seen and gives it; it may reset the controller, to give it another goal.
            send: takes the action of each action signal [W, *shape].
        """
        with _Collector(self.clock) as collector:
            due_s = self.clock()
            while True:
                began_s = self.clock()
                ends_s = due_s + self.period_s
                reading = read()
                seen_s = self.clock()
                action = self.controller.act(
                    reading.observations,
                    exogenous=reading.exogenous,
                    forecast=reading.forecast,
                    budget_s=max(ends_s - self.margin_s - seen_s, LEAST_S),
                    deadline_s=ends_s - seen_s,
                )
                acted_s = self.clock()
                send(action)
                collector.collect(ends_s - self.clock())
                yield Period(
                    delay_s=began_s - due_s,
                    read_s=seen_s - began_s,
                    act_s=acted_s - seen_s,
                    idle_s=ends_s - acted_s,
                    fresh=self.controller.fresh,
                )
                due_s = max(ends_s, self.clock())
                self.sleep(max(0.0, due_s - self.clock()))


@final
class _Collector:
    """Python's collector of garbage, which inside of this context runs when it is told to.

    What there is when the context opens is taken not to be garbage, and left alone: that is nearly all there is to look
    through, so a collection is short.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._took_s, self._num_waited = clock, 0.0, 0

    def __enter__(self) -> _Collector:
        self._was_on, self._was_frozen = gc.isenabled(), gc.get_freeze_count() > 0
        gc.collect()
        gc.freeze()
        gc.disable()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._was_frozen:
            gc.unfreeze()
        if self._was_on:
            gc.enable()

    def collect(self, left_s: float) -> None:
        """Collects where that should take less than half of what is left, or has had to wait for long."""
        self._num_waited += 1
        if 2 * self._took_s > left_s and self._num_waited < MAX_WAITED:
            return
        started_s, self._num_waited = self._clock(), 0
        gc.collect()
        self._took_s = self._clock() - started_s
