"""Requests to a service and the meaning of its replies, for clients with and without coroutines."""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from dataclasses import replace
from typing import Any, Concatenate, Final, Generic, NamedTuple, ParamSpec, TypeVar, cast, final

import msgspec

from worldline.engines.base import Card
from worldline.engines.language.endpoint import LOOPBACK
from worldline.errors import InputError, MissingExtraError, UnavailableError, WorldlineError
from worldline.planning.calls import Call, PlanCall
from worldline.world.base import ANSWERS, Plan
from worldline.world.session import SessionView
from worldline.world.wire import CONTENT_TYPE, decode_answer, encode_call, encode_content

try:
    import httpx as httpx  # exported, so that the error below precedes any other
except ModuleNotFoundError as error:
    raise MissingExtraError("httpx", "client") from error

LIMIT_BYTES: Final = 256 * 2**20
"""Default limit for the size of an answer."""

MAX_TIMEOUT_S: Final = 1e6
"""Sockets cannot wait much longer."""

TOKEN_VARIABLE: Final = "WORLDLINE_TOKEN"
"""The environment variable with the token for services."""

Answer = TypeVar("Answer")
CardAnswer = TypeVar("CardAnswer")
SessionAnswer = TypeVar("SessionAnswer")
P = ParamSpec("P")

_EXAMPLE: Final = "Use one such as 'https://example.com/v1/worlds/greenhouse'."
_MAX_IDLE_S: Final = 2.0  # below the keep-alive time of servers, so no connection is used while the server closes it
_BACKOFF_S: Final = 0.1
_MAX_LISTED: Final = 20
_SAFE_TO_REPEAT: Final = (httpx.NetworkError, httpx.RemoteProtocolError)
"""Failures without an answer. After a timeout there is no time left."""


@final
class RemoteRequest(NamedTuple):
    """A request for a client to send.

    Attributes:
        options: the arguments of `stream` of httpx.
        delay_s: time to wait before it is sent.
    """

    options: dict[str, Any]
    delay_s: float = 0.0


@final
class RemoteReply:
    """The reply of a service. The client adds its body.

    Args:
        response: its status and headers.
        limit_bytes: largest accepted body.
    """

    def __init__(self, response: httpx.Response, limit_bytes: int) -> None:
        self.status, self.headers, self.address = response.status_code, response.headers, str(response.url)
        self.kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self.body, self._limit_bytes = bytearray(), limit_bytes

    def add(self, piece: bytes) -> None:
        """Adds a part of the body.

        Raises:
            UnavailableError: the body is too large.
        """
        self.body += piece
        if len(self.body) > self._limit_bytes:
            raise UnavailableError(
                f"{self.address} answered more than {self._limit_bytes} bytes. Use fewer worlds, plans or steps per "
                "call, or raise limit_bytes."
            )


Outcome = RemoteReply | httpx.HTTPError
"""What came of a request."""

Steps = Generator[RemoteRequest, Outcome, Answer]
"""A call: yields requests, is sent their outcomes, and returns the answer."""


def awaited(
    method: Callable[Concatenate[Any, P], Answer],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, Answer]]:
    """The same method, for a class whose `answer` is a coroutine."""
    untyped: Any = method
    return cast(Callable[Concatenate[Any, P], Coroutine[Any, Any, Answer]], untyped)


class _Listed(msgspec.Struct):
    """A served world, of which only the name matters here."""

    name: str


class _Listing(msgspec.Struct):
    """The answer of `GET /v1/worlds`."""

    worlds: list[_Listed]


class RemoteClient(ABC, Generic[CardAnswer, SessionAnswer]):
    """A served world; what clients with and without coroutines have in common. `RemoteWorld` describes the arguments.

    Its methods make the requests of a call and read the replies. `run` sends them.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        limit_bytes: int = LIMIT_BYTES,
        retries: int = 2,
        insecure: bool = False,
    ) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S or retries < 0:
            raise InputError(
                f"timeout_s {timeout_s} must be above 0 and at most {MAX_TIMEOUT_S:g}, retries {retries} at least 0."
            )
        address = _checked(url)
        secret = _token(token, address, insecure)
        # A closure keeps secrets out of the attributes, which debuggers and error reports show.
        self._client_options: Callable[[], dict[str, Any]] = lambda: _client_options(address, secret)
        self._has_token = bool(secret)
        self._url = _public(address)  # also for the log of httpx, which has the URLs of requests
        self._timeout_s, self._limit_bytes, self._retries = timeout_s, limit_bytes, retries
        base, _, name = self._url.path.rstrip("/").removesuffix("/v1/worlds").partition("/v1/worlds/")
        self._base, self._name = base.rstrip("/"), name
        self._card: Card | None = None
        self._connect()

    def _connect(self) -> None:
        """Prepares for requests."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    @abstractmethod
    def run(self, steps: Steps[Any]) -> Any:
        """Sends the requests of a call. Returns the answer, or a coroutine of it."""

    @abstractmethod
    def _session(self, view: SessionView) -> object:
        """The session of this client for one of the service."""

    def describe(self) -> CardAnswer:
        """The card of the remote world; kept after the first call."""
        card: CardAnswer = self.run(self._described())
        return card

    def answer(self, call: Call) -> Any:
        """See `World`. `budget_s` limits the search of a plan; `Plan.elapsed_s` includes the transfer."""
        return self.run(self._answered_by_world(call))

    def session(
        self,
        *,
        num_kept: int | None = None,
        level: float | None = None,
        horizon: int = 1,
        rate: float = 0.05,
        patience: float = 1000.0,
    ) -> SessionAnswer:
        """A session that the service keeps; the arguments are those of `Session`."""
        settings = {"num_kept": num_kept, "level": level, "horizon": horizon, "rate": rate, "patience": patience}
        session: SessionAnswer = self.run(self._created(settings))
        return session

    def answered(self, path: str, call: Call, without: Collection[str] = ()) -> Steps[Any]:
        """The answer to a call without some fields. The time limit of a plan is added to the timeout."""
        started_s, message = time.monotonic(), encode_call(call, without)
        budget_s = (call.budget_s or 0.0) if isinstance(call, PlanCall) else 0.0
        wait_s = min(self._timeout_s + budget_s, MAX_TIMEOUT_S)
        reply = yield from self._sent("POST", path, wait_s, content=message)
        answer = self._answer(ANSWERS[type(call)], reply)
        if isinstance(answer, Plan):
            answer = replace(answer, elapsed_s=time.monotonic() - started_s)
        return answer

    def changed(self, path: str, name: str, content: Mapping[str, Any]) -> Steps[SessionView]:
        """The session after a change, which the service makes once even if the request is repeated."""
        message, headers = encode_content(name, content), {"idempotency-key": secrets.token_hex(16)}
        reply = yield from self._sent(
            "POST", self.session_path(path), self._timeout_s, content=message, headers=headers
        )
        return self._answer(SessionView, reply)

    def opened(self, path: str, name: str, content: Mapping[str, Any]) -> Steps[object]:
        """The session that a change opens."""
        return self._session((yield from self.changed(path, name, content)))

    def closed(self, name: str) -> Steps[None]:
        """Ends a session, which may have ended already."""
        reply = yield from self._sent("DELETE", self.session_path(f"/{name}"), self._timeout_s)
        if reply.status not in (204, 404, 410):
            self._answer(SessionView, reply)  # raises

    def session_path(self, path: str) -> str:
        """The path of a request to a session."""
        return f"{self._base}/v1/sessions{path}"

    def _described(self) -> Steps[Card]:
        if self._card is None:
            reply = yield from self._sent("GET", (yield from self._world()), self._timeout_s)
            self._card = self._answer(Card, reply)
        return self._card

    def _answered_by_world(self, call: Call) -> Steps[Any]:
        path = yield from self._world()
        return (yield from self.answered(f"{path}:{call.verb}", call))

    def _created(self, settings: Mapping[str, Any]) -> Steps[object]:
        yield from self._world()
        return (yield from self.opened("", "create_session", {"world": self._name, "settings": settings}))

    def _world(self) -> Steps[str]:
        """The path of the world; of the only one if the URL is that of a service."""
        worlds = f"{self._base}/v1/worlds"
        if not self._name:
            reply = yield from self._sent("GET", worlds, self._timeout_s)
            if reply.status != 200 or reply.kind != "application/json":
                self._answer(Card, reply)  # raises
            try:
                names = [world.name for world in msgspec.json.decode(reply.body, type=_Listing).worlds]
            except msgspec.MsgspecError as error:
                raise UnavailableError(f"{reply.address} returned an invalid answer: {error}") from error
            if len(names) != 1:
                known = ", ".join(str(self._url.copy_with(path=f"{worlds}/{name}")) for name in names[:_MAX_LISTED])
                raise InputError(
                    f"{self._url} serves {len(names)} worlds. Open the URL of one: {known or 'none is served'}."
                )
            self._name = names[0]
        return f"{worlds}/{self._name}"

    def _sent(self, method: str, path: str, limit_s: float, **body: Any) -> Steps[RemoteReply]:
        """The reply to a request, which is repeated where that helps and is safe."""
        url, end_s = self._url.copy_with(path=path), time.monotonic() + limit_s
        options: dict[str, Any] = {"method": method, "url": url, "timeout": limit_s, **body}
        delay_s = 0.0
        for attempt in range(self._retries + 1):
            outcome = yield RemoteRequest(options, delay_s)
            pause_s = _pause_s(outcome, attempt)
            left_s = 0.0 if pause_s is None else end_s - time.monotonic() - pause_s
            if attempt == self._retries or pause_s is None or left_s <= 0:
                break
            options["timeout"], delay_s = left_s, pause_s
        if isinstance(outcome, RemoteReply):
            return outcome
        if isinstance(outcome, httpx.TimeoutException):
            raise UnavailableError(
                f"{url} did not answer within {limit_s:g} s ({type(outcome).__name__}). Raise timeout_s, or "
                "pass budget_s to plan."
            ) from outcome
        raise UnavailableError(
            f"{url} cannot be reached: {type(outcome).__name__} ({outcome}). Check that `worldline serve` runs."
        ) from outcome

    def _answer(self, kind: type[Answer], reply: RemoteReply) -> Answer:
        """The answer in a reply.

        Raises:
            InputError: the token is not accepted. Not an `UnavailableError`, so `FallbackWorld` does not hide it.
            UnavailableError: there is no valid answer.
            WorldlineError: as the service raised.
        """
        answer: Answer | WorldlineError | None = None
        if reply.kind == CONTENT_TYPE:
            try:
                answer = decode_answer(kind, bytes(reply.body))
            except InputError as error:
                raise UnavailableError(f"{reply.address} returned an invalid answer: {error}") from error
        if reply.status == 401:
            which = "does not accept the token" if self._has_token else "needs a token"
            raise InputError(f"{reply.address} {which}. Pass token= or set {TOKEN_VARIABLE}.")
        if reply.status == 403:
            reason = answer if isinstance(answer, WorldlineError) else "the call is forbidden. Ask the operator."
            raise InputError(f"{reply.address}: {reason}")
        if answer is None:
            raise UnavailableError(
                f"{reply.address} answered with status {reply.status}: expected {CONTENT_TYPE}, got "
                f"{reply.kind or 'no content type'}. Check that `worldline serve` is behind this URL."
            )
        if not isinstance(answer, WorldlineError):
            return answer
        if reply.status >= 500 and type(answer) is UnavailableError:
            raise UnavailableError(f"{answer} ({reply.address}, request_id {reply.headers.get('request-id', '')[:64]})")
        raise answer


def _client_options(url: httpx.URL, token: str) -> dict[str, Any]:
    """The arguments of `httpx.Client` and `httpx.AsyncClient`."""
    # No compression: a small compressed answer could expand beyond the limit.
    headers = {"accept": CONTENT_TYPE, "accept-encoding": "identity", "content-type": CONTENT_TYPE}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return {
        "headers": headers,
        "auth": (url.username, url.password) if url.userinfo else None,
        "limits": httpx.Limits(keepalive_expiry=_MAX_IDLE_S),
        "trust_env": url.host not in LOOPBACK,
    }


def _public(url: httpx.URL) -> httpx.URL:
    """The URL without user name, password, query and fragment, which may be secret."""
    return url.copy_with(userinfo=b"", query=None, fragment=None)


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:  # its text may hold a part of a password
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        shown = re.sub(r"//.*@", "//", text, flags=re.DOTALL).partition("?")[0].partition("#")[0]
        raise InputError(f"{shown!r} is not a URL of a server. {_EXAMPLE}")
    return url


def _token(explicit: str | None, url: httpx.URL, insecure: bool) -> str:
    """The token to send; empty for none."""
    token = (os.environ.get(TOKEN_VARIABLE, "") if explicit is None else explicit).strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise InputError("the token has characters that no token has. Copy it as `worldline token` printed it.")
    if token and url.userinfo:
        raise InputError(f"{_public(url)} got a token and a user name. Remove one of them; token='' sends no token.")
    if (token or url.userinfo) and url.scheme == "http" and url.host not in LOOPBACK and not insecure:
        raise InputError(
            f"{_public(url)} is not encrypted, so others could read the token or password. Use https, or token='' for "
            "a service without tokens. In a network that you trust, use RemoteWorld(url, insecure=True)."
        )
    return token


def _pause_s(outcome: Outcome, attempt: int) -> float | None:
    """Seconds until the next attempt; None if it would not help."""
    after_s = 0.0
    if isinstance(outcome, RemoteReply):
        after = outcome.headers.get("retry-after", "")
        if outcome.status != 429 and not (outcome.status == 503 and after):
            return None
        after_s = float(after) if after.isdecimal() else 0.0
    elif not isinstance(outcome, _SAFE_TO_REPEAT):
        return None
    # Random, so that clients that were refused together do not return together.
    return after_s + _BACKOFF_S * 2.0**attempt * random.uniform(0.5, 1.0)
