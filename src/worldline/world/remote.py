"""A world in another process, over HTTP, and the sessions that its service keeps."""

from __future__ import annotations

import os
import random
import re
import secrets
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from time import sleep
from typing import Any, Final, TypeVar, final

import msgspec

from worldline.engines.base import Card
from worldline.engines.language.endpoint import LOOPBACK, origin_of
from worldline.episode import Arrays
from worldline.errors import InputError, MissingExtraError, UnavailableError, WorldlineError
from worldline.planning.calls import Call, PlanCall, PredictCall
from worldline.world.base import ANSWERS, Plan, World
from worldline.world.logins import TOKEN_VARIABLE, URL_VARIABLE, token_for
from worldline.world.session import FILLED_IN, Alarm, SessionVerbs, SessionView
from worldline.world.wire import CONTENT_TYPE, decode_answer, encode_call, encode_content

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtraError("httpx", "client") from error

LIMIT_BYTES: Final = 256 * 2**20
"""Default limit for the size of an answer."""

MAX_TIMEOUT_S: Final = 1e6
"""Sockets cannot wait much longer."""

Answer = TypeVar("Answer")

_EXAMPLE: Final = "Use one such as 'https://example.com/v1/worlds/greenhouse'."
_MAX_IDLE_S: Final = 2.0  # below the keep-alive time of servers, so no connection is used while the server closes it
_BACKOFF_S: Final = 0.1
_MAX_LISTED: Final = 20
_SAFE_TO_REPEAT: Final = (httpx.NetworkError, httpx.RemoteProtocolError)
"""Failures without an answer. After a timeout there is no time left."""


class _Listed(msgspec.Struct):
    """A served world, of which only the name matters here."""

    name: str


class _Listing(msgspec.Struct):
    """The answer of `GET /v1/worlds`."""

    worlds: list[_Listed]


@final
class RemoteWorld(World):
    """The world that `worldline serve` serves at a URL. Every verb is forwarded; threads may share it.

    A process that is forked connects anew. Errors of the service are raised again, with the same class and text. Costs
    and constraints must be those of `worldline.planning.costs`. Every verb raises `UnavailableError` if the service
    cannot be reached, does not answer in time, or returns an invalid answer. It raises `InputError` if the service does
    not accept the token.

    A call is repeated, after a growing random pause, if the connection fails or the service asks for it (status 429,
    or 503 with `Retry-After`). Verbs change nothing, so this is safe. All attempts begin within the timeout.

    Args:
        url: such as "https://example.com/v1/worlds/greenhouse"; or "http://127.0.0.1:8000" if the service serves one
            world. Proxy settings of the environment are ignored for this machine.
        token: of the service; "" for none. None for the one that `worldline login` stored for this origin, or that of
            `WORLDLINE_TOKEN` if `WORLDLINE_URL` has this origin. It is sent over https, or to this machine.
        timeout_s: seconds to wait for the connection and for each part of the answer, above 0. `plan` adds `budget_s`.
        limit_bytes: largest accepted answer, in bytes.
        retries: largest number of repetitions of a call, at least 0.
        insecure: whether to send the token over plain http to other machines, where others may read it.

    Raises:
        InputError: `url` is not the URL of a server, an argument is out of range, or the token would be sent
            unencrypted.
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
        self._new_client: Callable[[], httpx.Client] = lambda: _new_client(address, secret)
        self._has_token = bool(secret)
        self._url = _public(address)  # also for the log of httpx, which has the URLs of requests
        self._timeout_s, self._limit_bytes, self._retries = timeout_s, limit_bytes, retries
        base, _, name = self._url.path.rstrip("/").removesuffix("/v1/worlds").partition("/v1/worlds/")
        self._base, self._name = base.rstrip("/"), name
        self._card: Card | None = None
        self._connect()

    def _connect(self) -> None:
        """A client of this process."""
        self._client, self._process = self._new_client(), os.getpid()
        self._close = weakref.finalize(self, self._client.close)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._url)!r})"

    def __enter__(self) -> RemoteWorld:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; also done when the object is garbage-collected."""
        self._close()

    def describe(self) -> Card:
        """The card of the remote world; kept after the first call."""
        if self._card is None:
            self._card = self.read(Card, self.send("GET", self._world()))
        return self._card

    def answer(self, call: Call) -> Any:
        """See `World`. `budget_s` limits the search of a plan; `Plan.elapsed_s` includes the transfer."""
        return self.call(f"{self._world()}:{call.verb}", call)

    def session(
        self,
        *,
        num_kept: int | None = None,
        level: float | None = None,
        horizon: int = 1,
        rate: float = 0.05,
        patience: float = 1000.0,
    ) -> RemoteSession:
        """A session that the service keeps; the arguments are those of `Session`."""
        self._world()
        settings = {"num_kept": num_kept, "level": level, "horizon": horizon, "rate": rate, "patience": patience}
        return RemoteSession(self, self.change("", "create_session", {"world": self._name, "settings": settings}))

    def call(self, path: str, call: Call, without: Collection[str] = ()) -> Any:
        """The answer to a call without some fields. The time limit of a plan is added to the timeout."""
        started_s, message = time.monotonic(), encode_call(call, without)
        budget_s = (call.budget_s or 0.0) if isinstance(call, PlanCall) else 0.0
        answer = self.read(ANSWERS[type(call)], self.send("POST", path, extra_s=budget_s, content=message))
        return replace(answer, elapsed_s=time.monotonic() - started_s) if isinstance(answer, Plan) else answer

    def change(self, path: str, name: str, content: Mapping[str, Any]) -> SessionView:
        """The session after a change, which the service makes once even if the request is repeated."""
        headers = {"idempotency-key": secrets.token_hex(16)}
        path = self.session_path(path)
        return self.read(SessionView, self.send("POST", path, content=encode_content(name, content), headers=headers))

    def check_token(self) -> None:
        """Asks the service whether it accepts the token.

        Raises:
            InputError: it does not.
            UnavailableError: no service answers at this URL.
        """
        reply = self.send("GET", f"{self._base}/v1/worlds")
        if reply.status_code != 403 and (reply.status_code != 200 or _kind(reply) != "application/json"):
            self.read(Card, reply)  # raises; after 403 the token is valid and has other scopes

    def session_path(self, path: str) -> str:
        """The path of a request to a session."""
        return f"{self._base}/v1/sessions{path}"

    def _world(self) -> str:
        """The path of the world; of the only one if the URL is that of a service."""
        worlds = f"{self._base}/v1/worlds"
        if not self._name:
            reply = self.send("GET", worlds)
            if reply.status_code != 200 or _kind(reply) != "application/json":
                self.read(Card, reply)  # raises
            try:
                names = [world.name for world in msgspec.json.decode(reply.content, type=_Listing).worlds]
            except msgspec.MsgspecError as error:
                raise UnavailableError(f"{reply.url} returned an invalid answer: {error}") from error
            if len(names) != 1:
                known = ", ".join(str(self._url.copy_with(path=f"{worlds}/{name}")) for name in names[:_MAX_LISTED])
                raise InputError(
                    f"{self._url} serves {len(names)} worlds. Open the URL of one: {known or 'none is served'}."
                )
            self._name = names[0]
        return f"{worlds}/{self._name}"

    def send(self, method: str, path: str, *, extra_s: float = 0.0, **body: Any) -> httpx.Response:
        """The reply to a request, which is repeated where that helps and is safe."""
        if self._process != os.getpid():  # two processes that share connections would read each other's answers
            self._connect()
        if self._client.is_closed:
            raise InputError(f"{self!r} is closed. Open the world again.")
        url, limit_s = self._url.copy_with(path=path), min(self._timeout_s + extra_s, MAX_TIMEOUT_S)
        left_s, end_s = limit_s, time.monotonic() + limit_s
        for attempt in range(self._retries + 1):
            outcome = self._send(method, url, timeout=left_s, **body)
            pause_s = _pause_s(outcome, attempt)
            left_s = 0.0 if pause_s is None else end_s - time.monotonic() - pause_s
            if attempt == self._retries or pause_s is None or left_s <= 0:
                break
            sleep(pause_s)
        if isinstance(outcome, httpx.Response):
            return outcome
        problem = (
            f"did not answer within {limit_s:g} s. Raise timeout_s, or pass budget_s to plan"
            if isinstance(outcome, httpx.TimeoutException)
            else f"cannot be reached: {type(outcome).__name__} ({outcome}). Check that `worldline serve` runs"
        )
        raise UnavailableError(f"{url} {problem}.") from outcome

    def _send(self, method: str, url: httpx.URL, **options: Any) -> httpx.Response | httpx.HTTPError:
        """What comes of one request: the whole reply, or the failure of the connection."""
        body = bytearray()
        try:
            with self._client.stream(method, url, **options) as reply:
                for piece in reply.iter_raw():
                    body += piece
                    if len(body) > self._limit_bytes:
                        raise UnavailableError(
                            f"{url} answered more than {self._limit_bytes} bytes. Use fewer worlds, plans or steps per "
                            "call, or raise limit_bytes."
                        )
        except httpx.HTTPError as error:
            return error
        return httpx.Response(reply.status_code, headers=reply.headers, content=bytes(body), request=reply.request)

    def read(self, kind: type[Answer], reply: httpx.Response) -> Answer:
        """The answer in a reply.

        Raises:
            InputError: the token is not accepted. Not an `UnavailableError`, so `FallbackWorld` does not hide it.
            UnavailableError: there is no valid answer.
            WorldlineError: as the service raised.
        """
        answer: Answer | WorldlineError | None = None
        if _kind(reply) == CONTENT_TYPE:
            try:
                answer = decode_answer(kind, reply.content)
            except InputError as error:
                raise UnavailableError(f"{reply.url} returned an invalid answer: {error}") from error
        if reply.status_code == 401:
            which = "does not accept the token" if self._has_token else "needs a token"
            raise InputError(
                f"{reply.url} {which}. Run: worldline login {origin_of(str(self._url))}. Programs pass token=, or set "
                f"{URL_VARIABLE} and {TOKEN_VARIABLE}."
            )
        if reply.status_code == 403:
            reason = answer if isinstance(answer, WorldlineError) else "the call is forbidden. Ask the operator."
            raise InputError(f"{reply.url}: {reason}")
        if answer is None:
            raise UnavailableError(
                f"{reply.url} answered with status {reply.status_code}: expected {CONTENT_TYPE}, got "
                f"{_kind(reply) or 'no content type'}. Check that `worldline serve` is behind this URL."
            )
        if not isinstance(answer, WorldlineError):
            return answer
        if reply.status_code >= 500 and type(answer) is UnavailableError:
            number = reply.headers.get("request-id", "")[:64]
            raise UnavailableError(f"{answer} ({reply.url}, request_id {number})")
        raise answer


@final
class RemoteSession(SessionVerbs):
    """A session that the service keeps; made by `RemoteWorld.session`. The verbs are those of `Session`.

    Use it in one thread at a time. `with` ends it at the service, which otherwise keeps it until it expires.

    Args:
        client: of the world.
        view: of the session.
    """

    def __init__(self, client: RemoteWorld, view: SessionView) -> None:
        self._client, self._view = client, view

    @property
    def step(self) -> int:
        """Number of observations so far."""
        return self._view.step

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """See `Session.alarms`."""
        return self._view.alarms

    @property
    def widening(self) -> Mapping[str, float]:
        """See `Session.widening`."""
        return self._view.widening

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._view.world!r}, step {self.step})"

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def answer(self, call: PredictCall | PlanCall) -> Any:
        """See `SessionVerbs`."""
        return self._client.call(self._client.session_path(f"/{self._view.id}:{call.verb}"), call, FILLED_IN)

    def observe(
        self,
        observations: Arrays,
        *,
        actions: Arrays | None = None,
        exogenous: Arrays | None = None,
        observed: Mapping[str, bool] | None = None,
    ) -> None:
        """Adds one step, as `Session.observe` does.

        After an `UnavailableError` the service may have the step. Call `observe` again with the same step; the service
        adds it once.

        Raises:
            InputError: also if another client added a step, or the session has expired.
        """
        step = {"step": self.step, "observations": observations, "observed": observed or {}}
        step |= {"actions": actions or {}, "exogenous": exogenous or {}}
        self._view = self._client.change(f"/{self._view.id}:observe", "observe", step)

    def fork(self) -> RemoteSession:
        """A second session with the same history."""
        return RemoteSession(self._client, self._client.change(f"/{self._view.id}:fork", "fork", {}))

    def close(self) -> None:
        """Ends the session at the service, where it may have ended already."""
        reply = self._client.send("DELETE", self._client.session_path(f"/{self._view.id}"))
        if reply.status_code not in (204, 404, 410):
            self._client.read(SessionView, reply)  # raises


def _kind(reply: httpx.Response) -> str:
    """The content type without its parameters."""
    return str(reply.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _new_client(url: httpx.URL, token: str) -> httpx.Client:
    # No compression: a small compressed answer could expand beyond the limit.
    headers = {"accept": CONTENT_TYPE, "accept-encoding": "identity", "content-type": CONTENT_TYPE}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return httpx.Client(
        headers=headers,
        auth=(url.username, url.password) if url.userinfo else None,
        limits=httpx.Limits(keepalive_expiry=_MAX_IDLE_S),
        trust_env=url.host not in LOOPBACK,
    )


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
    stored = token_for(origin_of(str(_public(url)))) if explicit is None and not url.userinfo else ""
    token = (explicit or stored).strip()
    if not re.fullmatch(r"[!-~]*", token) or (token and url.userinfo):
        raise InputError(
            f"the token for {_public(url)} has characters that no token has, or the URL has a user name too. Copy the "
            "token as `worldline token` printed it; token='' sends none."
        )
    if (token or url.userinfo) and url.scheme == "http" and url.host not in LOOPBACK and not insecure:
        raise InputError(
            f"{_public(url)} is not encrypted, so others could read the token or password. Use https, or token='' for "
            "a service without tokens. In a network that you trust, use RemoteWorld(url, insecure=True)."
        )
    return token


def _pause_s(outcome: httpx.Response | httpx.HTTPError, attempt: int) -> float | None:
    """Seconds until the next attempt; None if it would not help."""
    after = ""
    if isinstance(outcome, httpx.Response):
        after = outcome.headers.get("retry-after", "")
        if outcome.status_code != 429 and not (outcome.status_code == 503 and after):
            return None
    elif not isinstance(outcome, _SAFE_TO_REPEAT):
        return None
    # Random, so that clients that were refused together do not return together.
    return (float(after) if after.isdecimal() else 0.0) + _BACKOFF_S * 2.0**attempt * random.uniform(0.5, 1.0)
