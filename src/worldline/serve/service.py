"""The service: worlds, callers, limits and queues behind every transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, final

from worldline.planning.calls import Call
from worldline.serve.admission import Admission
from worldline.serve.callers import ANYONE, Caller, ForbiddenError, Scope, UnauthorizedError
from worldline.serve.costs import costs_of, with_budget
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.logs import ServedLogs
from worldline.serve.metrics import Metrics
from worldline.serve.problems import problem_of
from worldline.serve.scheduler import CallerLeftError, Gone, Lane, Scheduler
from worldline.serve.shares import Shares
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage
from worldline.serve.work import Encode, answer_calls, group_of

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
        logs: that callers can name; None for none.
    """

    def __init__(
        self,
        hosts: Hosts,
        limits: Limits | None = None,
        *,
        tokens: Tokens | None = None,
        usage: Usage | None = None,
        workers: int = 1,
        logs: ServedLogs | None = None,
    ) -> None:
        self.hosts, self.limits, self.metrics, self.logs = hosts, limits or Limits(), Metrics(), logs or ServedLogs()
        self.usage, self._tokens = usage or Usage(None), tokens
        self.needs_token = tokens is not None and tokens.any()
        self.scheduler = Scheduler(self.limits, workers=workers, observe=self.metrics.batch)
        self.metrics.watch(self.scheduler)
        self.admission = Admission(self.limits, self.metrics.refused.inc)
        self.memory = Shares(self.limits.open_bytes, "bytes in open requests and waiting messages")
        self.bodies = Shares(self.limits.bodies, "open requests")
        self.stopping = list[Callable[[], None]]()
        """Called when the server stops, before it waits for open connections."""

    async def refresh(self) -> None:
        """Notices the first token, from which on every caller needs one."""
        if self._tokens is not None and not self.needs_token:
            self.needs_token = await asyncio.to_thread(self._tokens.any)

    async def authorize(self, authorization: str | None, *scopes: Scope) -> Caller:
        """The caller of a request.

        Args:
            authorization: the header: `Bearer TOKEN` or `Api-Key TOKEN`.
            scopes: what the request needs.

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
        if lacking := [scope.value for scope in scopes if scope not in caller.scopes]:
            raise ForbiddenError(f"the token {caller.name!r} lacks the scope {lacking[0]!r}. Ask the operator for it.")
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
                caller, world=hosted.name, verb=verb, status=status, seconds=time.monotonic() - started_s, steps=steps
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
        costs, group = costs_of(call, card, self.limits), group_of(call, card)
        async with self.metered(caller, hosted, call.verb, costs.steps, checked=checked):
            return await self.scheduler.run_batched(
                (call, encode),
                partial(_answers, hosted),
                group=None if group is None else (world, group),
                lane=costs.lane,
                caller=caller.id,
                limit=min(card.max_batch, self.limits.call_bytes // max(costs.num_bytes, 1)),
                deadline_s=deadline_s,
                gone=gone,
            )

    def ready(self) -> bool:
        """Whether the workers answer: no lane is stuck."""
        return not any(self.scheduler.stuck(lane) for lane in Lane)

    def close(self) -> bool:
        """Stops the workers; whether they are idle."""
        idle = not any(self.scheduler.running(lane) for lane in Lane)
        self.scheduler.close()
        self.hosts.close()
        return idle


def _answers(hosted: HostedWorld, work: Sequence[tuple[Call, Encode]]) -> Sequence[object]:
    """The results of calls of one group, or of one call; or their errors."""
    hosted.current()  # the card of a version that an alias was moved to
    return answer_calls(hosted.world, work)
