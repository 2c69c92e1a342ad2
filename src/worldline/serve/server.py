"""The server process: its socket, and its shutdown."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from worldline.errors import InputError
from worldline.serve.connections import BoundedServer
from worldline.serve.database import Database
from worldline.serve.http import create_app
from worldline.serve.service import Service

SWITCH_S: Final = 5e-4
"""Longest time for which one thread keeps the interpreter while others wait, in seconds."""

_logger = logging.getLogger(__name__)


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


def serve(service: Service, listener: socket.socket, database: Database | None = None, **options: Any) -> None:
    """Serves until SIGTERM or SIGINT, finishes running calls for at most `Limits.drain_s`, and closes the socket.

    If the process is still there a quarter of that time later, it is ended with exit code 0: threads of worlds that do
    not return would keep it. Call it in the main thread.

    Args:
        service: answers the calls.
        listener: from `listen`.
        database: as in `create_app`.
        options: of `create_app`.
    """
    # uvicorn raises the signal again after a clean shutdown. Its default would end the process before the caller of
    # this function has saved its state.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    # A worker gives up the interpreter in every tensor operation, and gets it back after this time at the latest. With
    # the default of 5 ms, a flood of requests would leave workers little time.
    sys.setswitchinterval(SWITCH_S)
    end = threading.Timer(1.25 * service.limits.drain_s, _exit)
    end.daemon = True
    service.stopping.append(end.start)
    app = create_app(service, database, **options)
    # A full garbage collection would visit all objects of the libraries, and no call is answered meanwhile. How long it
    # takes is in benchmarks/log/serve.md.
    gc.collect()
    gc.freeze()
    try:
        with suppress(KeyboardInterrupt):
            BoundedServer(app, service).run(sockets=[listener])
    finally:
        gc.unfreeze()
        signal.signal(signal.SIGTERM, before)
        if service.close():  # also here, because a second Ctrl-C skips the shutdown of the application
            end.cancel()


def _exit() -> None:
    _logger.warning("a call did not end. The process ends without it.")
    sys.stdout.flush()
    os._exit(0)


@contextmanager
def serving(service: Service, database: Database | None = None, **options: Any) -> Iterator[str]:
    """Serves in a thread on a free port of the loopback interface while the block runs; yields the URL.

    Args:
        service: answers the calls; it ends with the block.
        database: as in `create_app`.
        options: of `create_app`.
    """
    app, listener = create_app(service, database, **options), listen("127.0.0.1", 0)
    server = BoundedServer(app, service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="worldline-serving")
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()
