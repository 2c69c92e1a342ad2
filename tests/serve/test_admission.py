from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from worldline.serve.admission import Admission
from worldline.serve.limits import Limits

PREDICT = "/v1/worlds/toy:predict"


async def _nothing(*_: Any) -> None:
    """The application; also `receive` and `send`."""


def _run(app: Any) -> asyncio.Task[None]:
    return asyncio.ensure_future(app({}, _nothing, _nothing))


def test_a_verb_has_as_many_places_as_calls_that_wait_and_run() -> None:
    refused = list[str]()
    admission = Admission(Limits(queue=2, batch=1), lambda: refused.append("one"))
    held = [admission.enter(PREDICT, "a", _nothing) for _ in range(3)]
    assert all(held)
    for path in (f"{PREDICT}?x=:score", "/v1/worlds/toy%3Apredict", "/v1/%77orlds/toy:predict"):
        assert admission.enter(path, "a", _nothing) is None
    assert refused == ["one"] * 3
    held.pop()  # dropped by the server without a run
    held.append(admission.enter(PREDICT, "a", _nothing))
    assert all(held)
    assert admission.enter(PREDICT, "a", _nothing) is None
    assert admission.enter("/v1/worlds/toy:score", "a", _nothing) is not None
    for path in (
        "/healthz",
        "/v1/worlds/toy",
        "/v1/worlds?x=:predict",
        "/v1/sessions/1:predict",
        "/v1/worlds/toy:other",
    ):
        assert admission.enter(path, "a", _nothing) is _nothing  # not counted


def test_a_caller_with_two_calls_fewer_gets_a_further_place() -> None:
    admission = Admission(Limits(queue=2, batch=1), lambda: None)
    held = [admission.enter(PREDICT, caller, _nothing) for caller in ("a", "a", "b")]
    assert admission.enter(PREDICT, "b", _nothing) is None
    held += [admission.enter(PREDICT, caller, _nothing) for caller in ("c", "d")]
    assert all(held)
    assert admission.enter(PREDICT, "a", _nothing) is None


def test_a_place_is_free_after_an_answer_an_error_and_a_cancellation() -> None:
    async def fail(*_: Any) -> None:
        raise ValueError("the application failed")

    async def wait(*_: Any) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        admission = Admission(Limits(queue=2, batch=1), lambda: None)
        answered, failed, left = (_run(admission.enter(PREDICT, "a", app)) for app in (_nothing, fail, wait))
        await asyncio.wait([answered, failed])
        assert isinstance(failed.exception(), ValueError)
        left.cancel()
        await asyncio.wait([left])
        held = [admission.enter(PREDICT, "a", _nothing) for _ in range(3)]
        assert all(held)
        assert admission.enter(PREDICT, "a", _nothing) is None

    asyncio.run(run())


@pytest.mark.parametrize("cancelled", [(), (1,), (1, 2, 3)])
def test_one_call_begins_per_iteration_of_the_loop(cancelled: tuple[int, ...]) -> None:
    async def run() -> None:
        admission, begun = Admission(Limits(), lambda: None), list[int]()

        async def app(scope: Any, *_: Any) -> None:
            begun.append(scope["number"])

        tasks = [_run_numbered(admission.enter(PREDICT, "a", app), number) for number in range(5)]
        await asyncio.sleep(0)
        for number in cancelled:
            tasks[number].cancel()
        found = [len(begun)]
        while len(begun) < 5 - len(cancelled):
            await asyncio.sleep(0)
            found.append(len(begun))
        assert max(after - before for before, after in pairwise(found)) == 1
        assert begun == [number for number in range(5) if number not in cancelled]
        later = _run_numbered(admission.enter(PREDICT, "a", app), 5)
        await later
        assert begun[-1] == 5

    asyncio.run(asyncio.wait_for(run(), 30.0))


def _run_numbered(app: Any, number: int) -> asyncio.Task[None]:
    return asyncio.ensure_future(app({"number": number}, _nothing, _nothing))
