"""Queues, worker threads and micro-batching of the calls of a service."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar, final

from worldline.errors import UnavailableError, WorldlineError
from worldline.serve.limits import Limits
from worldline.serve.problems import DeadlineError, OverloadedError

Answer = TypeVar("Answer")
Gone = Callable[[], Awaitable[object]] | None
"""Returns what completes when the caller has left. Not the awaitable itself: a refused call never awaits it."""

NICE: Final = 10
"""Niceness of the workers for long calls, which would otherwise delay control loops on a machine with few cores."""
MAX_RETRY_S: Final = 30.0
"""Largest `Retry-After`."""


class Lane(StrEnum):
    """Separate workers, so that a long call does not delay a short one, and no call delays a control loop."""

    QUICK = "quick"
    """Short calls of all callers."""
    SLOW = "slow"
    """Long calls of all callers."""
    QUICK_LOOP = "quick-loop"
    """Steps of control loops with short deadlines. Each caller has separate workers."""
    SLOW_LOOP = "slow-loop"
    """Steps of other control loops. Each caller has separate workers."""


OWN: Final = (Lane.QUICK_LOOP, Lane.SLOW_LOOP)
"""The lanes in which each caller has separate workers."""


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
class Scheduler:
    """Runs calls in worker threads. Calls of one group that wait at the same time are computed as one batch.

    A worker that becomes free takes the oldest call and all calls of its group, so a batch never waits for further
    calls. If several callers wait, they take turns, and a full queue drops the newest call of the caller with most:
    one caller cannot keep others out. A call whose caller leaves, or whose deadline passes, gives up its place. All
    methods except the work itself run in the event loop.

    Args:
        limits: `queue` and `batch` apply to each lane.
        workers: threads per lane, or per lane and caller.
        observe: called after each batch with lane, number of calls and seconds; None for nothing.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        workers: int = 1,
        observe: Callable[[Lane, int, float], None] | None = None,
    ) -> None:
        self._limits, self._workers, self._observe = limits, workers, observe
        self._queues: dict[Lane, deque[_Waiting]] = {lane: deque() for lane in Lane}
        self._turns = dict.fromkeys(Lane, 0)
        self._running = dict.fromkeys(Lane, 0)
        self._mean_s = dict.fromkeys(Lane, 0.01)
        self._running_of = Counter[tuple[Lane, str]]()
        threads = dict.fromkeys(Lane, workers) | dict.fromkeys(OWN, limits.sockets)  # a pool starts them when needed
        self._pools = {
            lane: ThreadPoolExecutor(
                threads[lane], f"worldline-{lane}", _wait_for_others if lane is Lane.SLOW else None
            )
            for lane in Lane
        }
        self._closed = False
        self.last_answer_s = time.monotonic()
        self._changed_s = dict.fromkeys(Lane, self.last_answer_s)

    def waiting(self, lane: Lane) -> int:
        """Number of calls in the queue of a lane."""
        return len(self._queues[lane])

    def running(self, lane: Lane) -> int:
        """Number of busy workers of a lane."""
        return self._running[lane]

    def stuck(self, lane: Lane) -> bool:
        """Whether all workers of a lane are busy, and none began or ended a call within `Limits.deadline_s`."""
        since_s = time.monotonic() - self._changed_s[lane]
        return self._running[lane] >= self._workers and since_s > self._limits.deadline_s

    def _make_room(self, lane: Lane, caller: str) -> None:
        """Makes room in a full queue, at the expense of a caller with at least two waiting calls more, or refuses."""
        queue = self._queues[lane]
        if len(queue) < self._limits.queue:
            return
        for ended in [waiting for waiting in queue if waiting.future.done()]:
            queue.remove(ended)
        if len(queue) < self._limits.queue:
            return
        per_s = self._workers / self._mean_s[lane]
        after_s = min(max(1.0, len(queue) / per_s), MAX_RETRY_S)
        refused = OverloadedError(
            f"{self._limits.queue} calls are waiting. Try again in {after_s:.0f} s, or send fewer at once.", after_s
        )
        counts = Counter(waiting.caller for waiting in queue)
        if not may_displace(counts, caller):
            raise refused
        [(busiest, _)] = counts.most_common(1)
        newest = max((call for call in queue if call.caller == busiest), key=lambda call: call.turn)
        queue.remove(newest)
        newest.future.set_exception(refused)

    async def run(
        self,
        function: Callable[[], Answer],
        *,
        lane: Lane = Lane.QUICK,
        caller: str = "",
        deadline_s: float | None = None,
        gone: Gone = None,
    ) -> Answer:
        """The result of `function`, computed in a worker. Other arguments and errors as in `run_batched`."""
        answer: Answer = await self.run_batched(
            None, lambda _: [function()], group=None, lane=lane, caller=caller, deadline_s=deadline_s, gone=gone
        )
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
        self._make_room(lane, caller)
        future = asyncio.get_running_loop().create_future()
        after_own = [waiting.turn + 1 for waiting in self._queues[lane] if waiting.caller == caller]
        waiting = _Waiting(
            work=work,
            run=run,
            group=group,
            limit=min(self._limits.batch, limit or self._limits.batch),
            future=future,
            caller=caller,
            turn=max([self._turns[lane], *after_own]),
        )
        self._queues[lane].append(waiting)
        self._start(lane)
        limit_s = self._limits.deadline_s if deadline_s is None else min(deadline_s, self._limits.deadline_s)
        return await self._wait(future, limit_s, gone)

    def close(self) -> None:
        """Ends the threads once they are idle. Queued calls are cancelled, and further ones are refused."""
        self._closed = True
        for lane, queue in self._queues.items():
            while queue:
                queue.popleft().future.cancel()
            self._pools[lane].shutdown(wait=False, cancel_futures=True)

    async def _wait(self, future: asyncio.Future[Any], limit_s: float, gone: Gone) -> Any:
        left = None if gone is None else asyncio.ensure_future(gone())
        try:
            await asyncio.wait(
                [future] if left is None else [future, left], timeout=limit_s, return_when="FIRST_COMPLETED"
            )
        finally:
            if left is not None and not left.done():
                left.cancel()
            if not future.cancel() and not future.cancelled():
                future.exception()  # or asyncio logs its text if this caller was cancelled
        if not future.cancelled():
            return future.result()
        if left is not None and left.done() and not left.cancelled():
            raise CallerLeftError("the caller left before the answer.")
        if self._closed:
            raise stopping_error()
        raise DeadlineError(f"no answer within {limit_s:g} s. Ask for less, or raise the deadline.")

    def _start(self, lane: Lane) -> None:
        """Gives work to free workers."""
        loop = asyncio.get_running_loop()
        while batch := self._next(lane):
            self._running[lane] += 1
            self._running_of[lane, batch[0].caller] += 1
            started_s = self._changed_s[lane] = time.monotonic()
            work = [waiting.work for waiting in batch]
            computed = loop.run_in_executor(self._pools[lane], _results, batch[0].run, work)
            computed.add_done_callback(partial(self._finish, lane, batch, started_s))

    def _next(self, lane: Lane) -> list[_Waiting]:
        """The first call that is wanted and has a free worker, and the calls of its group; empty if there is none."""
        queue = [waiting for waiting in self._queues[lane] if not waiting.future.done()]
        if not queue:
            self._queues[lane].clear()
            return []
        ready = [waiting for waiting in queue if self._has_worker(lane, waiting.caller)]
        if not ready:
            return []
        first = min(ready, key=lambda waiting: waiting.turn)  # the oldest of these
        self._turns[lane] = first.turn
        queue.remove(first)
        others = [waiting for waiting in queue if first.group is not None and waiting.group == first.group]
        batch = [first, *others[: first.limit - 1]]
        chosen = set(batch)
        self._queues[lane] = deque(waiting for waiting in queue if waiting not in chosen)
        return batch

    def _has_worker(self, lane: Lane, caller: str) -> bool:
        busy = self._running_of[lane, caller] if lane in OWN else self._running[lane]
        return busy < self._workers

    def _finish(
        self, lane: Lane, batch: list[_Waiting], started_s: float, computed: asyncio.Future[Sequence[Any]]
    ) -> None:
        """Gives each call its result, and the worker its next batch."""
        if computed.cancelled():  # the scheduler was closed before it began
            return
        for waiting, result in zip(batch, computed.result(), strict=True):
            if waiting.future.done():
                continue
            if isinstance(result, Exception):
                waiting.future.set_exception(result)
            else:
                waiting.future.set_result(result)
        self.last_answer_s = self._changed_s[lane] = time.monotonic()
        took_s = self.last_answer_s - started_s
        self._mean_s[lane] = 0.9 * self._mean_s[lane] + 0.1 * took_s / len(batch)
        self._running[lane] -= 1
        self._running_of[lane, batch[0].caller] -= 1
        if self._observe is not None:
            self._observe(lane, len(batch), took_s)
        self._start(lane)


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


def _results(run: Callable[[Sequence[Any]], Sequence[Any]], work: Sequence[Any]) -> Sequence[Any]:
    """The result or error of each call. A world that raises anything must not end its worker or the event loop."""
    try:
        return [_error(result) if isinstance(result, Exception) else result for result in run(work)]
    except BaseException as error:  # noqa: BLE001  # every caller of the batch gets it
        return [_error(error)] * len(work)


def _error(error: BaseException) -> Exception:
    """The error in a form that a future accepts: neither SystemExit nor StopIteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _wait_for_others() -> None:
    """Lets other threads of the service run first, on systems with priorities of threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
