"""Requests to a chat endpoint: the only module of the language engine that imports the openai client."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any, final

from worldline.engines.language.endpoint import Endpoint
from worldline.errors import MissingExtraError, UnavailableError

try:
    import httpx2
    from openai import APIConnectionError, APIStatusError, Omit, OpenAI
except ImportError as error:
    raise MissingExtraError("openai", "language") from error

_HEADERS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
"""The headers that are sent."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""Errors after which nothing was charged."""


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
        self._endpoint = endpoint
        self._client = OpenAI(
            base_url=endpoint.base_url,
            api_key="given with each request",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.num_retries,
            http_client=http,
        )
        weakref.finalize(self, http.close)

    def post(self, body: Mapping[str, Any], *, key: str | None) -> tuple[int, str]:
        """Status and body of the response, with the key masked.

        Args:
            body: plain JSON values.
            key: sent as a bearer token; None for none.

        Raises:
            UnavailableError: the server was busy, failed or did not answer, in every attempt.
        """
        failed = f"{self._endpoint.title} did not answer within {self._endpoint.num_retries + 1} tries."
        headers = {"Authorization": Omit() if key is None else f"Bearer {key}"}
        try:
            response = self._client.post(
                "/chat/completions", body=dict(body), cast_to=httpx2.Response, options={"headers": headers}
            )
        except APIStatusError as error:
            response = error.response
        except APIConnectionError as error:
            cause = error.__cause__ or error
            reason = f"{type(cause).__name__}: {_without(key, str(cause)) or 'no answer in time'}"
            raise UnavailableError(f"{failed} {reason}") from error
        status, text = response.status_code, _without(key, response.text)
        if status in (408, 409, 429) or status >= 500:  # those that the openai client repeats
            raise UnavailableError(f"{failed} status {status}: {text[:300]}")
        return status, text


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


def _without(key: str | None, text: str) -> str:
    """`text` with the key masked, in case the server repeats it; keys below 8 characters are not masked.

    JSON, and JSON within JSON, may escape any letter, so escaped forms of the key are masked too.
    """
    if key is None or len(key) < 8:
        return text
    letters = (rf"(?:\\{{0,4}}{re.escape(letter)}|\\{{1,4}}u(?i:{ord(letter):04x}))" for letter in key)
    return re.sub("".join(letters), "***", text)
