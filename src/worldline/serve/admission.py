"""Admission of calls before anything of their bodies is read."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, final

from worldline.planning.calls import CALLS
from worldline.serve.limits import Limits
from worldline.serve.problems import OverloadedError
from worldline.serve.scheduler import may_displace

_CALLS: Final = ("/v1/worlds/", "/v1/logs/")
FULL: Final = "too many calls are waiting. Try again in 1 s, or send fewer at once."
_CLAIMED: Final = re.compile(r"wl_([0-9a-f]{16})_")


@final
class Admission:
    """Counts calls of verbs from their headers to their answers.

    Most of a burst would otherwise be read and decoded, and then find a full queue. The queue itself is stricter and
    exact (`Scheduler`). All methods run in the event loop.

    Args:
        limits: per verb, `queue` calls wait and `batch` calls run.
        refused: called for each refused call.
    """

    def __init__(self, limits: Limits, refused: Callable[[], None]) -> None:
        self._limit, self._refused = limits.queue + limits.batch, refused
        self._open = {verb: Counter[str]() for verb in CALLS}
        self._beginning = asyncio.Lock()

    def has_place(self, path: str, authorization: str) -> bool:
        """Whether there is a place for a request; if not, it counts as refused. The arguments are those of `place`."""
        places, caller = self._places(path, authorization)
        if places is None or places.total() < self._limit or may_displace(places, caller):
            return True
        self._refused()
        return False

    def _places(self, path: str, authorization: str) -> tuple[Counter[str] | None, str]:
        """The open calls of the verb, by caller, and who calls; None for no call of a verb."""
        world, _, verb = path.rpartition(":")
        claimed = _CLAIMED.search(authorization)
        return self._open.get(verb) if world.startswith(_CALLS) else None, claimed[1] if claimed else ""

    @asynccontextmanager
    async def place(self, path: str, authorization: str) -> AsyncIterator[None]:
        """Counts one request during the block.

        Args:
            path: of the request.
            authorization: header with the token, whose id is not checked here. If all places are taken, `may_displace`
                decides.

        Raises:
            OverloadedError: there is no place.
        """
        places, caller = self._places(path, authorization)
        if places is None:
            yield
            return
        if not self.has_place(path, authorization):
            raise OverloadedError(FULL)
        places[caller] += 1
        try:
            # One call begins per iteration of the event loop. Sockets are read in between, and refusals sent.
            await self._beginning.acquire()
            asyncio.get_running_loop().call_soon(self._beginning.release)
            yield
        finally:
            places[caller] -= 1
            if not places[caller]:
                del places[caller]
