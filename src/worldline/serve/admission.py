"""Admission of calls before anything of them is read."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final
from urllib.parse import unquote

from worldline.planning.calls import CALLS
from worldline.serve.limits import Limits
from worldline.serve.scheduler import may_displace

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_CALLS: Final = "/v1/worlds/"


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
        self._beginners = deque[asyncio.Future[None]]()
        self._begins = False

    def enter(self, path: str, caller: str, app: ASGIApp) -> ASGIApp | None:
        """The application for one request; None if the request is refused. It counts until it ends or is dropped.

        Args:
            path: of the request.
            caller: id of the caller, not checked. If all places are taken, `may_displace` decides.
            app: answers the request.
        """
        world, _, verb = unquote(path.partition("?")[0]).rpartition(":")
        if not world.startswith(_CALLS) or verb not in self._open:
            return app
        places = self._open[verb]
        if places.total() >= self._limit and not may_displace(places, caller):
            self._refused()
            return None
        return _Place(self, places, caller, app)

    async def turn(self) -> None:
        """Lets one call begin per iteration of the event loop. Sockets are read in between, and refusals sent."""
        loop = asyncio.get_running_loop()
        if self._begins:
            future = loop.create_future()
            self._beginners.append(future)
            await future
        else:
            self._begins = True
            loop.call_soon(self._next)

    def _next(self) -> None:
        while self._beginners:
            future = self._beginners.popleft()
            if not future.done():
                future.set_result(None)
                future.get_loop().call_soon(self._next)
                return
        self._begins = False


@final
class _Place:
    """An application that holds a place until it ends, or until the server drops it without a run.

    The server drops it if the connection closes while an earlier request is answered, or beyond its own limits.
    """

    def __init__(self, admission: Admission, places: Counter[str], caller: str, app: ASGIApp) -> None:
        self._admission, self._places, self._caller, self._app = admission, places, caller, app
        self._is_held = True
        places[caller] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._admission.turn()
            await self._app(scope, receive, send)
        finally:
            self._leave()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._is_held:
            return
        self._is_held = False
        self._places[self._caller] -= 1
        if not self._places[self._caller]:
            del self._places[self._caller]
