"""Comparisons of served worlds over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import httpx
import msgspec
import pytest
from tests.audit.carts import Cart, world, write
from tests.serve.scripted import service_of

from worldline.data.store import Store, open_store
from worldline.serve.http import create_app
from worldline.serve.problems import NotFoundError
from worldline.workflows.compare_worlds import compare_worlds
from worldline.world.base import World


@cache
def worlds() -> dict[str, World]:
    return {"law": world(Cart()), "weak": world(Cart(gain=0.5))}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(write(tmp_path_factory.mktemp("logs") / "carts", count=6))


def ask(open_log: Callable[[str], Store], *several: Mapping[str, Any]) -> list[httpx.Response]:
    """The answers to queries that are sent at once."""
    service = service_of(**worlds())
    service.logs.store = open_log
    app = create_app(service)

    async def main() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            return await asyncio.gather(*(http.get("/v1/logs/carts/comparison", params=query) for query in several))

    answers = asyncio.run(main())
    service.close()
    return answers


def test_the_answer_is_that_of_the_function(logs: Store) -> None:
    (answer,) = ask(lambda name: logs, {"worlds": "law,weak", "horizon": 3})
    expected = msgspec.json.decode(msgspec.json.encode(compare_worlds(*worlds().values(), logs, horizon=3)))
    shown = answer.json()
    for name, own, other in zip(worlds(), shown["worlds"], expected["worlds"], strict=True):
        assert {**own, "latency_s": 0} == {**other, "latency_s": 0, "name": name}
    assert {**shown, "worlds": []} == {**expected, "worlds": []}


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ({"worlds": "law"}, 400, "worlds is 'law'. Give two different names"),
        ({"worlds": "law,law"}, 400, "Give two different names"),
        ({"worlds": "law,none"}, 404, "'none'"),
        ({"worlds": "law,weak", "horizon": 0}, 400, "horizon is '0'"),
        ({"worlds": "law,weak", "horizon": 10_001}, 413, "horizon is 10001, more than 10000"),
        ({"worlds": "law,weak"}, 404, "there is no log 'carts'"),
    ],
)
def test_errors(query: Mapping[str, Any], status: int, detail: str) -> None:
    def unknown(name: str) -> Store:
        raise NotFoundError("log", name)

    (answer,) = ask(unknown, query)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


def test_a_second_comparison_at_the_same_time_is_refused(logs: Store) -> None:
    def slow(name: str) -> Store:
        time.sleep(0.3)
        return logs

    answers = ask(slow, *2 * [{"worlds": "law,weak", "horizon": 3}])
    assert sorted(answer.status_code for answer in answers) == [200, 429]
