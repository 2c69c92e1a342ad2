"""Queues, worker threads and micro-batching of the calls of a service."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar, final

from worldline.errors import WorldlineError
from worldline.serve.limits import Limits
from worldline.serve.problems import DeadlineError, OverloadedError

Answer = TypeVar("Answer")

MAX_RETRY_S: Final = 30.0
"""Largest `Retry-After`."""


class Lane(StrEnum):
    """Separate workers, so that a long search does not delay a prediction."""

    QUICK = "quick"
    SLOW = "slow"


class CallerLeftError(WorldlineError):
    """The caller closed the connection before the answer."""


@final
@dataclass(eq=False, kw_only=True)
class _Waiting:
    """A call in a queue."""

    work: Any
    run: Callable[[Sequence[Any]], Sequence[Any]]
    group: Hashable | None
    limit: int
    future: asyncio.Future[Any]
    since_s: float = field(default_factory=time.monotonic)


@final
class Scheduler:
    """Runs calls in worker threads. Calls of one group that wait at the same time are computed as one batch.

    A worker that becomes free takes the oldest call and all calls of its group, so a batch never waits for further
    calls. A call whose caller leaves, or whose deadline passes, gives up its place. All methods except the work itself
    run in the event loop.

    Args:
        limits: `queue` and `batch` apply to each lane.
        workers: threads per lane.
        batching: whether calls of one group are computed as one.
        observe: called after each batch with lane, number of calls and seconds; None for nothing.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        workers: int = 1,
        batching: bool = True,
        observe: Callable[[Lane, int, float], None] | None = None,
    ) -> None:
        self._limits, self._workers, self._batching, self._observe = limits, workers, batching, observe
        self._queues: dict[Lane, deque[_Waiting]] = {lane: deque() for lane in Lane}
        self._running = dict.fromkeys(Lane, 0)
        self._mean_s = dict.fromkeys(Lane, 0.01)
        self._pools = {lane: ThreadPoolExecutor(workers, thread_name_prefix=f"worldline-{lane}") for lane in Lane}
        self._tasks = set[asyncio.Task[None]]()
        self.last_answer_s = time.monotonic()

    def waiting(self, lane: Lane) -> int:
        """Number of calls in the queue of a lane."""
        return len(self._queues[lane])

    def running(self, lane: Lane) -> int:
        """Number of busy workers of a lane."""
        return self._running[lane]

    def check_room(self, lane: Lane) -> None:
        """Refuses a call that would find the queue full. Ask before a body is read.

        Raises:
            OverloadedError: the queue is full.
        """
        if len(self._queues[lane]) >= self._limits.queue:
            self._queues[lane] = deque(one for one in self._queues[lane] if not one.future.done())
        if len(self._queues[lane]) >= self._limits.queue:
            per_s = self._workers / self._mean_s[lane]
            after_s = min(max(1.0, len(self._queues[lane]) / per_s), MAX_RETRY_S)
            raise OverloadedError(
                f"{self._limits.queue} calls are waiting. Try again in {after_s:.0f} s, or send fewer at once.", after_s
            )

    async def run(
        self,
        function: Callable[[], Answer],
        *,
        lane: Lane = Lane.QUICK,
        deadline_s: float | None = None,
        gone: Awaitable[object] | None = None,
    ) -> Answer:
        """The result of `function`, computed in a worker. Other arguments and errors as in `run_batched`."""
        found: Answer = await self.run_batched(
            None, _each(function), group=None, lane=lane, deadline_s=deadline_s, gone=gone
        )
        return found

    async def run_batched(
        self,
        work: Any,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        group: Hashable | None,
        lane: Lane = Lane.QUICK,
        limit: int | None = None,
        deadline_s: float | None = None,
        gone: Awaitable[object] | None = None,
    ) -> Any:
        """The result for `work`.

        Args:
            work: what this call needs.
            run: maps the work of several calls of one group to their results, or errors, in this order.
            group: calls of equal groups may be computed as one; None for a call that is computed alone.
            lane: the workers.
            limit: largest number of calls in a batch; None for that of the limits.
            deadline_s: seconds until the caller gives up; None for `Limits.deadline_s`.
            gone: completes when the caller has left. The call is then given up.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the result is not ready at the deadline.
            CallerLeftError: the caller left.
        """
        self.check_room(lane)
        future = asyncio.get_running_loop().create_future()
        waiting = _Waiting(
            work=work,
            run=run,
            group=group if self._batching else None,
            limit=min(self._limits.batch, limit or self._limits.batch),
            future=future,
        )
        self._queues[lane].append(waiting)
        self._start(lane)
        limit_s = self._limits.deadline_s if deadline_s is None else min(deadline_s, self._limits.deadline_s)
        return await self._wait(future, limit_s, gone)

    def close(self) -> None:
        """Ends the threads once they are idle. Queued calls are cancelled."""
        for lane, queue in self._queues.items():
            while queue:
                queue.popleft().future.cancel()
            self._pools[lane].shutdown(wait=False, cancel_futures=True)

    async def _wait(self, future: asyncio.Future[Any], limit_s: float, gone: Awaitable[object] | None) -> Any:
        left = None if gone is None else asyncio.ensure_future(gone)
        try:
            await asyncio.wait(
                [future] if left is None else [future, left], timeout=limit_s, return_when="FIRST_COMPLETED"
            )
        finally:
            if left is not None and not left.done():
                left.cancel()
            if not future.done():
                future.cancel()
        if not future.cancelled():
            return future.result()
        if left is not None and left.done() and not left.cancelled():
            raise CallerLeftError("the caller left before the answer.")
        raise DeadlineError(f"no answer within {limit_s:g} s. Ask for less, or raise the deadline.")

    def _start(self, lane: Lane) -> None:
        """Gives work to free workers."""
        while self._running[lane] < self._workers and (batch := self._next(lane)):
            self._running[lane] += 1
            task = asyncio.ensure_future(self._compute(lane, batch))
            self._tasks.add(task)  # the loop holds weak references only
            task.add_done_callback(self._tasks.discard)

    def _next(self, lane: Lane) -> list[_Waiting]:
        """The oldest call that is still wanted and the calls of its group; empty if there is none."""
        queue = self._queues[lane]
        while queue and queue[0].future.done():
            queue.popleft()
        if not queue:
            return []
        first = queue.popleft()
        batch, rest = [first], deque[_Waiting]()
        while queue:
            other = queue.popleft()
            if other.future.done():
                continue
            joins = first.group is not None and other.group == first.group and len(batch) < first.limit
            (batch if joins else rest).append(other)
        self._queues[lane] = rest
        return batch

    async def _compute(self, lane: Lane, batch: list[_Waiting]) -> None:
        started_s = time.monotonic()
        try:
            work = [waiting.work for waiting in batch]
            found = await asyncio.get_running_loop().run_in_executor(self._pools[lane], batch[0].run, work)
        except Exception as error:  # noqa: BLE001  # every caller of the batch gets it
            found = [error] * len(batch)
        for waiting, one in zip(batch, found, strict=True):
            if waiting.future.done():
                continue
            if isinstance(one, Exception):
                waiting.future.set_exception(one)
            else:
                waiting.future.set_result(one)
        self.last_answer_s = time.monotonic()
        took_s = self.last_answer_s - started_s
        self._mean_s[lane] = 0.9 * self._mean_s[lane] + 0.1 * took_s / len(batch)
        self._running[lane] -= 1
        if self._observe is not None:
            self._observe(lane, len(batch), took_s)
        self._start(lane)


def _each(function: Callable[[], Any]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function of several calls that calls `function` for each."""

    def run(work: Sequence[Any]) -> Sequence[Any]:
        found = list[Any]()
        for _ in work:
            try:
                found.append(function())
            except (WorldlineError, MemoryError) as error:
                found.append(error)
        return found

    return run
