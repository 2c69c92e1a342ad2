"""Waits for what other threads and processes do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def wait_for(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Returns once the function returns something true; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


async def happens(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """The same in an event loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
