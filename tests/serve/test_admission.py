from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest

from worldline.serve.admission import Admission
from worldline.serve.limits import Limits
from worldline.serve.problems import OverloadedError

PREDICT = "/v1/worlds/toy:predict"
TOKENS = {name: f"Bearer wl_{16 * name}_" for name in "abcd"}


def trial(body: Callable[[Admission, AsyncExitStack], Awaitable[None]]) -> int:
    """Runs a test with places for three calls per verb, all of which are free at the end; returns the refusals."""
    refused = list[int]()

    async def run() -> None:
        admission = Admission(Limits(queue=2, batch=1), lambda: refused.append(1))
        async with AsyncExitStack() as held:
            await body(admission, held)
        assert not any(admission._open.values())

    asyncio.run(asyncio.wait_for(run(), 30.0))
    return len(refused)


def test_a_caller_with_two_calls_fewer_gets_a_further_place() -> None:
    async def body(admission: Admission, held: AsyncExitStack) -> None:
        for name in "aab":
            await held.enter_async_context(admission.place(PREDICT, TOKENS[name]))
        for name in "bcda":
            if name in "cd":
                await held.enter_async_context(admission.place(PREDICT, TOKENS[name]))
                continue
            with pytest.raises(OverloadedError):
                await held.enter_async_context(admission.place("/v1/worlds/other:predict", TOKENS[name]))
        for path in ("/healthz", "/v1/worlds/toy", "/v1/sessions/1:predict", "/v1/worlds/toy:score"):
            await held.enter_async_context(admission.place(path, TOKENS["a"]))

    assert trial(body) == 2


@pytest.mark.parametrize("cancelled", [(), (1,), (1, 2)])
def test_one_call_begins_per_iteration_of_the_loop(cancelled: tuple[int, ...]) -> None:
    async def body(admission: Admission, held: AsyncExitStack) -> None:
        begun = list[int]()

        async def call(number: int) -> None:
            async with admission.place("/v1/worlds/toy:" + ("predict" if number < 3 else "score"), ""):
                begun.append(number)

        tasks = [asyncio.create_task(call(number)) for number in range(5)]
        await asyncio.sleep(0)
        for number in cancelled:
            tasks[number].cancel()
        found = [len(begun)]
        while len(begun) < 5 - len(cancelled):
            await asyncio.sleep(0)
            found.append(len(begun))
        assert max(after - before for before, after in pairwise(found)) == 1
        assert begun == [number for number in range(5) if number not in cancelled]
        await asyncio.wait(tasks)
        await call(5)
        assert begun[-1] == 5

    assert trial(body) == 0
