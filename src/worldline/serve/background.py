"""What a service does beside its calls: counts, tokens, and what has expired."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from worldline.serve.jobs import Jobs
from worldline.serve.problems import fault_text
from worldline.serve.service import Service
from worldline.serve.sessions import Sessions

INTERVAL_S: Final = 1.0
"""Seconds between two flushes: a killed process loses the counts of at most this time."""
CLEAN_S: Final = 600.0
"""Seconds between two deletions of what has expired."""

_logger = logging.getLogger(__name__)


@asynccontextmanager
async def kept_up(service: Service, sessions: Sessions | None = None, jobs: Jobs | None = None) -> AsyncIterator[None]:
    """Keeps the state of a service up to date until after the block. The failure of one task is logged each time."""
    cleaned_s = -math.inf

    async def once() -> None:
        nonlocal cleaned_s
        tasks = [service.refresh, service.usage.flush]
        if time.monotonic() - cleaned_s >= CLEAN_S:
            cleaned_s = time.monotonic()
            tasks += [part.clean for part in (sessions, jobs) if part is not None]
        for task in tasks:
            try:
                await task()
            except Exception as error:  # noqa: BLE001  # the other tasks must still be done
                _logger.error("%s fails, and is repeated: %s", task.__qualname__, fault_text(error))

    async def repeat() -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await once()

    await once()
    running = asyncio.create_task(repeat())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])
        await once()
