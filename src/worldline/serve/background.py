"""What a service does beside its calls: counts, expired sessions, and changes by other processes."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from worldline.serve.problems import fault_text
from worldline.serve.registry import Registry
from worldline.serve.service import Service
from worldline.serve.sessions import Sessions

INTERVAL_S: Final = 1.0
"""Seconds between two flushes: a killed process loses the counts and logs of at most this time."""
CLEAN_S: Final = 600.0
"""Seconds between two deletions of what has expired."""

_logger = logging.getLogger(__name__)


async def keep_up(service: Service, sessions: Sessions | None, registry: Registry | None) -> None:
    """Runs until it is cancelled. A failure is logged, and the next interval tries again."""
    cleaned_s = -CLEAN_S
    while True:
        try:
            await service.refresh()
            await service.usage.flush()
            if registry is not None:
                await registry.sync()
            if time.monotonic() - cleaned_s >= CLEAN_S:
                cleaned_s = time.monotonic()
                await service.usage.clean()
                if sessions is not None:
                    await sessions.clean()
        except Exception as error:  # noqa: BLE001  # the service goes on
            _logger.error("the service cannot keep up its state: %s", fault_text(error))
        await asyncio.sleep(INTERVAL_S)
