"""A world in another process, over HTTP, with coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, final

from worldline.engines.base import Card
from worldline.errors import InputError
from worldline.world.base import World
from worldline.world.remote_messages import (
    Outcome,
    RemoteClient,
    RemoteReply,
    RemoteRequest,
    Steps,
    awaited,
    httpx,
)
from worldline.world.remote_session import AsyncRemoteSession
from worldline.world.session import SessionView


@final
class AsyncRemoteWorld(RemoteClient[Coroutine[Any, Any, Card], Coroutine[Any, Any, AsyncRemoteSession]]):
    """The world at a URL, with the verbs of `World` as coroutines: `await world.predict(...)`. Tasks may share it.

    A cancelled call closes its connection, so the service stops it where it can. Close the world, or use `async with`.
    A further event loop or a forked process connects anew. Arguments and errors are those of `RemoteWorld`.

    Args:
        url: as in `RemoteWorld`.
        token: as in `RemoteWorld`.
        timeout_s: as in `RemoteWorld`.
        limit_bytes: as in `RemoteWorld`.
        retries: as in `RemoteWorld`.
        insecure: as in `RemoteWorld`.

    Raises:
        InputError: as in `RemoteWorld`.
    """

    _client: httpx.AsyncClient | None = None
    _place: tuple[int, asyncio.AbstractEventLoop] | None = None

    predict = awaited(World.predict)
    score = awaited(World.score)
    plan = awaited(World.plan)
    what_if = awaited(World.what_if)
    surprise = awaited(World.surprise)

    async def __aenter__(self) -> AsyncRemoteWorld:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._connected().aclose()

    def _connected(self) -> httpx.AsyncClient:
        """The client of this process and event loop; connections of others cannot be used."""
        place = os.getpid(), asyncio.get_running_loop()
        if self._client is None or self._place != place:
            self._client, self._place = httpx.AsyncClient(**self._client_options()), place
        return self._client

    def _session(self, view: SessionView) -> AsyncRemoteSession:
        return AsyncRemoteSession(self, view)

    async def run(self, steps: Steps[Any]) -> Any:
        """See `RemoteClient`."""
        try:
            request = next(steps)
            while True:
                await asyncio.sleep(request.delay_s)
                request = steps.send(await self._send(request))
        except StopIteration as done:
            return done.value

    async def _send(self, request: RemoteRequest) -> Outcome:
        client = self._connected()
        if client.is_closed:
            raise InputError(f"{self!r} is closed. Open the world again.")
        try:
            async with client.stream(**request.options) as response:
                reply = RemoteReply(response, self._limit_bytes)
                async for piece in response.aiter_raw():
                    reply.add(piece)
            return reply
        except httpx.HTTPError as error:
            return error
