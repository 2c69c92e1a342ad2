"""The server process: sockets, time limits of connections, and shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, cast, final

from worldline.errors import InputError, MissingExtraError
from worldline.serve.admission import Admission
from worldline.serve.database import Database
from worldline.serve.http import create_app
from worldline.serve.jobs import JobSettings
from worldline.serve.limits import Limits
from worldline.serve.requests import claimed_id, refusal
from worldline.serve.service import Service

try:
    import uvicorn
    from starlette.types import ASGIApp
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    from worldline.serve.socket_protocol import SocketProtocol
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

_logger = logging.getLogger(__name__)


SWITCH_S: Final = 5e-4
"""Longest time for which one thread keeps the interpreter while others wait, in seconds."""


_ANSWERED: Final[Any] = SimpleNamespace(response_complete=True, message_event=asyncio.Event())
"""Stands for a request that was refused, where uvicorn expects one that was answered."""


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
    service: Service,
    listener: socket.socket,
    database: Database | None = None,
    *,
    job_settings: JobSettings | None = None,
    any_host: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, finishes running calls for at most `Limits.drain_s`, and closes the socket.

    If the process is still there a quarter of that time later, it is ended with exit code 0: threads of worlds that do
    not return would keep it. Call it in the main thread.

    Args:
        service: answers the calls.
        listener: from `listen`.
        database: as in `create_app`.
        job_settings: as in `create_app`.
        any_host: as in `create_app`.
    """
    # uvicorn raises the signal again after a clean shutdown. Its default would end the process before the caller of
    # this function has saved its state.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    # A worker gives up the interpreter in every tensor operation, and gets it back after this time at the latest. With
    # the default of 5 ms, a flood of requests would leave workers little time.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    process = _Process(create_app(service, database, job_settings=job_settings, any_host=any_host), service)
    # A full garbage collection would visit all objects of the libraries, and no call is answered meanwhile. How long it
    # takes is in benchmarks/log/serve.md.
    gc.collect()
    gc.freeze()
    try:
        with suppress(KeyboardInterrupt):
            process.run(sockets=[listener])
    finally:
        gc.unfreeze()
        signal.signal(signal.SIGTERM, before)
        sys.setswitchinterval(interval_s)
        if service.close():  # also here, because a second Ctrl-C skips the shutdown of the application
            process.release()


@contextmanager
def serving(
    service: Service, database: Database | None = None, *, job_settings: JobSettings | None = None
) -> Iterator[str]:
    """Serves in a thread on a free port of the loopback interface while the block runs; yields the URL.

    Args:
        service: answers the calls; it ends with the block.
        database: as in `create_app`.
        job_settings: as in `create_app`.
    """
    app = create_app(service, database, job_settings=job_settings)
    listener, server = listen("127.0.0.1", 0), _Server(app, service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="worldline-serving")
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()


class _Server(uvicorn.Server):
    """Ends what would keep connections open before it waits for them."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        super().__init__(_config(app, service.limits, service.admission))
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers running calls."""
        for stop in self._service.stopping:
            stop()
        await super().shutdown(sockets)


@final
class _Process(_Server):
    """The server of a process that must end, whatever its threads do."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        super().__init__(app, service)
        self._timer = threading.Timer(1.25 * service.limits.drain_s, _exit)
        self._timer.daemon = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answers running calls; sets a limit for everything after it."""
        self._timer.start()
        await super().shutdown(sockets)

    def release(self) -> None:
        """Lifts the limit: no thread keeps the process."""
        self._timer.cancel()


def _exit() -> None:
    _logger.warning("a call did not end. The process ends without it.")
    sys.stdout.flush()
    os._exit(0)


def server_of(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    """A server for a web application, with the limits on connections.

    Args:
        app: the application.
        limits: of connections, headers and shutdown.
    """
    return uvicorn.Server(_config(app, limits, None))


def _config(app: ASGIApp, limits: Limits, admission: Admission | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(type[HttpToolsProtocol], partial(TimedProtocol, limits, admission)),  # uvicorn only calls it
        ws=SocketProtocol,
        ws_max_size=limits.frame_bytes,
        ws_per_message_deflate=False,  # a small message could expand beyond every limit
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=max(1, round(limits.drain_s)),
    )


@final
class TimedProtocol(HttpToolsProtocol):
    """Closes connections whose headers or readers are too slow or too large.

    uvicorn limits idle connections only between an answer and the next byte. It limits neither the size of headers
    nor the number of requests that are sent before their answers.

    Args:
        limits: in time.
        admission: refuses requests before anything is read or checked, so that refusals leave the time to the calls
            that run. None for an application without a queue.
        args: of uvicorn.
        options: of uvicorn.
    """

    def __init__(self, limits: Limits, admission: Admission | None, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits, self._admission = limits, admission
        self._timer: asyncio.TimerHandle | None = None
        self._num_bytes = 0  # received since the last event that needs no memory
        self._is_cut_off = False

    def connection_made(self, transport: Any) -> None:
        """Limits the time to the first headers."""
        super().connection_made(transport)
        self._begin(self._limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timer, and drops the requests that wait."""
        self._end()
        super().connection_lost(exc)
        self.pipeline.clear()

    def data_received(self, data: bytes) -> None:
        """Cuts off endless headers and trailers; the former are answered."""
        self._num_bytes += len(data)
        if self._is_cut_off:
            if self._num_bytes > DRAINED_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self._num_bytes > HEADER_BYTES:
            self._is_cut_off, cycle = True, cast(Any, self.cycle)
            if cycle is not None and not cycle.response_complete:
                self.transport.abort()
            else:
                self.transport.write(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Limits the requests that wait, and the time for headers."""
        if len(self.pipeline) >= PIPELINE:
            raise ValueError("too many requests before an answer")  # uvicorn then answers 400
        self._begin(self._limits.header_s)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuses a request for which there is no place. One that waits for an earlier answer is read first."""
        self._end()
        self._num_bytes = 0
        app: Any = self.config.loaded_app
        if self._admission is not None and not self.parser.should_upgrade():
            header = next((value for name, value in self.headers if name == b"authorization"), b"")
            admitted = self._admission.enter(self.url.decode("latin-1"), claimed_id(header.decode("latin-1")), app)
            cycle: Any = self.cycle  # None before the first request
            if admitted is None and (cycle is None or cycle.response_complete):
                self._refuse()
                return
            app = admitted or app
        self.app = app
        super().on_headers_complete()
        self.app = self.config.loaded_app  # or this would hold the place of a request that the server dropped

    def _refuse(self) -> None:
        """Answers without an application, in one write; the body is dropped as it arrives."""
        keep_alive = self.parser.should_keep_alive()
        self.cycle = _ANSWERED
        self._unset_keepalive_if_required()
        self.transport.write(refusal(keep_alive))
        self._begin(self._limits.header_s)
        if not keep_alive:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Counts anew: the application limits bodies."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Counts anew."""
        self._num_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Limits the time to the next headers, or for a slow reader of the answer."""
        super().on_response_complete()
        if self.cycle.response_complete:  # no further request is running
            self._begin(self._limits.body_s if self.transport.get_write_buffer_size() else self._limits.header_s)

    def _begin(self, seconds: float) -> None:
        self._end()
        self._timer = self.loop.call_later(seconds, self._expire)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:
            self.transport.abort()
        else:  # a part of the next request must not end the one that is running
            self._begin(self._limits.header_s)
