"""A client for a chat endpoint that repeats requests with invalid answers, caches answers, and limits the cost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, final

from worldline.engines.base import CallCost
from worldline.engines.language.endpoint import Endpoint, key_in, listed_variable
from worldline.engines.language.transcript import Exchange, Transcript, request_hash
from worldline.errors import ConfigError, NoGoodAnswerError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from worldline.engines.language.http_client import ChatConnection, Tokens

Value = TypeVar("Value")
Request = Mapping[str, Any]

_NUM_MEASURED = 1000
"""Number of recent answers in the median latency."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Requests and charged tokens so far, including rejected answers.

    Args:
        num_requests: sent requests, including repetitions.
        input_tokens: charged.
        output_tokens: charged.
        num_uncounted: replies with unknown token counts: not reported, lost or unreadable. The sums leave them out.
        price: of the known tokens, in the endpoint's currency; 0 if tokens have no price.
    """

    num_requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    num_uncounted: int = 0
    price: float = 0.0


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
        self.endpoint, self.transcript = endpoint, Transcript(transcript)
        self.replay_only, self.listed_only, self.num_concurrent = replay_only, listed_only, num_concurrent
        self.max_requests, self.max_price = max_requests, max_price
        self.spent = Spent()
        self._lock = Lock()
        self._connection: ChatConnection | None = None
        self._num_answers, self._num_counted = 0, 0
        self._seconds: deque[float] = deque(maxlen=_NUM_MEASURED)

    def measured(self) -> CallCost | None:
        """Median latency and mean price of the answers that this object received; None if there are none.

        The latency covers the last thousand answers and includes the wait for a busy server.

        Raises:
            UnsupportedError: tokens have a price, but the endpoint does not report token counts.
        """
        with self._lock:
            latency_s, spent = median(self._seconds) if self._seconds else 0.0, self.spent
            num_answers, num_counted = self._num_answers, self._num_counted
        if not num_answers:
            return None
        if not self.endpoint.has_price:
            return CallCost(latency_s=latency_s)
        if not num_counted:
            raise UnsupportedError(
                f"{self.endpoint.title} does not report token counts, so the price is unknown. Set prices to 0."
            )
        # A reply with unknown token counts is assumed to cost as much as the others.
        price = spent.price / num_counted * (num_counted + spent.num_uncounted) / num_answers
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
        texts = {key: self.transcript.get(key) or "" for key in keys}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if not texts[key]}
        if missing:
            with ThreadPoolExecutor(min(self.num_concurrent, len(missing))) as pool:
                pending = {key: pool.submit(self._answer, key, request, read) for key, request in missing.items()}
                try:
                    texts |= {key: answer.result() for key, answer in pending.items()}
                finally:
                    pool.shutdown(cancel_futures=True)
        values = {key: read(text) for key, text in texts.items()}
        return [values[key] for key in keys]

    def _answer(self, key: str, request: Request, read: Callable[[str], object]) -> str:
        """The text of an answer. If two threads send the same request, the first answer counts for both."""
        if (text := self.transcript.get(key)) is None:
            text = self.transcript.add(self._ask(key, request, read))
        return text

    def _ask(self, key: str, request: Request, read: Callable[[str], object]) -> Exchange:
        """Sends a request until an answer is valid."""
        if self.replay_only:
            raise UnavailableError(
                f"request {key[:12]} is not in the transcript {self.transcript.path}, and replay_only is set. Repeat "
                "the recorded requests exactly, or set replay_only to False."
            )
        began, current, charged = time.perf_counter(), request, list["Tokens | None"]()
        problem, text = UnavailableError(""), ""
        while len(charged) <= self.endpoint.num_retries:
            variable = listed_variable(self.endpoint) if self.listed_only else self.endpoint.api_key_env
            text, tokens = self._connected().complete(current, key=None if variable is None else key_in(variable))
            charged.append(tokens)
            try:
                read(text)
            except UnavailableError as error:
                problem, current = error, _again(request, text, str(error))
                continue
            return self._exchange(key, request, text, charged, time.perf_counter() - began)
        raise NoGoodAnswerError(
            f"{self.endpoint.title} gave no good answer in {self.endpoint.num_retries + 1} tries. {problem} The last "
            f"answer was {text[:200]!r}. Use another model, or raise num_retries or max_tokens."
        ) from problem

    def _exchange(
        self, key: str, request: Request, answer: str, charged: Sequence[Tokens | None], seconds: float
    ) -> Exchange:
        """An accepted answer, which counts for `measured`."""
        with self._lock:
            self._seconds.append(seconds)
            self._num_answers += 1
        counted = [tokens for tokens in charged if tokens is not None]
        sums = [sum(counts) for counts in zip(*counted, strict=True)] if len(counted) == len(charged) else [None, None]
        return Exchange(
            hash=key,
            request=request,
            answer=answer,
            input_tokens=sums[0],
            output_tokens=sums[1],
            seconds=seconds,
            num_tries=len(charged),
        )

    def _charge(self, tokens: Tokens | None) -> None:
        """Adds the tokens of a reply to the totals."""
        with self._lock:
            if tokens is None:
                self.spent = replace(self.spent, num_uncounted=self.spent.num_uncounted + 1)
                return
            self._num_counted += 1
            total = self.spent.input_tokens + tokens[0], self.spent.output_tokens + tokens[1]
            price = self.endpoint.price_of(*total)
            self.spent = replace(self.spent, input_tokens=total[0], output_tokens=total[1], price=price)

    def _count(self) -> None:
        """Counts a request before it is sent, unless a limit is reached."""
        limit = None if self.max_price is None else f"max_price is {self.max_price:g} {self.endpoint.currency}"
        with self._lock:
            spent, problem = self.spent, ""
            if self.max_requests is not None and spent.num_requests >= self.max_requests:
                problem = f"max_requests is {self.max_requests}, and that many were sent"
            elif limit and spent.num_uncounted:
                problem = f"{limit}, and {spent.num_uncounted} replies came without token counts or were lost"
            elif self.max_price is not None and spent.price >= self.max_price:
                problem = f"{limit}, and {spent.price:.4g} {self.endpoint.currency} were spent"
            if problem:
                raise UnavailableError(
                    f"{problem} ({self.endpoint.title}). Raise the limit, start again from the transcript, or predict "
                    "less: each step of each sample of each version is one request."
                )
            self.spent = replace(spent, num_requests=spent.num_requests + 1)

    def _connected(self) -> ChatConnection:
        # Here, because the openai client is an optional dependency, and answers in a transcript do not need it.
        from worldline.engines.language.http_client import ChatConnection

        with self._lock:
            if self._connection is None:
                self._connection = ChatConnection(self.endpoint, self.num_concurrent, self._count, self._charge)
            return self._connection


def _again(request: Request, text: str, problem: str) -> Request:
    """The request with the rejected answer and the reason."""
    answer = [{"role": "assistant", "content": text}] if text else []
    content = f"That answer cannot be used. {problem} Answer again, with the JSON object only."
    return {**request, "messages": [*request["messages"], *answer, {"role": "user", "content": content}]}
