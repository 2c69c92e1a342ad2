from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import InputError, UnavailableError
from worldline.progress import check_interrupted
from worldline.serve.limits import Limits
from worldline.serve.problems import DeadlineError, OverloadedError
from worldline.serve.scheduler import CallerLeftError, Lane, Scheduler

SECONDS = 30.0


class Desk:
    """Work that records its batches; the first call of a lane occupies its worker until `open`."""

    def __init__(self, limits: Limits | None = None, **options: Any) -> None:
        self.scheduler = Scheduler(limits or Limits(), **options)
        self.batches = list[list[Any]]()
        self.entered, self.gate = threading.Event(), threading.Event()

    def compute(self, work: Sequence[Any]) -> Sequence[Any]:
        self.batches.append([*work])
        if work[0] == "gate":
            self.entered.set()
            assert self.gate.wait(SECONDS)
        return [InputError(one) if one == "bad" else f"answer to {one}" for one in work]

    def ask(self, work: Any, group: Any = "g", **options: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.scheduler.run_batched(work, self.compute, group=group, **options))

    async def occupied(self) -> asyncio.Task[Any]:
        """The call that occupies the worker."""
        first = self.ask("gate", group=None)
        await asyncio.to_thread(self.entered.wait, SECONDS)
        return first

    async def queued(self, *works: Any, **options: Any) -> list[asyncio.Task[Any]]:
        """Calls that wait, in this order."""
        found = [self.ask(work, **options) for work in works]
        await asyncio.sleep(0)  # each begins
        return found


def trial(body: Callable[[Desk], Awaitable[None]], limits: Limits | None = None, **options: Any) -> Desk:
    """Runs a test with a desk, which is closed after it."""

    async def run() -> Desk:
        desk = Desk(limits, **options)
        try:
            async with asyncio.timeout(SECONDS):
                await body(desk)
        finally:
            desk.gate.set()
            desk.scheduler.close()
        return desk

    return asyncio.run(run())


def test_callers_take_turns_and_one_cannot_keep_others_out() -> None:
    async def body(desk: Desk) -> None:
        first = await desk.occupied()
        greedy = await desk.queued("g1", "g2", "g3", "g4", group=None, caller="greedy")
        modest = await desk.queued("m1", "m2", group=None, caller="modest")
        for late in greedy[2:]:  # the newest first
            with pytest.raises(OverloadedError):
                await late
        with pytest.raises(OverloadedError):  # more would only exchange the two
            await desk.ask("m3", caller="modest")
        desk.gate.set()
        await asyncio.gather(first, *greedy[:2], *modest)
        await desk.ask("g5", caller="greedy")

    assert trial(body, Limits(queue=4)).batches == [[one] for one in ("gate", "g1", "m1", "g2", "m2", "g5")]


def test_a_call_after_its_deadline_is_not_begun() -> None:
    async def body(desk: Desk) -> None:
        first = await desk.occupied()
        late = [*await desk.queued("late", deadline_s=0.01), *await desk.queued("bounded", deadline_s=SECONDS)]
        for one in late:
            with pytest.raises(DeadlineError, match=r"within 0\.0[15] s"):
                await one
        with pytest.raises(DeadlineError):
            await first  # it runs on, unheard
        desk.gate.set()
        assert await desk.ask("next", deadline_s=None) == "answer to next"

    assert trial(body, Limits(deadline_s=0.05)).batches == [["gate"], ["next"]]


@pytest.mark.parametrize("fault", [ValueError("x"), SystemExit(3), StopIteration(), KeyboardInterrupt()])
def test_whatever_is_raised_the_worker_goes_on(fault: BaseException) -> None:
    def fail() -> None:
        raise fault

    async def body(desk: Desk) -> None:
        with pytest.raises((ValueError, RuntimeError)) as raised:
            await desk.scheduler.run(fail)
        assert fail.__code__ in [entry.frame.code.raw for entry in raised.traceback]  # the log names the place
        assert await desk.scheduler.run(lambda: 5) == 5
        assert desk.scheduler.running(Lane.QUICK) == 0

    trial(body)


def test_long_work_ends_once_nobody_waits_for_it() -> None:
    ended = threading.Event()

    def endless() -> None:
        try:
            while True:
                check_interrupted()
                time.sleep(0.01)
        finally:
            ended.set()

    async def body(desk: Desk) -> None:
        with pytest.raises(DeadlineError):
            await desk.scheduler.run(endless, deadline_s=0.05)
        assert await asyncio.to_thread(ended.wait, SECONDS)
        assert await desk.scheduler.run(lambda: 5) == 5
        check_interrupted()  # the context of this thread is its own

    trial(body)


@pytest.mark.skipif(
    sys.platform != "linux" or os.nice(0) > 0,
    reason="needs a priority per thread, which is Linux alone, and room below",
)
def test_only_workers_for_long_calls_yield_to_others() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def body(desk: Desk) -> None:
        usual = niceness()
        found = {lane: await desk.scheduler.run(niceness, lane=lane) for lane in Lane}
        assert {lane for lane, value in found.items() if value > usual} == {Lane.SLOW}

    trial(body)


def test_a_lane_is_stuck_if_its_workers_are_busy_beyond_the_deadline() -> None:
    async def body(desk: Desk) -> None:
        first = await desk.occupied()
        with pytest.raises(DeadlineError):
            await first
        assert await desk.ask("other", lane=Lane.SLOW) == "answer to other"
        assert desk.scheduler.stuck(Lane.QUICK)
        assert not desk.scheduler.stuck(Lane.SLOW)
        desk.gate.set()
        await desk.ask("next", deadline_s=None)
        assert not desk.scheduler.stuck(Lane.QUICK)

    trial(body, Limits(deadline_s=0.05))


def test_close_ends_waiting_calls_and_refuses_further_ones() -> None:
    async def body(desk: Desk) -> None:
        first = await desk.occupied()
        (waiting,) = await desk.queued("waits")
        desk.scheduler.close()
        for one in (waiting, desk.ask("later")):
            with pytest.raises(UnavailableError, match="stopping"):
                await one
        desk.gate.set()
        assert await first == "answer to gate"

    assert trial(body).batches == [["gate"]]


@given(
    calls=st.lists(st.tuples(st.sampled_from("abcde"), st.none() | st.integers(0, 2), st.booleans()), max_size=40),
    batch=st.integers(1, 5),
    workers=st.integers(1, 3),
)
def test_every_call_gets_its_answer_once(calls: list[tuple[str, int | None, bool]], batch: int, workers: int) -> None:
    """Calls of random groups, some of which are given up at once."""
    seen = list[Any]()

    def compute(work: Sequence[Any]) -> Sequence[Any]:
        seen.append([*work])
        return [InputError(str(one)) if one[1][0] == "e" else one for one in work]

    async def ask(scheduler: Scheduler, number: int, call: tuple[str, int | None, bool]) -> Any:
        gone = partial(asyncio.sleep, 0) if call[2] else None
        group = None if call[1] is None else (compute, call[1])
        return await scheduler.run_batched((number, call), compute, group=group, gone=gone)

    async def run() -> list[Any]:
        scheduler = Scheduler(Limits(batch=batch), workers=workers)
        tasks = [ask(scheduler, number, call) for number, call in enumerate(calls)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        scheduler.close()
        return found

    for number, (call, found) in enumerate(zip(calls, asyncio.run(run()), strict=True)):
        if not isinstance(found, CallerLeftError) or not call[2]:
            assert str(found) == str((number, call)) if call[0] == "e" else found == (number, call)
    begun = [one for works in seen for one in works]
    assert len(begun) == len(set(begun))
    assert {number for number, call in enumerate(calls) if not call[2]} <= {number for number, _ in begun}
    for works in seen:
        groups = {call[1] for _, call in works}
        assert len(works) == 1 or (len(works) <= batch and len(groups) == 1 and groups != {None})
