"""What a service does beside its calls: counts, expired sessions, and changes by other processes."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, final

from worldline.serve.jobs import Jobs
from worldline.serve.problems import FaultLog
from worldline.serve.registry import Registry
from worldline.serve.service import Service
from worldline.serve.sessions import Sessions

INTERVAL_S: Final = 1.0
"""Seconds between two flushes: a killed process loses the counts and logs of at most this time."""
CLEAN_S: Final = 600.0
"""Seconds between two deletions of what has expired."""

_logger = logging.getLogger(__name__)


@final
class Upkeep:
    """Keeps the state of a service up to date.

    Args:
        service: counts calls.
        sessions: of the service; None for none.
        registry: of added worlds; None for none.
        jobs: of the service; None for none.
    """

    def __init__(
        self,
        service: Service,
        sessions: Sessions | None = None,
        registry: Registry | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        self._service, self._sessions, self._registry, self._jobs = service, sessions, registry, jobs
        self._cleaned_s, self._faults = -math.inf, FaultLog(_logger)

    async def once(self) -> None:
        """Does everything that must be done now. A failure does not keep the rest from being done.

        It is logged when it begins and when it has ended.
        """
        await self._tried(self._service.refresh)
        await self._tried(self._service.usage.flush)
        if self._registry is not None:
            await self._tried(self._registry.sync)
        if time.monotonic() - self._cleaned_s >= CLEAN_S:
            self._cleaned_s = time.monotonic()
            await self._tried(self._service.usage.clean)
            if self._sessions is not None:
                await self._tried(self._sessions.clean)
            if self._jobs is not None:
                await self._tried(self._jobs.clean)

    async def _tried(self, task: Callable[[], Awaitable[None]]) -> None:
        name = getattr(task, "__qualname__", "")
        try:
            await task()
        except Exception as error:  # noqa: BLE001  # it is logged, and the other tasks must still be done
            self._faults.begin(name, error)
        else:
            self._faults.end(name)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.once()


@asynccontextmanager
async def kept_up(
    service: Service, sessions: Sessions | None = None, registry: Registry | None = None, jobs: Jobs | None = None
) -> AsyncIterator[None]:
    """Keeps the state of a service up to date from before the block until after it; arguments as in `Upkeep`."""
    upkeep = Upkeep(service, sessions, registry, jobs)
    await upkeep.once()  # before the first call, which may be to an added world
    task = asyncio.create_task(upkeep.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await upkeep.once()
