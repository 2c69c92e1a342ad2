"""A world in another process, over HTTP."""

from __future__ import annotations

import os
import weakref
from time import sleep
from typing import Any, final

from worldline.engines.base import Card
from worldline.errors import InputError
from worldline.world.base import World
from worldline.world.remote_messages import (
    Outcome,
    RemoteClient,
    RemoteReply,
    RemoteRequest,
    Steps,
    httpx,
)
from worldline.world.remote_session import RemoteSession
from worldline.world.session import SessionView


@final
class RemoteWorld(RemoteClient[Card, RemoteSession], World):
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
        """A client of this process."""
        self._client = httpx.Client(**self._client_options())
        self._close = weakref.finalize(self, self._client.close)
        self._process = os.getpid()

    def __enter__(self) -> RemoteWorld:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; also done when the object is garbage-collected."""
        self._close()

    def _session(self, view: SessionView) -> RemoteSession:
        return RemoteSession(self, view)

    def run(self, steps: Steps[Any]) -> Any:
        """See `RemoteClient`."""
        if self._process != os.getpid():  # two processes that share connections would read each other's answers
            self._connect()
        try:
            request = next(steps)
            while True:
                sleep(request.delay_s)
                request = steps.send(self._send(request))
        except StopIteration as done:
            return done.value

    def _send(self, request: RemoteRequest) -> Outcome:
        if self._client.is_closed:
            raise InputError(f"{self!r} is closed. Open the world again.")
        try:
            with self._client.stream(**request.options) as response:
                reply = RemoteReply(response, self._limit_bytes)
                for piece in response.iter_raw():
                    reply.add(piece)
            return reply
        except httpx.HTTPError as error:
            return error
