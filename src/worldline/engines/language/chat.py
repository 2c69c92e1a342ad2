"""Asks a chat endpoint: repeats what failed, asks again where an answer is no good, keeps every answer."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any, TypeVar, final

from pydantic import TypeAdapter, ValidationError

from worldline.engines.base import CallCost
from worldline.engines.language.endpoint import Endpoint, key_in, listed_variable
from worldline.engines.language.http_client import Poster
from worldline.engines.language.transcript import Exchange, Transcript, request_hash
from worldline.errors import ConfigError, NoGoodAnswerError, UnavailableError, UnsupportedError

Value = TypeVar("Value")
Request = Mapping[str, Any]

LONGEST_WAIT_S = 60.0
"""Before a request is repeated, whatever the server asks for."""

_BUSY = {408, 425, 429, *range(500, 600)}
"""Statuses after which the same request may well succeed."""

_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
"""Errors of httpx after which nothing can have been charged; it may not be there to be imported."""

_NUM_MEASURED = 1000
"""The last answers whose seconds count."""

Tokens = tuple[int, int]
"""That were charged, in and out."""


@dataclass(frozen=True)
class _Message:
    content: str | None = None  # a model that thinks may run out of tokens before it says anything


@dataclass(frozen=True)
class _Choice:
    message: _Message


@dataclass(frozen=True)
class _Usage:
    prompt_tokens: int | None = None  # some servers tell tokens by other names
    completion_tokens: int | None = None


@dataclass(frozen=True)
class _Completion:
    """What is read of the body of a completion."""

    choices: tuple[_Choice, ...]
    usage: _Usage | None = None

    @property
    def tokens(self) -> Tokens | None:
        """None where the endpoint does not tell both."""
        if self.usage is None or self.usage.prompt_tokens is None or self.usage.completion_tokens is None:
            return None
        return self.usage.prompt_tokens, self.usage.completion_tokens


_COMPLETION = TypeAdapter(_Completion)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What was sent so far, and what the endpoint said that it took, refused answers too.

    Args:
        num_requests: sent, repeated ones too.
        input_tokens: charged.
        output_tokens: likewise.
        num_untold: replies whose tokens are not known, as the endpoint did not tell them or the reply was lost on its
            way or could not be read; they are in neither sum.
        price: of the tokens that are known, in the endpoint's currency; 0 where they have none.
    """

    num_requests: int
    input_tokens: int
    output_tokens: int
    num_untold: int
    price: float


@final
class Chat:
    """A chat endpoint that gives the same answer to the same question. Thread-safe.

    Args:
        endpoint: what is asked.
        transcript: a file of JSON lines that answers are kept in and taken from; None to keep them in memory alone.
        replay_only: whether nothing is asked at all: what the transcript lacks is refused.
        num_concurrent: requests at a time, at least 1.
        max_requests: that are sent in all, repeated ones too; None for no limit.
        max_price: that tokens may cost in all, in the endpoint's currency; None for no limit. Nothing more is sent once
            it is reached, or the tokens of a reply are not known; the up to `num_concurrent` requests that are under
            way then are paid for as well.
        num_remembered: answers kept in memory. Without a transcript those beyond it are asked for again.
        listed_only: whether the endpoint is asked only where the user listed it; see `endpoint.py`.
        wait: sleeps for so many seconds.

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
        num_remembered: int = 65_536,
        listed_only: bool = False,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        if num_concurrent < 1 or num_remembered < 1 or (max_requests is not None and max_requests < 0):
            raise ConfigError(
                f"num_concurrent {num_concurrent} and num_remembered {num_remembered} must be at least 1, max_requests "
                f"{max_requests} at least 0."
            )
        if max_price is not None and not (max_price > 0 and endpoint.has_price):
            raise ConfigError(
                f"max_price is {max_price}, and tokens {'have prices' if endpoint.has_price else 'have none'}. Give a "
                "positive number, and the endpoint's prices."
            )
        self.endpoint = endpoint
        self.transcript = Transcript(transcript, num_remembered=num_remembered)
        self.replay_only = replay_only
        self.num_concurrent = num_concurrent
        self.max_requests = max_requests
        self.max_price = max_price
        self.listed_only = listed_only
        self._wait = wait
        self._lock = Lock()
        self._asking: dict[str, Future[str]] = {}
        self._poster: Poster | None = None
        self._takes_format = True
        self._num_requests = 0
        self._seconds: deque[float] = deque(maxlen=_NUM_MEASURED)
        self._tokens = [0, 0, 0]  # answers that tell theirs; tokens in; tokens out
        self._charged = [0, 0, 0]  # replies, refused ones too, whose tokens are not known; tokens in; tokens out

    @property
    def num_requests(self) -> int:
        """Requests that were sent so far, repeated ones too."""
        return self._num_requests

    @property
    def spent(self) -> Spent:
        """What was sent and charged so far."""
        with self._lock:
            return self._spent()

    def measured(self) -> CallCost | None:
        """What an answer took and cost, over those that the endpoint gave to this object; None where it gave none.

        The latency is the median of the last thousand, waiting for a busy server included; the price is the mean.

        Raises:
            UnsupportedError: tokens have a price, and the endpoint does not tell how many it charges for.
        """
        with self._lock:
            seconds, (num, tokens_in, tokens_out) = list(self._seconds), self._tokens
        if not seconds:
            return None
        if not self.endpoint.has_price:
            return CallCost(latency_s=median(seconds))
        if not num:
            raise UnsupportedError(f"{self._who} does not tell its tokens, so the price is not known. Set no prices.")
        price = self.endpoint.price_of(tokens_in, tokens_out) / num
        return CallCost(latency_s=median(seconds), price=price, currency=self.endpoint.currency)

    def request(self, messages: Sequence[tuple[str, str]], *, schema: Mapping[str, Any], seed: int) -> Request:
        """The body of a request.

        Args:
            messages: role and text of each.
            schema: JSON schema of the answer.
            seed: of the draw.
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
        """The answer to each request; equal ones are asked once, others at the same time.

        Args:
            requests: from `request`.
            read: makes of a text what is wanted, or raises UnavailableError, which the model is told.

        Raises:
            NoGoodAnswerError: an answer was no good in any try.
            UnavailableError: an answer did not come, is not in the transcript, or is beyond the limit.
            BundleError: the endpoint comes from a bundle and is not listed.
            ConfigError: the key is not there.
        """
        keys = [request_hash(request) for request in requests]
        found: dict[str, Value] = {}
        lacking: dict[str, Request] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in found or key in lacking:
                continue
            text = self.transcript.get(key)
            if text is None:
                lacking[key] = request
            else:
                found[key] = read(text)
        if lacking:
            with ThreadPoolExecutor(min(self.num_concurrent, len(lacking))) as pool:
                coming = {key: pool.submit(self._answer, key, request, read) for key, request in lacking.items()}
                try:
                    found |= {key: read(one.result()) for key, one in coming.items()}
                finally:
                    pool.shutdown(cancel_futures=True)
        return [found[key] for key in keys]

    @property
    def _who(self) -> str:
        return f"{self.endpoint.model!r} at {self.endpoint.origin}"

    def _answer(self, key: str, request: Request, read: Callable[[str], object]) -> str:
        """The text of an answer, from another thread that asks the same already if there is one."""
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
        """Asks until an answer is good."""
        if self.replay_only:
            raise UnavailableError(
                f"request {key[:12]} is not in the transcript {self.transcript.path}, and only what is there is "
                "replayed. Ask what was asked when it was written, or set replay_only to False."
            )
        began, asked, text = time.perf_counter(), request, ""
        charged: list[Tokens | None] = []
        problem = UnavailableError("")
        for _ in range(self.endpoint.num_retries + 1):
            completion = self._complete(asked)
            charged.append(completion.tokens)
            text = (completion.choices[0].message.content if completion.choices else None) or ""
            try:
                read(text)
            except UnavailableError as error:
                problem = error
                asked = _again(request, text, str(error))
                continue
            return self._measure(key, request, text, charged, time.perf_counter() - began)
        raise NoGoodAnswerError(
            f"{self._who} gave no good answer in {self.endpoint.num_retries + 1} tries. {problem} It said "
            f"{text[:200]!r}. Take another model, or raise num_retries or max_tokens."
        ) from problem

    def _measure(
        self, key: str, request: Request, text: str, charged: Sequence[Tokens | None], seconds: float
    ) -> Exchange:
        told = [tokens for tokens in charged if tokens is not None]
        known = len(told) == len(charged)
        tokens = sum(tokens_in for tokens_in, _ in told), sum(tokens_out for _, tokens_out in told)
        with self._lock:
            self._seconds.append(seconds)
            if known:
                self._tokens = [had + more for had, more in zip(self._tokens, (1, *tokens), strict=True)]
        return Exchange(
            hash=key,
            request=request,
            answer=text,
            input_tokens=tokens[0] if known else None,
            output_tokens=tokens[1] if known else None,
            seconds=seconds,
            num_tries=len(charged),
        )

    def _complete(self, request: Request) -> _Completion:
        """What the endpoint makes of a request; without a `response_format` where it takes none."""
        plain = {name: value for name, value in request.items() if name != "response_format"}
        asked = request if self._takes_format else plain
        status, text = self._send(asked)
        if status in (400, 422) and asked is request:
            status, text = self._send(plain)
            self._takes_format = status != 200
        if status != 200:
            raise UnavailableError(f"{self._who} refused the request with status {status}: {text[:300]}")
        try:
            completion = _COMPLETION.validate_json(text)
        except ValidationError as error:
            self._charge(None)
            raise UnavailableError(f"{self._who} sent no chat completion: {text[:300]!r}. Check base_url.") from error
        self._charge(completion.tokens)
        return completion

    def _charge(self, tokens: Tokens | None) -> None:
        """Counts what a reply cost."""
        charged = (1, 0, 0) if tokens is None else (0, *tokens)
        with self._lock:
            self._charged = [had + more for had, more in zip(self._charged, charged, strict=True)]

    def _send(self, request: Request) -> tuple[int, str]:
        """Status and body of the response, the key blotted out; repeated while the server is busy or not there."""
        poster, problem = self._connected(), ""
        for attempt in range(self.endpoint.num_retries + 1):
            variable = listed_variable(self.endpoint) if self.listed_only else self.endpoint.api_key_env
            key = None if variable is None else key_in(variable)
            self._count()
            pause = min(2.0**attempt, LONGEST_WAIT_S)
            try:
                response = poster.post(request, key=key)
            except UnavailableError as error:
                problem = str(error)
                if type(error.__cause__).__name__ not in _NEVER_SENT:
                    self._charge(None)  # the server may have answered, and nobody heard it
            else:
                text = _without(key, response.text)
                if response.status not in _BUSY:
                    return response.status, text
                problem = f"status {response.status}: {text[:300]}"
                pause = min(max(pause, response.retry_after_s or 0.0), LONGEST_WAIT_S)
            if attempt < self.endpoint.num_retries:
                self._wait(pause)
        raise UnavailableError(f"{self._who} did not answer in {self.endpoint.num_retries + 1} tries. {problem}")

    def _count(self) -> None:
        """Counts a request before it is sent."""
        with self._lock:
            if self.max_requests is not None and self._num_requests >= self.max_requests:
                raise UnavailableError(
                    f"max_requests is {self.max_requests}, and so many were sent to {self._who}. Raise it, or ask "
                    "less: each step of each sample of each version is a request."
                )
            if self.max_price is not None:
                self._check_price(self.max_price)
            self._num_requests += 1

    def _check_price(self, most: float) -> None:
        spent, currency = self._spent(), self.endpoint.currency
        if spent.num_untold:
            raise UnavailableError(
                f"max_price is {most:g} {currency}, and {spent.num_untold} replies of {self._who} came without their "
                "tokens or were lost, so what was spent is not known. Begin again from the transcript, or set "
                "max_requests in its place."
            )
        if spent.price >= most:
            raise UnavailableError(
                f"max_price is {most:g} {currency}, and {spent.price:.4g} {currency} were spent on {self._who}. Raise "
                "it, or ask less."
            )

    def _spent(self) -> Spent:
        """Within the lock."""
        num_untold, tokens_in, tokens_out = self._charged
        return Spent(
            num_requests=self._num_requests,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            num_untold=num_untold,
            price=self.endpoint.price_of(tokens_in, tokens_out),
        )

    def _connected(self) -> Poster:
        with self._lock:
            if self._poster is None:
                self._poster = Poster(
                    self.endpoint.url,
                    timeout_s=self.endpoint.timeout_s,
                    num_connections=self.num_concurrent,
                    direct=self.endpoint.is_loopback,
                )
            return self._poster


def _without(key: str | None, text: str) -> str:
    """`text` with the key blotted out, should a server repeat it; a word too short for a secret stays.

    Escaped too, as JSON may have any letter, and JSON within JSON: no key is left when the text is decoded.
    """
    if key is None or len(key) < 8:
        return text
    letters = (rf"(?:\\{{0,4}}{re.escape(one)}|\\{{1,4}}u(?i:{ord(one):04x}))" for one in key)
    return re.sub("".join(letters), "***", text)


def _again(request: Request, text: str, problem: str) -> Request:
    """The request with the answer that was refused, and why."""
    said = [{"role": "assistant", "content": text}] if text else []
    wrong = {
        "role": "user",
        "content": f"That answer cannot be used. {problem} Answer again, with the JSON object only.",
    }
    return {**request, "messages": [*request["messages"], *said, wrong]}
