"""A world in another process, over HTTP, with coroutines."""

from __future__ import annotations

import asyncio
import os
from typing import Any, final

from worldline.engines.base import Card
from worldline.errors import InputError
from worldline.planning.calls import Call
from worldline.world.base import World
from worldline.world.remote_messages import (
    Answer,
    Outcome,
    RemoteClient,
    RemoteReply,
    RemoteRequest,
    Steps,
    awaited,
    httpx,
)
from worldline.world.remote_session import AsyncRemoteSession


@final
class AsyncRemoteWorld(RemoteClient):
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

    async def answer(self, call: Call) -> Any:
        """See `World`."""
        return await self._run(self._calls.answer(call))

    async def describe(self) -> Card:
        """The card of the remote world; kept after the first call."""
        if self._card is None:
            self._card = await self._run(self._calls.describe())
        return self._card

    async def session(
        self,
        *,
        num_kept: int | None = None,
        level: float | None = None,
        horizon: int = 1,
        rate: float = 0.05,
        patience: float = 1000.0,
    ) -> AsyncRemoteSession:
        """A session that the service keeps; the arguments are those of `Session`."""
        settings = {"num_kept": num_kept, "level": level, "horizon": horizon, "rate": rate, "patience": patience}
        view = await self._run(self._calls.open_session(settings))
        return AsyncRemoteSession(self._calls, view, self._run)

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
            self._client, self._place = httpx.AsyncClient(**self._calls.client_options()), place
        return self._client

    async def _run(self, steps: Steps[Answer]) -> Answer:
        """Sends the requests of a call."""
        try:
            request = next(steps)
            while True:
                await asyncio.sleep(request.delay_s)
                request = steps.send(await self._send(request))
        except StopIteration as done:
            found: Answer = done.value
            return found

    async def _send(self, request: RemoteRequest) -> Outcome:
        client = self._connected()
        if client.is_closed:
            raise InputError(f"{self!r} is closed. Open the world again.")
        try:
            async with client.stream(
                request.method,
                request.url,
                content=request.content,
                headers=request.headers,
                timeout=request.wait_s,
            ) as response:
                reply = RemoteReply(response, self._calls.limit_bytes)
                async for piece in response.aiter_raw():
                    reply.add(piece)
            return reply
        except httpx.HTTPError as error:
            return error
