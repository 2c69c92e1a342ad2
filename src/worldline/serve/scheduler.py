"""Queues, worker threads and micro-batching of the calls of a service."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar, final

from worldline.errors import UnavailableError, WorldlineError
from worldline.progress import interruptible
from worldline.serve.limits import Limits
from worldline.serve.problems import DeadlineError, OverloadedError

Answer = TypeVar("Answer")
Gone = Callable[[], Awaitable[object]] | None
"""Returns what completes when the caller has left. Not the awaitable itself: a refused call never awaits it."""

NICE: Final = 10
"""Niceness of the workers for long calls, which would otherwise delay short ones on a machine with few cores."""


class Lane(StrEnum):
    """Separate workers, so that a long call does not delay a short one."""

    QUICK = "quick"
    """Short calls."""
    SLOW = "slow"
    """Long calls."""


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
    caller: str
    turn: int


@final
class _Queue:
    """The calls of a lane that wait, and its workers."""

    def __init__(self, lane: Lane, workers: int, limits: Limits) -> None:
        self.lane, self._workers, self._limits = lane, workers, limits
        self.busy = 0
        self.changed_s = time.monotonic()
        self._calls, self._turn = list[_Waiting](), 0
        self.pool = ThreadPoolExecutor(workers, f"worldline-{lane}", _wait_for_others if lane is Lane.SLOW else None)

    def waiting(self) -> list[_Waiting]:
        """The calls that somebody waits for."""
        self._calls = [call for call in self._calls if not call.future.done()]
        return self._calls

    def add(self, call: _Waiting) -> None:
        """Adds a call; in a full queue, at the expense of a caller with at least two waiting calls more."""
        if len(calls := self.waiting()) >= self._limits.queue:
            refused = OverloadedError(
                f"{self._limits.queue} calls are waiting. Try again in 1 s, or send fewer at once."
            )
            counts = Counter(waiting.caller for waiting in calls)
            if not may_displace(counts, call.caller):
                raise refused
            [(busiest, _)] = counts.most_common(1)
            newest = max((waiting for waiting in calls if waiting.caller == busiest), key=lambda waiting: waiting.turn)
            newest.future.set_exception(refused)
        call.turn = max([self._turn, *(waiting.turn + 1 for waiting in calls if waiting.caller == call.caller)])
        self._calls.append(call)

    def take(self) -> list[_Waiting]:
        """The oldest call and the calls of its group; empty if there is none, or no worker is free."""
        calls = self.waiting()
        if not calls or self.busy >= self._workers:
            return []
        first = min(calls, key=lambda call: call.turn)
        self._turn = first.turn
        others = [call for call in calls if call is not first and call.group == first.group is not None]
        batch = [first, *others[: first.limit - 1]]
        self._calls = [call for call in calls if call not in batch]
        return batch

    def close(self) -> None:
        """Cancels the calls that wait, and ends the threads once they are idle."""
        for call in self.waiting():
            call.future.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)


@final
class Scheduler:
    """Runs calls in worker threads. Calls of one group that wait at the same time are computed as one batch.

    A worker that becomes free takes the oldest call and all calls of its group, so a batch never waits for further
    calls. If several callers wait, they take turns, and a full queue drops the newest call of the caller with most:
    one caller cannot keep others out. A call whose caller leaves, or whose deadline passes, gives up its place. All
    methods except the work itself run in the event loop.

    Args:
        limits: `queue` and `batch` apply to each lane.
        workers: threads per lane.
        observe: called after each batch with lane, number of calls and seconds; None for nothing.
    """

    def __init__(
        self, limits: Limits, *, workers: int = 1, observe: Callable[[Lane, int, float], None] | None = None
    ) -> None:
        self._limits, self._workers, self._observe = limits, workers, observe
        self._queues = {lane: _Queue(lane, workers, limits) for lane in Lane}
        self._closed = False

    def waiting(self, lane: Lane) -> int:
        """Number of calls in the queue of a lane."""
        return len(self._queues[lane].waiting())

    def running(self, lane: Lane) -> int:
        """Number of busy workers of a lane."""
        return self._queues[lane].busy

    def stuck(self, lane: Lane) -> bool:
        """Whether all workers of a lane are busy, and none began or ended a call within `Limits.deadline_s`."""
        since_s = time.monotonic() - self._queues[lane].changed_s
        return self.running(lane) >= self._workers and since_s > self._limits.deadline_s

    async def run(self, function: Callable[[], Answer], **options: Any) -> Answer:
        """The result of `function`, computed in a worker. Options and errors as in `run_batched`."""
        answer: Answer = await self.run_batched(None, lambda _: [function()], group=None, **options)
        return answer

    async def run_batched(
        self,
        work: Any,
        run: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        group: Hashable | None,
        lane: Lane = Lane.QUICK,
        caller: str = "",
        limit: int | None = None,
        deadline_s: float | None = None,
        gone: Gone = None,
    ) -> Any:
        """The result for `work`.

        Args:
            work: what this call needs.
            run: maps the work of several calls of one group to their results, or errors, in this order.
            group: calls of equal groups may be computed as one; None for a call that is computed alone.
            lane: the workers.
            caller: id of the caller, for fairness.
            limit: largest number of calls in a batch; None for that of the limits.
            deadline_s: seconds until the caller gives up; None for `Limits.deadline_s`.
            gone: what it returns completes when the caller has left. The call is then given up.

        Raises:
            OverloadedError: the queue is full, or another caller with fewer calls took the place.
            DeadlineError: the result is not ready at the deadline.
            CallerLeftError: the caller left.
            UnavailableError: the scheduler is closed.
        """
        if self._closed:
            raise stopping_error()
        future = asyncio.get_running_loop().create_future()
        limit = min(self._limits.batch, limit or self._limits.batch)
        call = _Waiting(work=work, run=run, group=group, limit=limit, future=future, caller=caller, turn=0)
        self._queues[lane].add(call)
        self._start(self._queues[lane])
        return await self._wait(future, min(deadline_s or math.inf, self._limits.deadline_s), gone)

    def close(self) -> None:
        """Ends the threads once they are idle. Queued calls are cancelled, and further ones are refused."""
        self._closed = True
        for queue in self._queues.values():
            queue.close()

    async def _wait(self, future: asyncio.Future[Any], limit_s: float, gone: Gone) -> Any:
        left = None if gone is None else asyncio.ensure_future(gone())
        try:
            awaited = [future] if left is None else [future, left]
            await asyncio.wait(awaited, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            has_left = left is not None and left.done()
        finally:
            if left is not None:
                left.cancel()
            if not future.cancel() and not future.cancelled():
                future.exception()  # or asyncio logs its text if this caller was cancelled
        if not future.cancelled():
            return future.result()
        if has_left:
            raise CallerLeftError("the caller left before the answer.")
        if self._closed:
            raise stopping_error()
        raise DeadlineError(f"no answer within {limit_s:g} s. Ask for less, or raise the deadline.")

    def _start(self, queue: _Queue) -> None:
        """Gives work to free workers."""
        loop = asyncio.get_running_loop()
        while batch := queue.take():
            queue.busy += 1
            queue.changed_s = time.monotonic()
            computed = loop.run_in_executor(queue.pool, _results, batch)
            computed.add_done_callback(partial(self._finish, queue, batch, queue.changed_s))

    def _finish(self, queue: _Queue, batch: list[_Waiting], started_s: float, computed: asyncio.Future[Any]) -> None:
        """Gives each call its result, and the worker its next batch."""
        if computed.cancelled():  # the scheduler was closed before it began
            return
        for call, result in zip(batch, computed.result(), strict=True):
            if call.future.done():
                continue
            if isinstance(result, Exception):
                call.future.set_exception(result)
            else:
                call.future.set_result(result)
        queue.changed_s = time.monotonic()
        queue.busy -= 1
        if self._observe is not None:
            self._observe(queue.lane, len(batch), queue.changed_s - started_s)
        self._start(queue)


def may_displace(counts: Counter[str], caller: str) -> bool:
    """Whether a caller gets a place although all are taken: another one has at least two calls more.

    Args:
        counts: calls by caller, not empty.
        caller: id of the caller.
    """
    return max(counts.values()) >= counts[caller] + 2


def stopping_error() -> UnavailableError:
    """The error for calls that the service no longer answers."""
    return UnavailableError("the service is stopping. Try again later.")


def _results(batch: Sequence[_Waiting]) -> Sequence[Any]:
    """The result or error of each call. A world that raises anything must not end its worker or the event loop."""
    try:
        with interruptible(lambda: all(call.future.done() for call in batch)):
            results = batch[0].run([call.work for call in batch])
        return [_error(result) if isinstance(result, Exception) else result for result in results]
    except BaseException as error:  # noqa: BLE001  # every caller of the batch gets it
        return [_error(error)] * len(batch)


def _error(error: BaseException) -> Exception:
    """The error in a form that a future accepts: neither SystemExit nor StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _wait_for_others() -> None:
    """Lets other threads of the service run first, on systems with priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
