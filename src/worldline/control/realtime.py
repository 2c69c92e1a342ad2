"""Real-time control at a fixed rate: the rest of each period is the time limit of its plan."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, final

from worldline.control.controller import ReplanningController
from worldline.episode import Arrays
from worldline.errors import ConfigError

MIN_BUDGET_S: Final = 1e-3
"""Smallest time limit of a plan, also if no time is left: the planner evaluates one population and stops."""
MAX_DEFERRED_PERIODS: Final = 100
"""Periods after which garbage is collected even if there is no time for it."""


@dataclass(frozen=True, kw_only=True)
class PlantReading:
    """The signals read from the plant at the start of a period, for W worlds.

    Args:
        observations: as in `ReplanningController.act`.
        exogenous: as in `ReplanningController.act`.
        forecast: as in `ReplanningController.act`.
    """

    observations: Arrays
    exogenous: Arrays | None = None
    forecast: Arrays | None = None


@dataclass(frozen=True, kw_only=True)
class Period:
    """The timing of one period, in seconds.

    Args:
        delay_s: from the scheduled to the actual start.
        read_s: duration of reading.
        act_s: duration of choosing the action.
        idle_s: time left until the next period; below 0 if the deadline was missed.
        fresh: whether the action was planned from the signals of this period, not earlier ones.
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
    """Reads, plans and sends once per period, in the caller's thread.

    The deadline of a plan is the end of its period. Its time limit is the rest of the period after reading, minus
    `margin_s`. A late plan is discarded: the action of the previous plan for this step is sent instead, and the period
    is `missed` and not `fresh`. The late plan is sent only if no action is left, as in the first period. The period
    after a miss begins immediately, and later periods are scheduled from it.

    A collection of Python's garbage collector may take many milliseconds. While the loop runs, it collects only in idle
    time.

    Args:
        controller: after `reset`; it replans every `replan_every` periods.
        period_s: above 0.
        margin_s: allowance for a plan that exceeds its time limit, at least 0 and below `period_s`. On a machine with
            other load, a quarter of the period is enough.
        clock: returns monotonic time in seconds.
        sleep: waits for the given seconds.
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
        """Runs an endless sequence of periods; each ends when the next one is requested.

        Args:
            read: waits for the signals and returns them; it may reset the controller to set another goal.
            send: receives the action of each action signal [W, *shape].
        """
        with _IdleCollector(self.clock) as collector:
            scheduled_s = self.clock()
            while True:
                began_s = self.clock()
                ends_s = scheduled_s + self.period_s
                reading = read()
                read_s = self.clock()
                action = self.controller.act(
                    reading.observations,
                    exogenous=reading.exogenous,
                    forecast=reading.forecast,
                    budget_s=max(ends_s - self.margin_s - read_s, MIN_BUDGET_S),
                    deadline_s=ends_s - read_s,
                )
                acted_s = self.clock()
                send(action)
                collector.collect(ends_s - self.clock())
                yield Period(
                    delay_s=began_s - scheduled_s,
                    read_s=read_s - began_s,
                    act_s=acted_s - read_s,
                    idle_s=ends_s - acted_s,
                    fresh=self.controller.fresh,
                )
                scheduled_s = max(ends_s, self.clock())
                self.sleep(max(0.0, scheduled_s - self.clock()))


@final
class _IdleCollector:
    """Disables automatic garbage collection in its context, and collects on request.

    Objects that exist when the context opens are frozen, so that a collection does not scan them and is short.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._took_s, self._num_deferred = clock, 0.0, 0

    def __enter__(self) -> _IdleCollector:
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
        """Collects if that should take less than half of the time left, or was deferred for too long."""
        self._num_deferred += 1
        if 2 * self._took_s > left_s and self._num_deferred < MAX_DEFERRED_PERIODS:
            return
        started_s, self._num_deferred = self._clock(), 0
        gc.collect()
        self._took_s = self._clock() - started_s
