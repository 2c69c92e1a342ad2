"""Admission: places per verb, the order of calls, and refusals before the application is asked."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from urllib.parse import urlsplit

import httpx
import pytest
from tests.serve.scripted import BODY, ScriptedWorld, service_of
from tests.serve.waiting import wait_for

from worldline.serve.admission import Admission
from worldline.serve.limits import Limits
from worldline.serve.problems import OverloadedError
from worldline.serve.server import serving

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


def test_a_refused_call_is_answered_at_once_and_its_connection_goes_on() -> None:
    go, headers = threading.Event(), {"Content-Type": "application/json"}

    def wait(_call: object) -> None:
        assert go.wait(30)

    service = service_of(ScriptedWorld(wait), Limits(queue=1, batch=1))
    with serving(service) as url, httpx.Client(base_url=url, trust_env=False, headers=headers, timeout=30) as client:
        threads = [threading.Thread(target=client.post, args=(PREDICT,), kwargs={"content": BODY}) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: sum(service.admission._open["predict"].values()) == 2)
        with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30) as connection:
            call = (
                f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nRequest-Id: mine\r\nContent-Length: {len(BODY)}\r\n\r\n"
            )
            for sent, status in (
                (call.encode() + BODY, 429),
                (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
            ):
                connection.sendall(sent)
                response = http.client.HTTPResponse(connection)
                response.begin()
                response.read()
                assert response.status == status
                assert status == 200 or response.headers["Request-Id"] == "mine"
        go.set()
        for thread in threads:
            thread.join(30)
        assert client.post(PREDICT, content=BODY).status_code == 200
