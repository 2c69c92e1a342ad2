"""WebSockets of the service: authorization, limits, reading of frames, and close codes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final

import msgspec
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from worldline.serve.callers import Caller, ForbiddenError, Scope
from worldline.serve.costs import QUICK_S
from worldline.serve.hosting import HostedWorld
from worldline.serve.problems import OverloadedError, Problem, SlowRequestError, TooLargeError, logged_problem
from worldline.serve.requests import request_id_of
from worldline.serve.scheduler import Lane
from worldline.serve.service import Service
from worldline.serve.shares import Resize
from worldline.serve.socket_protocol import SocketProtocol
from worldline.world.base import World

QUEUE: Final = 8
"""Received frames that wait; a client that sends more is slowed down by TCP."""

QUEUE_BYTES: Final = 2**22
"""Size of the frames that wait, beyond which no further one is read."""

INTERNAL: Final = 1011
"""Close code of a failed service (RFC 6455)."""

_logger = logging.getLogger(__name__)

Value = TypeVar("Value")


@final
class Connection:
    """A WebSocket of an authorized caller.

    Args:
        socket: not accepted yet.
        service: computes.
        share: of the caller in the memory for messages.
        caller: who connected.
        hosted: the world.
        request_id: for messages and logs.
    """

    def __init__(
        self,
        socket: WebSocket,
        service: Service,
        share: Resize,
        *,
        caller: Caller,
        hosted: HostedWorld,
        request_id: str,
    ) -> None:
        self.socket, self.limits, self.caller, self.request_id = socket, service.limits, caller, request_id
        self.name, self.card, self.version = hosted.name, hosted.card, hosted.version
        self._service, self._hosted = service, hosted
        self._frames = asyncio.Queue[tuple[str | bytes, float] | None](QUEUE)
        self._reader: asyncio.Task[None] | None = None
        self._waiting_bytes, self._has_room = 0, asyncio.Event()
        self._is_handling = False
        self._failure: OverloadedError | None = None
        self._protocol: SocketProtocol = socket.scope["state"]["protocol"]
        self._protocol.count(share, self._fail)

    def facts(self) -> dict[str, Any]:
        """The world as plain values, for the first message."""
        shown = ("name", "role", "kind", "shape", "unit", "low", "high", "num_values", "components")
        signals = [{key: getattr(signal, key) for key in shown} for signal in self.card.schema.signals]
        world = {"world": self.name, "version": self.version, "request_id": self.request_id}
        return {**world, "signals": signals, "context": self.card.context}

    async def accept(self) -> None:
        """Accepts the WebSocket; before, an error is the HTTP response of an endpoint that denies."""
        await self.socket.accept()
        self._reader = asyncio.create_task(self._read())

    async def receive(self, timeout_s: float, max_bytes: int) -> tuple[str | bytes, float]:
        """The next frame, and the monotonic time of its receipt.

        Raises:
            WebSocketDisconnect: the client is gone.
            SlowRequestError: there was no frame in time.
            TooLargeError: it is too large.
            OverloadedError: the messages of the caller need too much memory.
        """
        if self._is_handling:
            self._protocol.handled()
        self._is_handling = False
        try:
            async with asyncio.timeout(timeout_s):
                received = await self._frames.get()
        except TimeoutError as error:
            raise SlowRequestError(f"no message for {timeout_s:g} s. Connect again.") from error
        if received is None or self._failure is not None:
            raise self._failure or WebSocketDisconnect
        frame, received_s = received
        self._is_handling = True
        self._waiting_bytes -= len(frame)
        self._has_room.set()
        limit = min(max_bytes, self.limits.frame_bytes)
        if len(frame) > limit:
            raise TooLargeError(f"the message has {len(frame)} bytes, more than {limit}. Send less in one message.")
        return frame, received_s

    async def compute(self, function: Callable[[World], Value], *, plan_s: float) -> Value:
        """The result of `function` with the current version of the world, in a worker.

        Args:
            function: gets the world.
            plan_s: about how long it takes.
        """
        lane = Lane.QUICK_LOOP if plan_s <= QUICK_S else Lane.SLOW_LOOP
        async with self._service.metered(self.caller, self._hosted, "plan"):
            return await self._service.scheduler.run(
                lambda: function(self._hosted.current()[1]), lane=lane, caller=self.caller.id
            )

    async def unless_gone(self, work: Coroutine[Any, Any, Value]) -> Value:
        """The result of `work`, which is cancelled when the client leaves.

        Raises:
            WebSocketDisconnect: the client is gone.
            OverloadedError: as in `receive`.
        """
        assert self._reader is not None
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._reader}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._failure or WebSocketDisconnect
            return task.result()
        finally:
            task.cancel()

    async def close(self) -> None:
        """Ends reading."""
        self._protocol.count(None)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})

    async def _read(self) -> None:
        """Receives until the client leaves, so that the time of receipt is exact while a plan is searched."""
        while (message := await self.socket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            frame = message["bytes"] if text is None else text
            self._waiting_bytes += len(frame)
            await self._frames.put((frame, time.monotonic()))
            while self._waiting_bytes > QUEUE_BYTES:
                self._has_room.clear()
                await self._has_room.wait()
        await self._frames.put(None)

    def _fail(self, error: OverloadedError) -> None:
        """Ends the connection with an error at the next `receive`, and a call in `unless_gone` at once."""
        self._failure = error
        if self._reader is not None:
            self._reader.cancel()
        if self._frames.empty():
            self._frames.put_nowait(None)


@final
@dataclass(frozen=True, kw_only=True)
class SocketEndpoint:
    """A protocol over WebSockets.

    Args:
        handle: serves one connection until it ends.
        denies: whether a refusal is an HTTP response instead of a text frame and a close code.
        failed: close code of every error while it is served; None for 4000 + HTTP status.
    """

    handle: Callable[[Connection], Awaitable[None]]
    denies: bool = False
    failed: int | None = None


async def serve_socket(socket: WebSocket, service: Service, endpoint: SocketEndpoint) -> None:
    """Serves one WebSocket until it ends. Raises nothing."""
    request_id = request_id_of(socket)
    try:
        await _serve(socket, service, endpoint, request_id)
    except WebSocketDisconnect:
        pass
    except Exception as error:  # noqa: BLE001  # every error becomes an answer
        problem = logged_problem(_logger, f"WebSocket {request_id}", error)
        await _refuse(socket, endpoint, request_id, problem)


async def _serve(socket: WebSocket, service: Service, endpoint: SocketEndpoint, request_id: str) -> None:
    origin = socket.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != socket.headers.get("host"):
        # Browsers let any page open a WebSocket to any server, so a page could reach a service without tokens.
        raise ForbiddenError("pages of other origins may not connect. Use a program.")
    caller = await service.authorize(socket.headers.get("authorization"), Scope.SESSION)
    hosted = service.hosts.find(socket.query_params.get("world", ""), caller)
    with service.sockets.open(caller.id, 1), service.memory.open(caller.id) as share:
        connection = Connection(socket, service, share, caller=caller, hosted=hosted, request_id=request_id)
        try:
            await endpoint.handle(connection)
        finally:
            await connection.close()


def error_message(problem: Problem, request_id: str) -> dict[str, Any]:
    """The message that reports a problem."""
    message = {"type": "error", "code": problem.code, "detail": str(problem.error), "request_id": request_id}
    return message if problem.pointer is None else {**message, "pointer": problem.pointer}


async def _refuse(socket: WebSocket, endpoint: SocketEndpoint, request_id: str, problem: Problem) -> None:
    """Reports a problem and closes the WebSocket."""
    message, status = error_message(problem, request_id), problem.status
    try:
        if socket.application_state is WebSocketState.CONNECTING:
            if endpoint.denies:
                await socket.send_denial_response(JSONResponse(message, status_code=status))
                return
            await socket.accept()
        await socket.send_text(msgspec.json.encode(message).decode())
        await socket.close(endpoint.failed or (4000 + status if status < 500 else INTERNAL))
    except (WebSocketDisconnect, RuntimeError):  # the client has left already
        pass
