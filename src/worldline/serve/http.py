"""HTTP server of a world: `POST /v1/{verb}` with messages of `worldline.world.wire`, and `GET /v1/health`.

The service has no authentication and no state beyond the world. Keep it on the loopback interface or behind a proxy
that authenticates clients.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from worldline.errors import InputError, MissingExtraError, UnavailableError, UnknownNameError, UnsupportedError
from worldline.serve.service import Reply, refusal, reply
from worldline.world.base import World
from worldline.world.wire import CONTENT_TYPE, VERBS, VERSION

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

LIMIT_BYTES: Final = 64 * 2**20
"""Largest size of a request body."""


def create_app(world: World, *, limit_bytes: int = LIMIT_BYTES) -> FastAPI:
    """The web application.

    Args:
        world: the world; many threads call it at the same time.
        limit_bytes: largest size of a request body; larger ones get status 413.
    """
    app = FastAPI(title="worldline", openapi_url=None)

    @app.get("/v1/health")
    async def health() -> dict[str, str | int]:
        return {"status": "ok", "version": VERSION}

    @app.post("/v1/{verb}")
    async def call(verb: str, request: Request) -> Response:
        if verb not in VERBS:
            return _response(refusal(UnknownNameError("verb", verb, VERBS)), 404)
        # Browsers send this type across origins only after a CORS preflight, so web pages cannot reach a local server.
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != CONTENT_TYPE:
            return _response(refusal(InputError(f"the content type is {content_type!r}. Send {CONTENT_TYPE}.")), 415)
        try:
            body = await _body(request, limit_bytes)
        except ClientDisconnect:
            return Response(status_code=400)  # never sent
        if body is None:
            too_large = f"the request has more than {limit_bytes} bytes. Send fewer worlds, plans or steps at once."
            return _response(refusal(UnsupportedError(too_large)), 413)
        # Computes in a thread, so that the event loop accepts other requests.
        answer = await run_in_threadpool(reply, world, verb, body)
        if answer.error is None:
            return _response(answer, 200)
        return _response(answer, 503 if isinstance(answer.error, UnavailableError) else 400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # The client gets no details; uvicorn logs the traceback.
        message = f"the server failed with {type(error).__name__} at {request.url.path}. See the log of the server."
        return _response(refusal(UnavailableError(message)), 500)

    return app


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
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error}. Choose another port or host.") from error
    # Connections inherit this. Without it, the last part of a response waits 40 ms for the client's delayed ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket, such as "http://127.0.0.1:8000"."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(world: World, listener: socket.socket, *, limit_bytes: int = LIMIT_BYTES) -> None:
    """Serves `world` until the process is interrupted; closes the socket.

    Args:
        world: as in `create_app`.
        listener: from `listen`.
        limit_bytes: as in `create_app`.
    """
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean shutdown
        _server(world, limit_bytes).run(sockets=[listener])


@contextmanager
def serving(world: World, *, limit_bytes: int = LIMIT_BYTES) -> Iterator[str]:
    """Serves `world` in a thread on a free port of the loopback interface while the block runs; yields the URL.

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


def _response(answer: Reply, status: int) -> Response:
    return Response(answer.body, status_code=status, media_type=CONTENT_TYPE)


async def _body(request: Request, limit_bytes: int) -> bytes | None:
    """The body; None if it exceeds the limit, at which reading stops."""
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit_bytes:
            return None
    return bytes(body)
