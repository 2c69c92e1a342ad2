"""Connections of the server: their limits in number, time and size."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, final
from urllib.parse import unquote

from worldline.errors import MissingExtraError
from worldline.serve.admission import Admission
from worldline.serve.requests import refusal
from worldline.serve.service import Service

try:
    import uvicorn
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

HEADER_BYTES: Final = 2**16
"""Largest size of headers that arrive in several parts."""
PIPELINE: Final = 32
"""Requests on one connection that wait for the answer before them."""
DRAINED_BYTES: Final = 2**20
"""Size of a refused request that is read and dropped, so that the client reads the answer."""

_REASON: Final = f"the address and the headers have more than {HEADER_BYTES} bytes. Send less in them."
_TOO_LARGE: Final = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    f"content-length: {len(_REASON)}\r\n\r\n{_REASON}"
).encode()

_ANSWERED: Final[Any] = SimpleNamespace(response_complete=True, message_event=asyncio.Event())
"""Stands for a request that was refused, where uvicorn expects one that was answered."""


@final
class BoundedServer(uvicorn.Server):
    """Serves a web application, and closes connections that wait too long for their clients.

    Args:
        app: the application.
        service: limits connections, headers and shutdown, and admits calls. Its `stopping` is called before connections
            are drained.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._limits, self._stopping, self._idle = service.limits, service.stopping, Idle()
        protocol: Any = partial(BoundedProtocol, self._idle, service.admission)  # uvicorn only calls it
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=self._limits.connections,
            timeout_graceful_shutdown=max(1, round(self._limits.drain_s)),
        )
        super().__init__(config)

    async def on_tick(self, counter: int) -> bool:
        """Closes slow connections. uvicorn calls it ten times per second."""
        now_s = time.monotonic()
        for connection, since_s in [*self._idle.items()]:
            reads_answer = connection.transport.get_write_buffer_size() > 0
            if now_s - since_s > (self._limits.body_s if reads_answer else self._limits.header_s):
                connection.drop()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers running calls."""
        for stop in self._stopping:
            stop()
        await super().shutdown(sockets)


Idle = dict["BoundedProtocol", float]
"""The connections without a request, and since when (monotonic seconds); the one that waits longest is the first."""


@final
class BoundedProtocol(HttpToolsProtocol):
    """Bounds what uvicorn does not: sizes of headers, requests that wait, and connections without a request.

    A connection has no request until its headers are complete, and after the answer. At the limit of connections, a new
    one takes the place of the one that has had none for the longest time.

    Args:
        idle: of the server.
        admission: refuses calls before the application is asked, so that refusals leave the time to the calls that run.
        args: of uvicorn.
        options: of uvicorn.
    """

    def __init__(self, idle: Idle, admission: Admission, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._admission = admission
        self._idle, self._num_bytes = idle, 0  # received since the last event that needs no memory
        self._is_refused = False

    def drop(self) -> None:
        """Closes the connection, which no longer counts."""
        self._idle.pop(self, None)
        self.connections.discard(self)
        self.transport.abort()

    # uvicorn narrows the type of asyncio, too, and declares it so.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room."""
        super().connection_made(transport)
        self._idle[self] = time.monotonic()
        # uvicorn refuses requests as soon as there are as many connections as the limit.
        longest = next(iter(self._idle))
        if longest is not self and len(self.connections) >= (self.config.limit_concurrency or math.inf):
            longest.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts the connection no longer."""
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Cuts off endless headers and trailers; the former are answered."""
        self._num_bytes += len(data)
        if self._is_refused:
            if self._num_bytes > DRAINED_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._num_bytes > HEADER_BYTES:
            cycle: Any = self.cycle  # None before the first request
            self._is_refused = cycle is None or cycle.response_complete
            if self._is_refused:
                self.transport.write(_TOO_LARGE)
            else:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Limits the requests that wait."""
        if len(self.pipeline) >= PIPELINE:
            raise ValueError("too many requests before an answer")  # uvicorn then answers 400
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuses a call for which there is no place, unless an earlier request is not yet answered."""
        self._idle.pop(self, None)
        self._num_bytes = 0
        cycle: Any = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            headers = {name: value.decode("latin-1") for name, value in self.headers}
            path = unquote(self.url.partition(b"?")[0].decode("latin-1"))
            if not self._admission.has_place(path, headers.get(b"authorization", "")):
                self._refuse(headers.get(b"request-id", ""))
                return
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: an upgrade is answered as any request, and must not fill the log."""

    def _refuse(self, request_id: str) -> None:
        """Answers without the application, in one write; the body is dropped as it arrives."""
        keeps_alive = self.parser.should_keep_alive()
        self.cycle = _ANSWERED
        self._unset_keepalive_if_required()
        self.transport.write(refusal(request_id, keep_alive=keeps_alive))
        self._idle[self] = time.monotonic()
        if not keeps_alive:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Counts bytes anew: the application limits bodies."""
        self._num_bytes = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # no further request is running
            self._idle[self] = time.monotonic()
