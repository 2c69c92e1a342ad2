from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from tests.serve.scripted import service_of
from tests.serve.toy_sessions import ANN, BOB, BODY, toy_world
from tests.serve.waiting import wait_for

from worldline.serve import usage as module
from worldline.serve.callers import Caller, Scope
from worldline.serve.database import Database
from worldline.serve.problems import RateLimitedError
from worldline.serve.server import serving
from worldline.serve.tokens import Tokens
from worldline.serve.usage import Usage

pytestmark = pytest.mark.anyio

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC).timestamp()


class Clock:
    """The time of the module under test."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self, zone: dt.tzinfo | None = None) -> float | dt.datetime:
        return self.now if zone is None else dt.datetime.fromtimestamp(self.now, zone)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(time=found, monotonic=found))
    monkeypatch.setattr(module, "datetime", SimpleNamespace(now=found))
    return found


def caller(*, rate: float | None = None, quota: int | None = None, name: str = "ann") -> Caller:
    return Caller(id=name, name=name, scopes=frozenset(Scope), rate=rate, quota=quota)


def call(who: Caller = ANN, *, verb: str = "predict", status: int = 200) -> dict[str, Any]:
    return {"caller": who, "world": "toy", "verb": verb, "status": status, "seconds": 0.5, "steps": 7}


def admitted(usage: Usage, who: Caller, number: int) -> int:
    """Of so many calls, those that are admitted."""
    found = 0
    for _ in range(number):
        try:
            usage.admit(who)
        except RateLimitedError:
            continue
        usage.record(**call(who))
        found += 1
    return found


def test_a_rate_allows_the_calls_of_one_second_at_once_and_then_its_mean(clock: Clock) -> None:
    usage, who = Usage(None), caller(rate=4.0)
    assert admitted(usage, who, 10) == 4
    with pytest.raises(RateLimitedError, match="4 calls per second") as refused:
        usage.admit(who)
    assert refused.value.retry_after_s == pytest.approx(0.25)
    clock.now += refused.value.retry_after_s
    assert admitted(usage, who, 10) == 1
    clock.now += 1000
    assert admitted(usage, who, 10) == 4
    assert admitted(usage, caller(rate=4.0, name="bob"), 10) == 4
    assert admitted(usage, caller(name="eve"), 100) == 100


def test_a_quota_lasts_until_midnight(clock: Clock) -> None:
    usage, who = Usage(None), caller(quota=3)
    assert admitted(usage, who, 5) == 3
    with pytest.raises(RateLimitedError, match=r"3 calls per day .* midnight") as refused:
        usage.admit(who)
    assert refused.value.retry_after_s == pytest.approx(12 * 3600)
    clock.now += 12 * 3600 - 1
    assert admitted(usage, who, 1) == 0
    clock.now += 1
    assert admitted(usage, who, 5) == 3
    assert admitted(usage, caller(quota=0, name="eve"), 5) == 0


async def test_a_quota_holds_over_processes_and_restarts(database: Database, clock: Clock) -> None:
    one, other, who = Usage(database), Usage(database), caller(quota=10)

    assert (admitted(one, who, 4), admitted(other, who, 3)) == (4, 3)
    for _ in range(2):  # counts are not added twice
        await one.flush()
        await other.flush()
    assert admitted(other, who, 1) == 1
    await other.flush()
    await one.flush()
    assert admitted(one, who, 9) == 2
    assert admitted(other, who, 9) == 2  # up to the calls of one interval more
    for usage in (one, other, one):
        await usage.flush()
    restarted = Usage(database)
    await restarted.flush()
    for usage in (one, other, restarted):
        assert admitted(usage, who, 1) == 0
    clock.now += 12 * 3600
    assert admitted(one, who, 20) == 10
    await one.flush()
    await other.flush()
    assert admitted(other, who, 20) == 10  # it flushed before it noticed the new day
    await other.flush()
    assert admitted(other, who, 20) == 0


async def test_counts_add_up(database: Database, clock: Clock) -> None:
    one, other = Usage(database), Usage(database)

    for usage in (one, other, one):
        for found in (call(), call(status=429), call(BOB), call(verb="plan", status=504)):
            usage.record(**found)
        await usage.flush()
    clock.now += 12 * 3600
    one.record(**call())
    await one.flush()
    await one.flush()
    columns = ("token_id", "day", "verb", "calls", "errors", "seconds", "steps")
    found = {tuple(getattr(row, name) for name in columns) for row in one.report(2)}
    assert found == {
        ("ann", "2026-01-31", "predict", 6, 3, 3.0, 42),
        ("ann", "2026-01-31", "plan", 3, 3, 1.5, 21),
        ("bob", "2026-01-31", "predict", 3, 0, 1.5, 21),
        ("ann", "2026-02-01", "predict", 1, 0, 0.5, 7),
    }
    assert len(one.report(1)) == 1


async def test_counts_survive_a_failing_database_and_a_cancelled_flush(database: Database) -> None:
    usage = Usage(database)

    def execute(statement: str) -> None:
        database.write(lambda connection: connection.execute(text(statement)).close())

    usage.record(**call())
    execute("ALTER TABLE usage RENAME TO away")
    for _ in range(2):
        with pytest.raises(Exception, match="cannot be used"):
            await usage.flush()
        usage.record(**call())
    execute("ALTER TABLE away RENAME TO usage")
    task = asyncio.create_task(usage.flush())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for(lambda: usage.report(1))  # the write goes on in its thread
    assert [row.calls for row in usage.report(1)] == [3]


def test_limits_over_http(database: Database) -> None:
    tokens = Tokens(database)
    slow = tokens.create("slow", [Scope.INFER, Scope.SESSION], rate=0.01)
    few = tokens.create("few", [Scope.INFER, Scope.SESSION], quota=2)
    admin = tokens.create("admin", [Scope.ADMIN])

    def serve() -> AbstractContextManager[str]:
        return serving(service_of(toy_world(), tokens=tokens, usage=Usage(database)), database)

    with serve() as url, httpx.Client(base_url=url, trust_env=False) as http:

        def ask(token: str, path: str = "worlds/toy:predict", json: object = BODY) -> httpx.Response:
            return http.post(f"/v1/{path}", json=json, headers={"authorization": f"Bearer {token}"})

        session = {"world": "toy"}
        for method in ("GET", "DELETE"):
            key = {"authorization": f"Bearer {tokens.create(method, [Scope.SESSION], rate=0.3)}"}
            assert [http.request(method, "/v1/sessions/x", headers=key).status_code for _ in range(2)] == [404, 429]
        assert ask(slow).status_code == 200
        refused = ask(slow, "sessions", session)
        assert refused.status_code == 429
        assert refused.json()["code"] == "rate_limited"
        assert 90 < int(refused.headers["retry-after"]) <= 100
        assert [ask(few).status_code for _ in range(2)] == [200, 200]
        refused = ask(few, "sessions", {"no": "session"})  # before the body is decoded
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        ended = http.delete("/v1/sessions/x", headers={"authorization": f"Bearer {few}"})
        assert ended.status_code == 404  # a caller without quota may still end its sessions
    with serve() as url:
        again = httpx.post(f"{url}/v1/sessions", json=session, headers={"authorization": f"Bearer {few}"})
        assert again.status_code == 429  # from the first call on
        used = httpx.get(f"{url}/v1/usage", headers={"authorization": f"Bearer {admin}"}).json()["usage"]
    assert sorted((row["verb"], row["calls"], row["errors"], row["steps"]) for row in used) == [
        ("predict", 1, 0, 1),
        ("predict", 2, 0, 2),
    ]
