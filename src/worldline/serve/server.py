"""The server process: sockets, time limits of connections, and shutdown."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

from worldline.errors import InputError, MissingExtraError
from worldline.serve.database import Database
from worldline.serve.http import create_app
from worldline.serve.limits import Limits
from worldline.serve.service import Service

try:
    import uvicorn
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, which queues requests.

    Args:
        host: name or address of the interface.
        port: 0 for any free port.

    Raises:
        InputError: the address is in use or does not belong to this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error}. Choose another port or host.") from error
    # Connections inherit this. Without it, the last part of a response waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket, such as "http://127.0.0.1:8000"."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    service: Service, listener: socket.socket, database: Database | None = None, *, any_host: bool = False
) -> None:
    """Serves until SIGTERM or SIGINT, finishes running calls for at most `Limits.drain_s`, and closes the socket.

    Args:
        service: answers the calls.
        listener: from `listen`.
        database: as in `create_app`.
        any_host: as in `create_app`.
    """
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
        server_of(create_app(service, database, any_host=any_host), service.limits).run(sockets=[listener])


@contextmanager
def serving(service: Service, database: Database | None = None) -> Iterator[str]:
    """Serves in a thread on a free port of the loopback interface while the block runs; yields the URL.

    Args:
        service: answers the calls; it ends with the block.
        database: as in `create_app`.
    """
    listener, server = listen("127.0.0.1", 0), server_of(create_app(service, database), service.limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="worldline-serving")
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """A server for a web application, with the limits on connections.

    Args:
        app: the application.
        limits: of connections, headers and shutdown.
    """
    config = uvicorn.Config(
        app,
        http=_timed(limits),
        ws="websockets-sansio",
        ws_max_size=limits.frame_bytes,
        ws_per_message_deflate=False,  # a small message could expand beyond every limit
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=max(1, round(limits.drain_s)),
    )
    return uvicorn.Server(config)


def _timed(limits: Limits) -> type[HttpToolsProtocol]:
    """The HTTP protocol that closes connections whose headers are not complete in time."""

    @final
    class TimedProtocol(HttpToolsProtocol):
        """uvicorn limits idle connections only after their first answer."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self._begin()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._end()
            super().on_headers_complete()

        def _begin(self) -> None:
            self._end()
            self._timer = self.loop.call_later(limits.header_s, self.transport.abort)

        def _end(self) -> None:
            if self._timer is not None:
                self._timer.cancel()

    return TimedProtocol
