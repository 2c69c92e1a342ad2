"""Reading of requests and writing of answers: bodies within limits, content types, problems."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any, Final, TypeVar, final
from urllib.parse import urlsplit

import msgspec
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worldline.engines.language.endpoint import LOOPBACK
from worldline.errors import InputError
from worldline.serve import problems
from worldline.serve.admission import FULL
from worldline.serve.callers import Caller
from worldline.serve.problems import (
    MediaTypeError,
    MethodError,
    OverloadedError,
    Problem,
    SlowRequestError,
    TooLargeError,
    logged_problem,
    problem_of,
)
from worldline.serve.scheduler import CallerLeftError, stopping_error
from worldline.serve.service import CALLER_LEFT, Service
from worldline.world import wire

JSON: Final = "application/json"
INLINE_BYTES: Final = 2**16
"""Largest body that is decoded in the event loop; larger ones would delay other requests."""
JSON_WEIGHT: Final = 8
"""Memory of a decoded JSON body, in sizes of the body: `0.1,` becomes a float of 24 bytes and 8 bytes in a list."""
MSGPACK: Final = wire.CONTENT_TYPE
ENCODERS: Final[Mapping[str, Callable[[object], bytes]]] = {JSON: wire.encode_json_answer, MSGPACK: wire.encode_answer}
"""Per content type of bodies and answers, the function that encodes an answer."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Allowed request ids."""

Content = TypeVar("Content")

_SAFE_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)

_logger = logging.getLogger(__name__)


@final
class Guard:
    """The outermost application: request ids, safe headers, and every error as a problem.

    Args:
        app: the application behind it.
        service: to know whether callers need a token.
        any_host: whether a service without tokens answers to other names than localhost.
    """

    def __init__(self, app: ASGIApp, service: Service, *, any_host: bool) -> None:
        self._app, self._service, self._any_host = app, service, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        request = Request(scope, receive)
        request_id = request_id_of(request)
        state["request_id"], started_s, status = request_id, time.monotonic(), 0
        held = state["held"] = ExitStack()

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = dict(message["headers"])
                safe = [header for header in _SAFE_HEADERS if header[0] not in own]
                message = {**message, "headers": [*message["headers"], (b"request-id", request_id.encode()), *safe]}
            await send(message)

        try:
            if not self._is_known_host(request):
                host = request.headers.get("host")
                raise InputError(f"the host is {host!r:.100}. A service without tokens answers only to localhost.")
            async with self._service.admission.place(scope["path"], request.headers.get("authorization", "")):
                await self._app(scope, receive, send_safely)
        except (ClientDisconnect, CallerLeftError):
            status = status or CALLER_LEFT  # for the metrics; nobody reads it
        except asyncio.CancelledError:  # at the end of the time to drain
            if not status:
                await problem_response(request, problem_of(stopping_error()))(scope, receive, send_safely)
        except Exception as error:  # noqa: BLE001  # every error becomes an answer
            problem = logged_problem(_logger, f"request {request_id}", error)
            if not status:
                await problem_response(request, problem)(scope, receive, send_safely)
        finally:
            held.close()
            world, verb = state.get("labels", ("", "other"))
            self._service.metrics.request(world, verb, status, time.monotonic() - started_s)

    def _is_known_host(self, connection: HTTPConnection) -> bool:
        """False for other names of this machine, which a web page can use, if no token protects the service."""
        try:
            host = urlsplit(f"//{connection.headers.get('host', '')}").hostname
        except ValueError:  # such as "["
            host = None
        return self._any_host or self._service.needs_token or host in LOOPBACK


def request_id_of(connection: HTTPConnection) -> str:
    """The id that the caller chose, if it is valid; else a new one."""
    return _valid_id(connection.headers.get("request-id", ""))


def _valid_id(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(8)


def refusal(request_id: str, *, keep_alive: bool) -> bytes:
    """The whole response to a call for which there is no place, as bytes.

    Args:
        request_id: that the caller chose, valid or not.
        keep_alive: whether the connection stays open.
    """
    body = msgspec.json.encode(problem_of(OverloadedError(FULL)).to_json(shown := _valid_id(request_id)))
    kept = {"connection": "keep-alive" if keep_alive else "close", "retry-after": "1", "request-id": shown}
    response = Response(body, 429, kept, problems.MEDIA_TYPE)
    lines = (b"%s: %s\r\n" % header for header in (*response.raw_headers, *_SAFE_HEADERS))
    return b"HTTP/1.1 429 Too Many Requests\r\n%s\r\n%s" % (b"".join(lines), body)


def problem_response(request: Request, problem: Problem) -> Response:
    """The response that reports a problem, in the format that the caller reads."""
    headers = dict[str, str]()
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(problem.retry_after_s)))
    if isinstance(problem.error, MethodError):
        headers["allow"] = problem.error.allow
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    if problem.status == 408:
        headers["connection"] = "close"  # the rest may never come
    if answer_type(request) == MSGPACK:
        return Response(wire.encode_error(problem.error), problem.status, headers, MSGPACK)
    body = msgspec.json.encode(problem.to_json(request.state.request_id))
    return Response(body, problem.status, headers, problems.MEDIA_TYPE)


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The content in JSON."""
    return Response(wire.encode_json_answer(content), status, headers, JSON)


async def json_of(function: Callable[..., object], *arguments: object, status: int = 200) -> Response:
    """The result of a function in JSON. It is computed and encoded in a thread."""
    return await asyncio.to_thread(lambda: json_response(function(*arguments), status))


def accepted_response(request: Request, content: object, status: int = 200) -> Response:
    """The content in the format that the caller accepts."""
    kind = answer_type(request)
    return Response(ENCODERS[kind](content), status, media_type=kind)


def content_type(request: Request) -> str:
    """The content type of the body.

    Raises:
        MediaTypeError: the service does not read it. Web pages cannot send the accepted ones to another origin without
            asking first, so they cannot reach a local service.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in ENCODERS:
        raise MediaTypeError(f"the content type is {media_type[:100]!r}. Send {' or '.join(ENCODERS)}.")
    return media_type


def answer_type(request: Request) -> str:
    """The content type of the answer: what the caller accepts, else that of the body, else JSON."""
    accepted = request.headers.get("accept", "*/*").lower()
    body_type = request.headers.get("content-type", "").lower() if "*/*" in accepted else ""
    return MSGPACK if MSGPACK in accepted or MSGPACK in body_type else JSON


def deadline_s(request: Request) -> float | None:
    """Seconds until the caller gives up, from the header `Deadline-Ms`; None if it is not given.

    Raises:
        InputError: it is not a whole number above 0.
    """
    milliseconds = request.headers.get("deadline-ms")
    if milliseconds is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,8}", milliseconds):
        raise InputError(f"Deadline-Ms is {milliseconds[:40]!r}. Send milliseconds, a whole number above 0.")
    return int(milliseconds) / 1000


def idempotency_key(request: Request) -> str | None:
    """The header `Idempotency-Key`; None if it is not given.

    Raises:
        InputError: it is longer than 64 characters, or has other characters than letters, digits, `-` and `_`.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not _REQUEST_ID.fullmatch(key):
        raise InputError(f"Idempotency-Key is {key[:80]!r}. Send 1 to 64 letters, digits, '-' and '_'.")
    return key


async def read_content(
    request: Request,
    service: Service,
    caller: Caller,
    name: str,
    kind: type[Content],
    filled: Mapping[str, Any] = wire.NOTHING,
) -> Content:
    """The content of the body of a request. Rate and quota are checked before it is decoded.

    Args:
        request: its body has one of the content types.
        service: has the limits.
        caller: who sent it.
        name: of the message in msgpack.
        kind: as in `wire.decode`.
        filled: as in `wire.decode`.

    Raises:
        MediaTypeError: as in `content_type`.
        InputError: the body cannot be decoded.
        RateLimitedError: the caller exceeds its rate, or its quota is used up.
    """
    is_json, limits = content_type(request) == JSON, service.limits
    limit_bytes, weight = (limits.json_bytes, JSON_WEIGHT) if is_json else (limits.body_bytes, 1)
    body = await read_body(request, service, caller, limit_bytes, weight)
    service.usage.check(caller)

    def decode() -> Content:
        return wire.decode_json(kind, body, filled) if is_json else wire.decode(kind, name, body, filled)

    return decode() if len(body) <= INLINE_BYTES else await asyncio.to_thread(decode)


async def read_body(
    request: Request, service: Service, caller: Caller, limit_bytes: int, weight: int = JSON_WEIGHT
) -> bytes:
    """The body of a request. It counts in the shares of the caller until the request ends.

    Args:
        request: behind `Guard`.
        service: has the limits and the shares.
        caller: who sent it.
        limit_bytes: largest size.
        weight: memory of the body and what is decoded from it, in sizes of the body.

    Raises:
        OverloadedError: the caller has too many open requests, or their bodies need too much memory.
        TooLargeError: it has more than `limit_bytes`. Reading stops there.
        SlowRequestError: it is not complete after `Limits.body_s` seconds.
    """
    too_large = TooLargeError(f"the body has more than {limit_bytes} bytes. Send less at once, or msgpack.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise too_large
    held: ExitStack = request.state.held
    held.enter_context(service.bodies.open(caller.id, 1))
    resize = held.enter_context(service.memory.open(caller.id))
    body, limit_s = bytearray(), service.limits.body_s
    try:
        async with asyncio.timeout(limit_s):
            async for piece in request.stream():
                if len(body) + len(piece) > limit_bytes:
                    raise too_large
                resize(weight * (len(body) + len(piece)))
                body += piece
    except TimeoutError:
        raise SlowRequestError(f"the body was not complete after {limit_s:g} s. Send it again.") from None
    return bytes(body)


async def left(request: Request) -> None:
    """Returns when the caller closes the connection. Call it after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
