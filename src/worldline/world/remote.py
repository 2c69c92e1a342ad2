"""A world in another process, over HTTP."""

from __future__ import annotations

import os
import threading
import weakref
from time import sleep
from typing import Any, final

from worldline.engines.base import Card
from worldline.errors import InputError
from worldline.planning.calls import Call
from worldline.world.base import World
from worldline.world.remote_messages import (
    Answer,
    Outcome,
    RemoteClient,
    RemoteReply,
    RemoteRequest,
    Steps,
    httpx,
)
from worldline.world.remote_session import RemoteSession


@final
class RemoteWorld(RemoteClient, World):
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
        token: of the service; None for the environment variable `WORLDLINE_TOKEN`, "" for none. It is sent over https,
            or to this machine.
        timeout_s: seconds to wait for the connection and for each part of the answer, above 0. `plan` adds `budget_s`.
        limit_bytes: largest accepted answer, in bytes.
        retries: largest number of repetitions of a call, at least 0.
        insecure: whether to send the token over plain http to other machines, where others may read it.

    Raises:
        InputError: `url` is not the URL of a server, an argument is out of range, or the token would be sent
            unencrypted.
    """

    def _connect(self) -> None:
        """A client and a lock of this process."""
        self._client = httpx.Client(**self._calls.client_options())
        self._close = weakref.finalize(self, self._client.close)
        self._lock, self._process = threading.Lock(), os.getpid()

    def _reconnect_after_fork(self) -> None:
        """Connections of the parent process must not be shared: two processes would read each other's answers."""
        if self._process != os.getpid():
            self._connect()

    def __enter__(self) -> RemoteWorld:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; also done when the object is garbage-collected."""
        self._close()

    def describe(self) -> Card:
        """The card of the remote world; read once, at the first call."""
        self._reconnect_after_fork()
        with self._lock:
            if self._card is None:
                self._card = self._run(self._calls.describe())
            return self._card

    def answer(self, call: Call) -> Any:
        """See `World`. `budget_s` limits the search of a plan; `Plan.elapsed_s` includes the transfer."""
        return self._run(self._calls.answer(call))

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
        settings = {"num_kept": num_kept, "level": level, "horizon": horizon, "rate": rate, "patience": patience}
        view = self._run(self._calls.open_session(settings))
        return RemoteSession(self._calls, view, self._run)

    def _run(self, steps: Steps[Answer]) -> Answer:
        """Sends the requests of a call."""
        self._reconnect_after_fork()
        try:
            request = next(steps)
            while True:
                sleep(request.delay_s)
                request = steps.send(self._send(request))
        except StopIteration as done:
            found: Answer = done.value
            return found

    def _send(self, request: RemoteRequest) -> Outcome:
        if self._client.is_closed:
            raise InputError(f"{self!r} is closed. Open the world again.")
        try:
            with self._client.stream(
                request.method,
                request.url,
                content=request.content,
                headers=request.headers,
                timeout=request.wait_s,
            ) as response:
                reply = RemoteReply(response, self._calls.limit_bytes)
                for piece in response.iter_raw():
                    reply.add(piece)
            return reply
        except httpx.HTTPError as error:
            return error
