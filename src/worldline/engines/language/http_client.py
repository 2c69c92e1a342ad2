"""Requests to a chat endpoint: the only module of the language engine that imports the openai client."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from worldline.engines.language.endpoint import Endpoint
from worldline.errors import MissingExtraError

try:
    import httpx2
    from openai import APIConnectionError, APIStatusError, Omit, OpenAI
except ImportError as error:
    raise MissingExtraError("openai", "language") from error

_HEADERS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
"""The headers that are sent."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""Errors after which nothing was charged."""


@dataclass(frozen=True, kw_only=True)
class HttpReply:
    """The last reply to a request.

    Args:
        status: the HTTP status; None if no readable response came.
        text: the body, or why no response came.
    """

    status: int | None
    text: str

    @property
    def is_failure(self) -> bool:
        """Whether the same request may succeed later. The openai client repeats requests with these statuses."""
        return self.status is None or self.status in (408, 409, 429) or self.status >= 500


@final
class ChatConnection:
    """Posts to one endpoint. Thread-safe; repeats failures, keeps its connections open, follows no redirects.

    Args:
        endpoint: address, time limit and number of repetitions.
        num_connections: largest number at a time.
        before_attempt: called before anything is sent, repetitions included; its exceptions reach the caller.
        on_lost_reply: called for each attempt that the server may have charged although no readable response came.

    Raises:
        MissingExtraError: openai is not installed (on import of this module).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        num_connections: int,
        before_attempt: Callable[[], None],
        on_lost_reply: Callable[[], None],
    ) -> None:
        limits = httpx2.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
        http = _HttpClient(before_attempt, on_lost_reply, limits=limits, trust_env=not endpoint.is_loopback)
        self._client = OpenAI(
            base_url=endpoint.base_url,
            api_key="given with each request",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.num_retries,
            http_client=http,
        )
        weakref.finalize(self, http.close)

    def post(self, body: Mapping[str, Any], *, key: str | None) -> HttpReply:
        """The last reply to `body`.

        Args:
            body: plain JSON values.
            key: sent as a bearer token; None for none.
        """
        headers = {"Authorization": Omit() if key is None else f"Bearer {key}"}
        try:
            response = self._client.post(
                "/chat/completions", body=dict(body), cast_to=httpx2.Response, options={"headers": headers}
            )
        except APIStatusError as error:
            response = error.response
        except APIConnectionError as error:
            cause = error.__cause__ or error
            return HttpReply(status=None, text=f"{type(cause).__name__}: {str(cause) or 'no answer in time'}")
        return HttpReply(status=response.status_code, text=response.text)


class _HttpClient(httpx2.Client):
    """Reports each attempt, and leaves out headers that only OpenAI needs.

    The openai client would send headers that describe this machine, and those in its environment variables, such as
    `OPENAI_ORG_ID` and `OPENAI_CUSTOM_HEADERS`, to any endpoint.
    """

    def __init__(self, before_attempt: Callable[[], None], on_lost_reply: Callable[[], None], **settings: Any) -> None:
        super().__init__(**settings)
        self._before_attempt = before_attempt
        self._on_lost_reply = on_lost_reply

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        self._before_attempt()
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        try:
            return super().send(request, **options)
        except _NEVER_SENT:
            raise
        except httpx2.RequestError:
            self._on_lost_reply()
            raise
