"""A client for a chat endpoint that retries failures, repeats requests with invalid answers, and caches answers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, final

from pydantic import TypeAdapter, ValidationError

from worldline.engines.base import CallCost
from worldline.engines.language.endpoint import Endpoint, key_in, listed_variable
from worldline.engines.language.transcript import Exchange, Transcript, request_hash
from worldline.errors import ConfigError, NoGoodAnswerError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from worldline.engines.language.http_client import ChatConnection

Value = TypeVar("Value")
Request = Mapping[str, Any]

_NUM_MEASURED = 1000
"""Number of recent answers in the median latency."""

Tokens = tuple[int, int]
"""Charged input and output tokens."""


@dataclass(frozen=True)
class _ChatMessage:
    content: str | None = None  # a reasoning model may run out of tokens before it answers


@dataclass(frozen=True)
class _Choice:
    message: _ChatMessage


@dataclass(frozen=True)
class _Usage:
    prompt_tokens: int | None = None  # some servers use other names
    completion_tokens: int | None = None


@dataclass(frozen=True)
class _Completion:
    """The parts of a completion that are read."""

    choices: tuple[_Choice, ...]
    usage: _Usage | None = None

    @property
    def tokens(self) -> Tokens | None:
        """The charged tokens; None if the endpoint does not report both counts."""
        if self.usage is None or self.usage.prompt_tokens is None or self.usage.completion_tokens is None:
            return None
        return self.usage.prompt_tokens, self.usage.completion_tokens


_COMPLETION = TypeAdapter(_Completion)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Requests and charged tokens so far, including rejected answers.

    Args:
        num_requests: sent requests, including repetitions.
        input_tokens: charged.
        output_tokens: charged.
        num_untold: replies with unknown token counts: not reported, lost or unreadable. The sums leave them out.
        price: of the known tokens, in the endpoint's currency; 0 if tokens have no price.
    """

    num_requests: int
    input_tokens: int
    output_tokens: int
    num_untold: int
    price: float


@final
class Chat:
    """A chat endpoint that gives equal answers to equal requests. Thread-safe.

    Args:
        endpoint: address and settings.
        transcript: file of JSON lines in which answers are stored and looked up; None to keep them in memory only.
        replay_only: whether to send no requests and raise an error for answers that the transcript lacks.
        num_concurrent: largest number of parallel requests, at least 1.
        max_requests: limit on all requests, including repetitions; None for no limit.
        max_price: limit on the price of all tokens, in the endpoint's currency; None for no limit. No request is sent
            after it is reached, or after a reply with unknown token counts. Up to `num_concurrent` requests in progress
            may exceed it.
        listed_only: whether the user must have listed the endpoint; see `endpoint.py`.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        transcript: Path | str | None = None,
        replay_only: bool = False,
        num_concurrent: int = 8,
        max_requests: int | None = None,
        max_price: float | None = None,
        listed_only: bool = False,
    ) -> None:
        if num_concurrent < 1:
            raise ConfigError(f"num_concurrent is {num_concurrent}. Give at least 1.")
        if max_price is not None and not (max_price > 0 and endpoint.has_price):
            raise ConfigError(
                f"max_price is {max_price}, and tokens {'have prices' if endpoint.has_price else 'have no prices'}. "
                "Give a positive number, and the endpoint's prices."
            )
        self.endpoint = endpoint
        self.transcript = Transcript(transcript)
        self.replay_only = replay_only
        self.num_concurrent = num_concurrent
        self.max_requests = max_requests
        self.max_price = max_price
        self.listed_only = listed_only
        self._lock = Lock()
        self._asking: dict[str, Future[str]] = {}
        self._connection: ChatConnection | None = None
        self._takes_format = True
        self._num_requests, self._num_answers, self._num_untold = 0, 0, 0
        self._charged = [0, 0, 0]  # replies with token counts; tokens in; tokens out (rejected answers included)
        self._seconds: deque[float] = deque(maxlen=_NUM_MEASURED)

    @property
    def num_requests(self) -> int:
        """Requests sent so far, including repetitions."""
        return self._num_requests

    @property
    def spent(self) -> Spent:
        """Requests and charges so far."""
        with self._lock:
            return self._spent()

    def measured(self) -> CallCost | None:
        """Median latency and mean price of the answers that this object received; None if there are none.

        The latency covers the last thousand answers and includes the wait for a busy server.

        Raises:
            UnsupportedError: tokens have a price, but the endpoint does not report token counts.
        """
        with self._lock:
            if not self._seconds:
                return None
            latency_s, spent, num_told = median(self._seconds), self._spent(), self._charged[0]
        if not self.endpoint.has_price:
            return CallCost(latency_s=latency_s)
        if not num_told:
            raise UnsupportedError(
                f"{self.endpoint.title} does not report token counts, so the price is unknown. Set prices to 0."
            )
        # A reply with unknown token counts is assumed to cost as much as the others.
        replies_per_answer = (num_told + spent.num_untold) / self._num_answers
        price = spent.price / num_told * replies_per_answer
        return CallCost(latency_s=latency_s, price=price, currency=self.endpoint.currency)

    def request(self, messages: Sequence[tuple[str, str]], *, schema: Mapping[str, Any], seed: int) -> Request:
        """The body of a request.

        Args:
            messages: role and text of each message.
            schema: JSON schema of the answer.
            seed: determines the draw.
        """
        limit = {} if self.endpoint.max_tokens is None else {"max_tokens": self.endpoint.max_tokens}
        wanted = {"name": "answer", "strict": True, "schema": schema}
        return {
            "model": self.endpoint.model,
            "messages": [{"role": role, "content": text} for role, text in messages],
            "temperature": self.endpoint.temperature,
            **limit,
            "seed": seed,
            "response_format": {"type": "json_schema", "json_schema": wanted},
        }

    def answers(self, requests: Sequence[Request], read: Callable[[str], Value]) -> list[Value]:
        """The answer to each request. Equal requests are sent once, different ones in parallel.

        Args:
            requests: from `request`.
            read: parses a text, or raises `UnavailableError`, whose message the model receives.

        Raises:
            NoGoodAnswerError: no attempt gave a valid answer.
            UnavailableError: the endpoint did not answer, the transcript lacks the answer, or a limit is reached.
            BundleError: the endpoint comes from a bundle and is not listed.
            ConfigError: the key is missing.
        """
        keys = [request_hash(request) for request in requests]
        answers: dict[str, Value] = {}
        missing: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in answers or key in missing:
                continue
            text = self.transcript.get(key)
            if text is None:
                missing[key] = request
            else:
                answers[key] = read(text)
        if missing:
            with ThreadPoolExecutor(min(self.num_concurrent, len(missing))) as pool:
                pending = {key: pool.submit(self._answer, key, request, read) for key, request in missing.items()}
                try:
                    answers |= {key: read(answer.result()) for key, answer in pending.items()}
                finally:
                    pool.shutdown(cancel_futures=True)
        return [answers[key] for key in keys]

    def _answer(self, key: str, request: Request, read: Callable[[str], object]) -> str:
        """The text of an answer, shared with another thread that sends the same request."""
        with self._lock:
            other = self._asking.get(key)
            known = self.transcript.get(key) if other is None else None
            mine: Future[str] = Future()
            if other is None and known is None:
                self._asking[key] = mine
        if known is not None:
            return known
        if other is not None:
            return other.result()
        try:
            exchange = self._ask(key, request, read)
            self.transcript.add(exchange)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._asking[key]
        mine.set_result(exchange.answer)
        return exchange.answer

    def _ask(self, key: str, request: Request, read: Callable[[str], object]) -> Exchange:
        """Sends a request until an answer is valid."""
        if self.replay_only:
            raise UnavailableError(
                f"request {key[:12]} is not in the transcript {self.transcript.path}, and replay_only is set. Repeat "
                "the recorded requests exactly, or set replay_only to False."
            )
        began, current, text = time.perf_counter(), request, ""
        charged: list[Tokens | None] = []
        problem = UnavailableError("")
        for num_tries in range(1, self.endpoint.num_retries + 2):
            completion = self._complete(current)
            charged.append(completion.tokens)
            text = (completion.choices[0].message.content if completion.choices else None) or ""
            try:
                read(text)
            except UnavailableError as error:
                problem = error
                current = _again(request, text, str(error))
                continue
            seconds, (tokens_in, tokens_out) = time.perf_counter() - began, _total(charged)
            with self._lock:
                self._seconds.append(seconds)
                self._num_answers += 1
            return Exchange(
                hash=key,
                request=request,
                answer=text,
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                seconds=seconds,
                num_tries=num_tries,
            )
        raise NoGoodAnswerError(
            f"{self.endpoint.title} gave no good answer in {self.endpoint.num_retries + 1} tries. {problem} The last "
            f"answer was {text[:200]!r}. Use another model, or raise num_retries or max_tokens."
        ) from problem

    def _complete(self, request: Request) -> _Completion:
        """The endpoint's completion; repeated without `response_format` if the endpoint rejects that."""
        plain = {name: value for name, value in request.items() if name != "response_format"}
        body = request if self._takes_format else plain
        status, text = self._send(body)
        if status in (400, 422) and body is request:
            status, text = self._send(plain)
            self._takes_format = status != 200
        if status != 200:
            raise UnavailableError(f"{self.endpoint.title} refused the request with status {status}: {text[:300]}")
        try:
            completion = _COMPLETION.validate_json(text)
        except ValidationError as error:
            self._charge(None)
            raise UnavailableError(
                f"{self.endpoint.title} sent no chat completion: {text[:300]!r}. Check base_url."
            ) from error
        self._charge(completion.tokens)
        return completion

    def _charge(self, tokens: Tokens | None) -> None:
        """Adds the tokens of a reply to the totals."""
        with self._lock:
            if tokens is None:
                self._num_untold += 1
            else:
                self._charged = [had + more for had, more in zip(self._charged, (1, *tokens), strict=True)]

    def _send(self, request: Request) -> tuple[int, str]:
        """Status and body of the response; the key is read for every request."""
        variable = listed_variable(self.endpoint) if self.listed_only else self.endpoint.api_key_env
        return self._connected().post(request, key=None if variable is None else key_in(variable))

    def _count(self) -> None:
        """Counts a request before it is sent, unless a limit is reached."""
        who, currency = self.endpoint.title, self.endpoint.currency
        with self._lock:
            spent = self._spent()
            if self.max_requests is not None and spent.num_requests >= self.max_requests:
                raise UnavailableError(
                    f"max_requests is {self.max_requests}, and that many were sent to {who}. Raise it, or predict "
                    "less: each step of each sample of each version is one request."
                )
            if self.max_price is not None and spent.num_untold:
                raise UnavailableError(
                    f"max_price is {self.max_price:g} {currency}, and {spent.num_untold} replies of {who} came without "
                    "token counts or were lost, so the price so far is unknown. Start again from the transcript, or "
                    "set max_requests instead."
                )
            if self.max_price is not None and spent.price >= self.max_price:
                raise UnavailableError(
                    f"max_price is {self.max_price:g} {currency}, and {spent.price:.4g} {currency} were spent on "
                    f"{who}. Raise it, or predict less."
                )
            self._num_requests += 1

    def _spent(self) -> Spent:
        """The totals; the caller holds the lock."""
        _, tokens_in, tokens_out = self._charged
        return Spent(
            num_requests=self._num_requests,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            num_untold=self._num_untold,
            price=self.endpoint.price_of(tokens_in, tokens_out),
        )

    def _connected(self) -> ChatConnection:
        # Here, because the openai client is an optional dependency, and answers in a transcript do not need it.
        from worldline.engines.language.http_client import ChatConnection

        with self._lock:
            if self._connection is None:
                self._connection = ChatConnection(
                    self.endpoint,
                    num_connections=self.num_concurrent,
                    before_attempt=self._count,
                    on_lost_reply=partial(self._charge, None),
                )
            return self._connection


def _total(charged: Sequence[Tokens | None]) -> Tokens | tuple[None, None]:
    """The sums of the tokens of some replies; None if those of one are unknown."""
    known = [tokens for tokens in charged if tokens is not None]
    if len(known) < len(charged):
        return None, None
    return sum(tokens_in for tokens_in, _ in known), sum(tokens_out for _, tokens_out in known)


def _again(request: Request, text: str, problem: str) -> Request:
    """The request with the rejected answer and the reason."""
    answer = [{"role": "assistant", "content": text}] if text else []
    correction = {
        "role": "user",
        "content": f"That answer cannot be used. {problem} Answer again, with the JSON object only.",
    }
    return {**request, "messages": [*request["messages"], *answer, correction]}
