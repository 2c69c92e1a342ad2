"""The service: worlds, callers, limits and queues behind every transport."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, final

from worldline.planning.calls import Call, PlanCall
from worldline.serve.admission import Admission
from worldline.serve.callers import ANYONE, Caller, ForbiddenError, Scope, UnauthorizedError
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.metrics import Metrics
from worldline.serve.prices import Prices, size_of, with_budget
from worldline.serve.problems import problem_of
from worldline.serve.scheduler import CallerLeftError, Gone, Lane, Scheduler
from worldline.serve.shares import Shares
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage
from worldline.serve.work import answer_calls, group_of
from worldline.world.base import World

T = TypeVar("T")
Encode = Callable[[object], object] | None
"""Maps an answer to the result of a call, in the worker; None for the answer itself."""

CALLER_LEFT = 499
"""The status, in usage and metrics, of a call whose caller left."""


@final
class Service:
    """Answers calls for callers with limited rights. Transports only decode and encode.

    Args:
        hosts: the served worlds.
        limits: bounds every call.
        tokens: who may call; None lets anyone call.
        usage: counts calls; None to count them in memory only.
        workers: threads per lane.
    """

    def __init__(
        self,
        hosts: Hosts,
        limits: Limits | None = None,
        *,
        tokens: Tokens | None = None,
        usage: Usage | None = None,
        workers: int = 1,
    ) -> None:
        self.hosts, self.limits, self.metrics = hosts, limits or Limits(), Metrics()
        self.usage, self._tokens = usage or Usage(None), tokens
        self.needs_token = tokens is not None and tokens.any()
        self.prices = Prices()
        self.scheduler = Scheduler(self.limits, workers=workers, observe=self.metrics.batch)
        self.metrics.watch(self.scheduler)
        self.admission = Admission(self.limits, self.metrics.refused.inc)
        self.memory = Shares(self.limits.open_bytes, "bytes in open requests and waiting messages")
        self.bodies = Shares(self.limits.bodies, "open requests")
        self.sockets = Shares(self.limits.sockets, "WebSockets")
        self.streams = Shares(self.limits.sockets, "streams of events")
        self.stopping = list[Callable[[], None]]()
        """Called when the server stops, before it waits for open connections."""

    async def refresh(self) -> None:
        """Notices the first token, from which on every caller needs one."""
        if self._tokens is not None and not self.needs_token:
            self.needs_token = await asyncio.to_thread(self._tokens.any)

    async def authorize(self, authorization: str | None, scope: Scope) -> Caller:
        """The caller of a request.

        Args:
            authorization: the header: `Bearer TOKEN` or `Api-Key TOKEN`.
            scope: what the request needs.

        Raises:
            UnauthorizedError: there is no valid token.
            ForbiddenError: the token lacks the scope.
        """
        if self._tokens is None or not self.needs_token:
            return ANYONE
        kind, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if kind.lower() not in ("bearer", "api-key") or not token:
            raise UnauthorizedError
        check = self._tokens.check
        caller = check(token) if self._tokens.is_kept(token) else await asyncio.to_thread(check, token)
        if scope not in caller.scopes:
            raise ForbiddenError(f"the token {caller.name!r} lacks the scope {scope.value!r}. Ask the operator for it.")
        return caller

    @asynccontextmanager
    async def metered(
        self, caller: Caller, hosted: HostedWorld, verb: str, steps: int = 0, *, checked: bool = False
    ) -> AsyncIterator[None]:
        """Counts the block as one call of the caller; `checked` as in `Usage.admit`.

        Raises:
            RateLimitedError: the caller exceeds its rate or quota.
        """
        self.usage.admit(caller, checked=checked)
        started_s, status = time.monotonic(), 200
        try:
            yield
        except (asyncio.CancelledError, CallerLeftError):
            status = CALLER_LEFT
            raise
        except Exception as error:
            status = problem_of(error).status
            raise
        finally:
            self.usage.record(
                caller,
                world=hosted.name,
                verb=verb,
                status=status,
                seconds=time.monotonic() - started_s,
                steps=steps,
            )

    async def ask(
        self,
        caller: Caller,
        world: str,
        call: Call,
        *,
        encode: Encode = None,
        deadline_s: float | None = None,
        gone: Gone = None,
        checked: bool = False,
    ) -> Any:
        """The answer of a world to a call.

        Args:
            caller: from `authorize`.
            world: name of the world.
            call: the verb with its arguments.
            encode: as in `Encode`.
            deadline_s: seconds until the caller gives up; None for the limit of the service.
            gone: what it returns completes when the caller has left.
            checked: as in `Usage.admit`.

        Raises:
            WorldlineError: as the verb raises; or the call exceeds a limit, or too many calls wait.
        """
        hosted = self.hosts[world]
        call, card = with_budget(call, self.limits, deadline_s), hosted.card
        size = size_of(call, card, self.limits)
        pieces = -(-size.num_bytes // self.limits.piece_bytes)
        search_s = call.budget_s if isinstance(call, PlanCall) else 0.0
        price = self.prices.of(world, call.verb, card, length=size.length, search_s=search_s)
        lane = price.lane if pieces <= 1 else Lane.SLOW
        group, unwanted = None if pieces > 1 else group_of(call, card), threading.Event()
        async with self.metered(caller, hosted, call.verb, size.steps, checked=checked):
            try:
                return await self.scheduler.run_batched(
                    (call, encode),
                    partial(_answers, hosted, pieces, unwanted, partial(self.prices.learn, price)),
                    group=None if group is None else (world, group),
                    lane=lane,
                    caller=caller.id,
                    limit=min(card.max_batch, self.limits.piece_bytes // max(size.num_bytes, 1)),
                    deadline_s=deadline_s,
                    gone=gone,
                )
            finally:
                if group is None:  # others may wait for the rest of a batch
                    unwanted.set()

    async def compute(
        self,
        caller: Caller,
        world: str,
        verb: str,
        function: Callable[[World], T],
        *,
        lane: Lane = Lane.QUICK,
        deadline_s: float | None = None,
    ) -> T:
        """The result of a function of the current version of a world, computed in a worker.

        Args:
            caller: from `authorize`.
            world: name of the world.
            verb: for usage and metrics.
            function: gets the world in this process.
            lane: the workers.
            deadline_s: as in `ask`.
        """
        hosted = self.hosts[world]
        async with self.metered(caller, hosted, verb):
            return await self.scheduler.run(
                lambda: function(hosted.current()[1]), lane=lane, caller=caller.id, deadline_s=deadline_s
            )

    async def timed(
        self,
        caller: Caller,
        hosted: HostedWorld,
        verb: str,
        function: Callable[[], T],
        *,
        length: int,
        search_s: float | None = 0.0,
        deadline_s: float | None = None,
    ) -> T:
        """The result of a function, in the workers for calls of its estimated time, which its time corrects.

        Args:
            caller: from `authorize`.
            hosted: the world.
            verb: for the estimate.
            function: computes.
            length: as in `Prices.of`.
            search_s: as in `Prices.of`.
            deadline_s: as in `ask`.
        """
        price = self.prices.of(hosted.name, verb, hosted.card, length=length, search_s=search_s)
        run = partial(self.prices.timed, price, function)
        return await self.scheduler.run(run, lane=price.lane, caller=caller.id, deadline_s=deadline_s)

    def ready(self) -> bool:
        """Whether the workers answer: no lane is stuck."""
        return not any(self.scheduler.stuck(lane) for lane in Lane)

    def close(self) -> bool:
        """Stops the workers; whether they are idle."""
        idle = not any(self.scheduler.running(lane) for lane in Lane)
        self.scheduler.close()
        self.hosts.close()
        return idle


def _answers(
    hosted: HostedWorld,
    pieces: int,
    unwanted: threading.Event,
    learn: Callable[[float], None],
    work: Sequence[tuple[Call, Encode]],
) -> Sequence[object]:
    """The results of calls of one group, or of one call; or their errors."""
    began_s = time.perf_counter()
    hosted.current()  # the card of a version that an alias was moved to
    calls = [call for call, _ in work]
    answers = answer_calls(hosted.world, calls, hosted.card, pieces, lambda: not unwanted.is_set())
    encoded = [_encoded(answer, encode) for answer, (_, encode) in zip(answers, work, strict=True)]
    if not any(isinstance(answer, Exception) for answer in answers):  # the time of such a call would be too short
        learn((time.perf_counter() - began_s) / len(work))
    return encoded


def _encoded(answer: object, encode: Encode) -> object:
    """The result of one call of a batch, or its error."""
    if encode is None or isinstance(answer, Exception):
        return answer
    try:
        return encode(answer)
    except Exception as error:  # noqa: BLE001  # only this caller gets it
        return error
