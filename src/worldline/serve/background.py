"""What a service does beside its calls: counts, expired sessions, and changes by other processes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, final

from worldline.serve.problems import FaultLog
from worldline.serve.service import Service

INTERVAL_S: Final = 1.0
"""Seconds between two flushes: a killed process loses the counts and logs of at most this time."""
CLEAN_S: Final = 600.0
"""Seconds between two deletions of what has expired."""

Task = Callable[[], Awaitable[None]]
_logger = logging.getLogger(__name__)


@final
class Upkeep:
    """Keeps the state of a service up to date. The failure of a task is logged when it begins and when it has ended.

    Args:
        often: tasks of every interval.
        seldom: tasks of every `CLEAN_S` seconds.
    """

    def __init__(self, often: Sequence[Task], seldom: Sequence[Task]) -> None:
        self._often, self._seldom = often, seldom
        self._cleaned_s, self._faults = -math.inf, FaultLog(_logger)

    async def once(self) -> None:
        """Does everything that must be done now."""
        tasks = [*self._often]
        if time.monotonic() - self._cleaned_s >= CLEAN_S:
            self._cleaned_s = time.monotonic()
            tasks += self._seldom
        for task in tasks:
            with self._faults.logged(getattr(task, "__qualname__", "")):
                await task()

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.once()


@asynccontextmanager
async def kept_up(service: Service, often: Sequence[Task] = (), seldom: Sequence[Task] = ()) -> AsyncIterator[None]:
    """Keeps the state of a service up to date from before the block until after it.

    Args:
        service: refreshed, and its usage stored.
        often: further tasks for each interval.
        seldom: further tasks that clean up.
    """
    upkeep = Upkeep([service.refresh, service.usage.flush, *often], seldom)
    await upkeep.once()  # before the first call, which may be to an added world
    task = asyncio.create_task(upkeep.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await upkeep.once()
