"""A world over HTTP: `POST /v1/{verb}` with messages of `worldline.world.wire`, and `GET /v1/health`.

Whoever reaches the port may ask; there is no state beyond the world. Keep it on the loopback interface or behind a
proxy that asks for credentials.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from worldline.errors import InputError, MissingExtraError, UnavailableError, UnknownNameError
from worldline.serve.service import Reply, refusal, reply
from worldline.world.base import World
from worldline.world.wire import CALLS, CONTENT_TYPE, VERSION

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

LIMIT_BYTES: Final = 64 * 2**20
"""The largest request."""


def create_app(world: World, *, limit_bytes: int = LIMIT_BYTES) -> FastAPI:
    """The web application.

    Args:
        world: that is asked, from many threads at once.
        limit_bytes: the largest request; a larger one gets status 413.
    """
    app = FastAPI(title="worldline", openapi_url=None)

    @app.get("/v1/health")
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "version": VERSION}

    @app.post("/v1/{verb}")
    async def ask(verb: str, request: Request) -> Response:
        if verb not in CALLS:
            return _response(refusal(UnknownNameError("verb", verb, CALLS)), 404)
        # No page of a browser can send this type unasked, so that none can ask a server on its reader's own machine.
        came = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if came != CONTENT_TYPE:
            return _response(refusal(InputError(f"the content type is {came!r}. Send {CONTENT_TYPE}.")), 415)
        try:
            body = await _body(request, limit_bytes)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        if body is None:
            larger = f"the request has more than {limit_bytes} bytes. Send fewer worlds, plans or steps at once."
            return _response(refusal(InputError(larger)), 413)
        # The verb computes: in a thread, so that other requests are still taken.
        found = await run_in_threadpool(reply, world, verb, body)
        if found.error is None:
            return _response(found, 200)
        return _response(found, 503 if isinstance(found.error, UnavailableError) else 400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # The caller learns no more than this; uvicorn logs the traceback.
        told = f"the server failed with {type(error).__name__} at {request.url.path}. Its log says more."
        return _response(refusal(UnavailableError(told)), 500)

    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket on which requests wait from now on.

    Args:
        host: name or address of the interface.
        port: 0 for any that is free.

    Raises:
        InputError: the address is taken or is none of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error}. Choose another port or host.") from error
    # Handed down to each connection. Else the last part of an answer waits 40 ms for the caller's receipt.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a socket is reached, such as "http://127.0.0.1:8000"."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(world: World, listener: socket.socket, *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Serves `world` until the process is interrupted; closes the socket.

    Args:
        world: as in `create_app`.
        listener: from `listen`.
        limit_bytes: as in `create_app`.
    """
    with suppress(KeyboardInterrupt):  # raised again by uvicorn, once it has stopped because of it
        _server(world, limit_bytes).run(sockets=[listener])


@contextmanager
def serving(world: World, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[str]:
    """The URL of `world`, served in a thread on a free port of the loopback interface as long as the block runs.

    Args:
        world: as in `create_app`.
        limit_bytes: as in `create_app`.
    """
    listener, server = listen("127.0.0.1", 0), _server(world, limit_bytes)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="worldline-serving")
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()


def _server(world: World, limit_bytes: int) -> uvicorn.Server:
    app = create_app(world, limit_bytes=limit_bytes)
    return uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))


def _response(found: Reply, status: int) -> Response:
    return Response(found.body, status_code=status, media_type=CONTENT_TYPE)


async def _body(request: Request, limit_bytes: int) -> bytes | None:
    """The body; None where it is larger than allowed, of which no more is taken in than that."""
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > limit_bytes:
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit_bytes:
            return None
    return bytes(body)
