"""A world in another process, over HTTP."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, final

from worldline.engines.base import Card
from worldline.engines.language.endpoint import LOOPBACK
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, MissingExtraError, UnavailableError, WorldlineError
from worldline.planning.base import Constraint, Goal, PlanRequest
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf, World
from worldline.world.wire import CONTENT_TYPE, Answer, Call, decode_answer, encode_call

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtraError("httpx", "client") from error

LIMIT_BYTES: Final = 256 * 2**20
"""Default limit for the size of an answer."""

_MAX_IDLE_S: Final = 2.0  # below the keep-alive time of servers, so no connection is used while the server closes it
_MAX_WAIT_S: Final = 1e6  # sockets cannot wait longer


@final
class RemoteWorld(World):
    """The world that `worldline serve` serves at a URL. Every verb is forwarded; threads may share it.

    A process that is forked connects anew. Errors of the server are raised again, with the same class and text. Costs
    and constraints must be those of `worldline.planning.costs`. Every verb raises `UnavailableError` if the server
    cannot be reached, does not answer in time, or returns an invalid answer.

    Args:
        url: such as "http://127.0.0.1:8000". Proxy settings of the environment are ignored for this machine.
        timeout_s: seconds to wait for the connection and for each part of the answer, above 0. `plan` adds `budget_s`.
        limit_bytes: largest accepted answer, in bytes.

    Raises:
        InputError: `url` is not a URL of a server, or `timeout_s` is out of range.
    """

    def __init__(self, url: str, *, timeout_s: float = 60.0, limit_bytes: int = LIMIT_BYTES) -> None:
        if not 0 < timeout_s <= _MAX_WAIT_S:
            raise InputError(f"timeout_s is {timeout_s}. Use seconds, above 0 and at most {_MAX_WAIT_S:g}.")
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise InputError(f"{url!r} is not a URL: {error}. Use one such as 'http://127.0.0.1:8000'.") from error
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise InputError(f"{url!r} is not a URL of a server. Use one such as 'http://127.0.0.1:8000'.")
        self._timeout_s, self._limit_bytes = timeout_s, limit_bytes
        self._card: Card | None = None
        self._connect()

    def _connect(self) -> None:
        """A client and a lock of this process."""
        # No compression: a small compressed answer could expand beyond the limit.
        headers = {"accept": CONTENT_TYPE, "accept-encoding": "identity", "content-type": CONTENT_TYPE}
        limits, direct = httpx.Limits(keepalive_expiry=_MAX_IDLE_S), self._url.host in LOOPBACK
        self._client = httpx.Client(headers=headers, limits=limits, trust_env=not direct)
        self._close = weakref.finalize(self, self._client.close)
        self._lock, self._process = threading.Lock(), os.getpid()

    def _reconnect_after_fork(self) -> None:
        """Connections of the parent process must not be shared: two processes would read each other's answers."""
        if self._process != os.getpid():
            self._connect()

    def __enter__(self) -> RemoteWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; also done when the object is garbage-collected."""
        self._close()

    def __repr__(self) -> str:
        return f"RemoteWorld({_without_password(self._url)!r})"

    def describe(self) -> Card:
        """The card of the remote world; read once, at the first call."""
        self._reconnect_after_fork()
        with self._lock:
            if self._card is None:
                self._card = self._ask(Card, "describe", {})
            return self._card

    def predict(
        self,
        history: History,
        actions: Arrays,
        *,
        exogenous: Arrays | None = None,
        level: float | None = None,
        num_samples: int = 0,
        images: bool = False,
    ) -> Prediction:
        """See `World`."""
        options = {"level": level, "num_samples": num_samples, "images": images}
        arguments = {"history": history, "actions": actions, "exogenous": exogenous, **options}
        return self._ask(Prediction, "predict", arguments)

    def score(
        self,
        history: History,
        actions: Arrays,
        goal: Goal,
        constraints: Sequence[Constraint] = (),
        *,
        exogenous: Arrays | None = None,
        clip: bool = False,
    ) -> Scores:
        """See `World`.

        Raises:
            UnsupportedError: also if a cost or constraint cannot be sent.
        """
        arguments = {"history": history, "actions": actions, "goal": goal, "constraints": constraints}
        return self._ask(Scores, "score", {**arguments, "exogenous": exogenous, "clip": clip})

    def answer_plan(self, history: History, request: PlanRequest) -> Plan:
        """See `World`. `budget_s` limits the search; `Plan.elapsed_s` includes the transfer.

        Raises:
            UnsupportedError: also if a cost or constraint cannot be sent.
        """
        started_s = time.monotonic()
        arguments = {"history": history, "request": request}
        found = self._ask(Plan, "plan", arguments, extra_s=request.budget_s or 0.0)
        return replace(found, elapsed_s=time.monotonic() - started_s)

    def what_if(self, episode: Episode, at: int, actions: Arrays) -> WhatIf:
        """See `World`."""
        return self._ask(WhatIf, "what_if", {"episode": episode, "at": at, "actions": actions})

    def surprise(self, episode: Episode) -> Surprise:
        """See `World`."""
        return self._ask(Surprise, "surprise", {"episode": episode})

    def _ask(self, kind: type[Answer], verb: str, arguments: Mapping[str, Any], *, extra_s: float = 0.0) -> Answer:
        """Sends a call and returns its answer of type `kind`; `extra_s` is added to the timeout."""
        self._reconnect_after_fork()
        url = self._url.copy_with(path=f"{self._url.path.rstrip('/')}/v1/{verb}")
        wait_s = min(self._timeout_s + extra_s, _MAX_WAIT_S) if extra_s > 0 else self._timeout_s
        body = self._post(url, encode_call(Call(verb, arguments)), wait_s)
        try:
            found = decode_answer(kind, body)
        except InputError as error:
            raise UnavailableError(f"{_without_password(url)} returned an invalid answer: {error}") from error
        if isinstance(found, WorldlineError):
            raise found
        return found

    def _post(self, url: httpx.URL, message: bytes, wait_s: float) -> bytes:
        """The body of an answer with the expected content type."""
        address, body = _without_password(url), bytearray()
        try:
            with self._client.stream("POST", url, content=message, timeout=wait_s) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != CONTENT_TYPE:
                    raise UnavailableError(
                        f"{address} answered with status {response.status_code}: expected {CONTENT_TYPE}, got "
                        f"{kind or 'no content type'}. Check that `worldline serve` is behind this URL."
                    )
                for piece in response.iter_raw():
                    body += piece
                    if len(body) > self._limit_bytes:
                        raise UnavailableError(
                            f"{address} answered more than {self._limit_bytes} bytes. Use fewer worlds, plans or "
                            "steps per call, or raise limit_bytes."
                        )
        except httpx.TimeoutException as error:
            raise UnavailableError(
                f"{address} did not answer within {wait_s:g} s ({type(error).__name__}). Raise timeout_s, or pass "
                "budget_s to plan."
            ) from error
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"{address} cannot be reached: {type(error).__name__} ({error}). Check that `worldline serve` runs."
            ) from error
        return bytes(body)


def _without_password(url: httpx.URL) -> str:
    """The URL for messages, without a password."""
    return str(url.copy_with(userinfo=b""))
