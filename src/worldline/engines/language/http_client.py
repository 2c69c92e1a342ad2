"""Requests to a chat endpoint: the only module of the language engine that imports the openai client."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, final

from worldline.engines.language.endpoint import Endpoint
from worldline.errors import MissingExtraError, UnavailableError

try:
    import httpx2
    from openai import APIConnectionError, APIStatusError, Omit, OpenAI
    from openai.types.chat import ChatCompletion
except ImportError as error:
    raise MissingExtraError("openai", "language") from error

_HEADERS = {"accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "host"}
"""The headers that are sent."""

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
"""Errors after which nothing was charged."""

Tokens = tuple[int, int]
"""Charged input and output tokens."""


@final
class ChatConnection:
    """Sends requests to one endpoint. Thread-safe; repeats failures, keeps connections open, follows no redirects.

    Args:
        endpoint: address, time limit and number of repetitions.
        num_connections: largest number at a time.
        before_attempt: called before anything is sent, repetitions included; its exceptions reach the caller.
        on_reply: called with the charged tokens of each reply; None if they are unknown or the reply was lost.

    Raises:
        MissingExtraError: openai is not installed (on import of this module).
    """

    def __init__(
        self,
        endpoint: Endpoint,
        num_connections: int,
        before_attempt: Callable[[], None],
        on_reply: Callable[[Tokens | None], None],
    ) -> None:
        limits = httpx2.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
        http = _HttpClient(before_attempt, on_reply, limits=limits, trust_env=not endpoint.is_loopback)
        self._endpoint, self._on_reply, self._takes_format = endpoint, on_reply, True
        self._client = OpenAI(
            base_url=endpoint.base_url,
            api_key="given with each request",
            timeout=endpoint.timeout_s,
            max_retries=endpoint.num_retries,
            http_client=http,
        )
        weakref.finalize(self, http.close)

    def complete(self, request: Mapping[str, Any], *, key: str | None) -> tuple[str, Tokens | None]:
        """The text of the answer, empty if there is none, and the charged tokens, None if they are unknown.

        The request is repeated without `response_format` if the endpoint rejects that.

        Args:
            request: the body, plain JSON values.
            key: sent as a bearer token, and masked in the answer and in errors; None for none.

        Raises:
            UnavailableError: the server refused the request, was busy or did not answer, or sent something else.
        """
        plain = {name: value for name, value in request.items() if name != "response_format"}
        try:
            try:
                completion = self._post(dict(request) if self._takes_format else plain, key)
            except APIStatusError as error:
                if error.status_code not in (400, 422) or not self._takes_format:
                    raise
                completion = self._post(plain, key)
                self._takes_format = False
        except (APIStatusError, APIConnectionError) as error:
            raise UnavailableError(_masked(key, self._reason(error))) from error
        usage = getattr(completion, "usage", None)
        charged = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        tokens: Any = charged if all(isinstance(count, int) for count in charged) else None
        self._on_reply(tokens)
        if not isinstance(completion, ChatCompletion):
            problem = f"{self._endpoint.title} sent no chat completion: {str(completion)[:300]!r}. Check base_url."
            raise UnavailableError(_masked(key, problem))
        # The client does not validate replies, and a reasoning model may run out of tokens before it answers.
        choices: Any = getattr(completion, "choices", None) or [None]
        content = getattr(getattr(choices[0], "message", None), "content", None)
        return _masked(key, content if isinstance(content, str) else ""), tokens

    def _post(self, body: dict[str, Any], key: str | None) -> Any:
        """The parsed reply; a text if it is no JSON."""
        headers = {"Authorization": Omit() if key is None else f"Bearer {key}"}
        return self._client.post("/chat/completions", body=body, cast_to=ChatCompletion, options={"headers": headers})

    def _reason(self, error: APIStatusError | APIConnectionError) -> str:
        """What failed, with the reply of the server."""
        who = f"{self._endpoint.title} gave no answer in at most {self._endpoint.num_retries + 1} tries"
        if isinstance(error, APIConnectionError):
            cause = error.__cause__ or error
            return f"{who}: {type(cause).__name__} ({cause})."
        return f"{who}: status {error.status_code}, {str(error.body)[:300]}"


class _HttpClient(httpx2.Client):
    """Reports each attempt, and leaves out headers that only OpenAI needs.

    The openai client would send headers that describe this machine, and those in its environment variables, such as
    `OPENAI_ORG_ID` and `OPENAI_CUSTOM_HEADERS`, to any endpoint.
    """

    def __init__(
        self, before_attempt: Callable[[], None], on_reply: Callable[[Tokens | None], None], **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._before_attempt, self._on_reply = before_attempt, on_reply

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        self._before_attempt()
        for name in set(request.headers) - _HEADERS:
            del request.headers[name]
        try:
            return super().send(request, **options)
        except _NEVER_SENT:
            raise
        except httpx2.RequestError:
            self._on_reply(None)
            raise


def _masked(key: str | None, text: str) -> str:
    """`text` without the key, which a server may repeat; keys below 8 characters are not masked."""
    return text if key is None or len(key) < 8 else text.replace(key, "***")
