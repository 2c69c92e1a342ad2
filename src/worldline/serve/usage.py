"""Rates, quotas and usage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, final

from sqlalchemy import Connection, func, insert, select, update

from worldline.serve.callers import Caller
from worldline.serve.database import Database
from worldline.serve.problems import RateLimitedError
from worldline.serve.tables import usage

Key = tuple[str, str, str, str]
"""Id of a token, day, world and verb."""


@final
@dataclass(frozen=True, kw_only=True)
class UsageRow:
    """The calls of one token, day, world and verb.

    Args:
        token_id: id of the token; empty for callers without one.
        day: in UTC, ISO 8601.
        world: name of the world.
        verb: that was called.
        calls: number of calls.
        errors: number of calls that failed.
        seconds: duration of all calls.
        steps: predicted steps of all calls.
    """

    token_id: str
    day: str
    world: str
    verb: str
    calls: int
    errors: int
    seconds: float
    steps: int


@final
@dataclass(frozen=True, kw_only=True)
class UsageReport:
    """The usage of the last days.

    Args:
        usage: ordered by day and token.
    """

    usage: tuple[UsageRow, ...]


@final
class Usage:
    """Admits calls, and counts them in memory until `flush` adds them to the database.

    A rate holds in each process. A quota holds over all processes with one database, up to the calls of one interval
    between flushes. A killed process loses the counts since the last flush.

    Args:
        database: None to count in memory only.
    """

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._buckets: dict[str, tuple[float, float]] = {}
        self._sums = dict[Key, Counter[str]]()
        self._today: dict[str, int] = {}
        self._day = _day()

    def check(self, caller: Caller) -> None:
        """Counts a request against the rate, and checks the quota, before any work is done for it.

        Raises:
            RateLimitedError: the caller exceeds one of them.
        """
        self.check_rate(caller)
        if self._day != (day := _day()):
            self._day, self._today = day, {}
        if caller.quota is not None and self._today.get(caller.id, 0) >= caller.quota:
            now = datetime.now(UTC)
            midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            raise RateLimitedError(
                f"the quota of {caller.quota} calls per day is used up. It starts again at midnight (UTC).",
                (midnight - now).total_seconds(),
            )

    def admit(self, caller: Caller, *, checked: bool = False) -> None:
        """Counts a call against rate and quota.

        Args:
            caller: who calls.
            checked: whether `check` counted the request against the rate.

        Raises:
            RateLimitedError: as in `check`.
        """
        self.check(replace(caller, rate=None) if checked else caller)
        self._today[caller.id] = self._today.get(caller.id, 0) + 1

    def record(self, caller: Caller, *, world: str, verb: str, status: int, seconds: float, steps: int) -> None:
        """Counts a finished call.

        Args:
            caller: who called.
            world: name of the world.
            verb: that was called.
            status: HTTP status of the answer.
            seconds: from the request to the answer.
            steps: predicted steps, over all worlds and candidates.
        """
        counts: dict[str, Any] = {"calls": 1, "errors": int(status >= 400), "seconds": seconds, "steps": steps}
        self._count((caller.id, _day(), world, verb), counts)

    async def flush(self) -> None:
        """Adds the counts to the database, and reads the calls of today, also those of other processes."""
        if self._database is None:
            self._sums.clear()
            return
        sums, self._sums = self._sums, {}
        day, before = _day(), dict(self._today)

        def write(connection: Connection) -> None:
            for key, counts in sums.items():
                _add(connection, key, counts)

        if sums:
            try:
                # Goes on if this task is cancelled or the loop ends.
                await asyncio.shield(asyncio.wrap_future(self._database.write_later(write)))
            except Exception:
                for key, counts in sums.items():  # in the next flush
                    self._count(key, counts)
                raise
        counted = await self._database.read_async(lambda connection: _counts(connection, day))
        if self._day == day:
            # Calls that were admitted meanwhile, or still run, are not in the database yet.
            for name in {*counted, *self._today}:
                since = self._today.get(name, 0) - before.get(name, 0)
                self._today[name] = max(counted.get(name, 0), before.get(name, 0)) + since

    def _count(self, key: Key, counts: Mapping[str, Any]) -> None:
        self._sums.setdefault(key, Counter()).update(counts)  # adds

    def report(self, days: int) -> tuple[UsageRow, ...]:
        """The usage of the last days, per token, day, world and verb, without the counts since the last flush."""
        if self._database is None:
            return ()
        first = (datetime.now(UTC) - timedelta(days=days - 1)).date().isoformat()
        query = select(usage).where(usage.c.day >= first).order_by(usage.c.day, usage.c.token_id)
        rows = self._database.read(lambda connection: connection.execute(query).mappings().all())
        return tuple(UsageRow(**row) for row in rows)

    def check_rate(self, caller: Caller) -> None:
        """Counts a request against the rate, for which a bucket holds the calls of one second, at least one.

        Raises:
            RateLimitedError: the caller exceeds it.
        """
        if caller.rate is None:
            return
        now, size = time.monotonic(), max(1.0, caller.rate)
        left, since = self._buckets.get(caller.id, (size, now))
        left = min(size, left + (now - since) * caller.rate)
        self._buckets[caller.id] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            after_s = (1 - left) / caller.rate
            raise RateLimitedError(f"the rate of {caller.rate:g} calls per second is exceeded. Send fewer.", after_s)


def _day() -> str:
    return datetime.now(UTC).date().isoformat()


def _add(connection: Connection, key: Key, counts: Mapping[str, Any]) -> None:
    token_id, day, world, verb = key
    row = (usage.c.token_id == token_id, usage.c.day == day, usage.c.world == world, usage.c.verb == verb)
    added = {name: usage.c[name] + value for name, value in counts.items()}
    # Writers run one after the other, also those of other processes, so no row appears in between.
    if connection.execute(update(usage).where(*row).values(added)).rowcount == 0:
        connection.execute(insert(usage).values(token_id=token_id, day=day, world=world, verb=verb, **counts))


def _counts(connection: Connection, day: str) -> dict[str, int]:
    """Calls per token."""
    sums = select(usage.c.token_id, func.sum(usage.c.calls)).where(usage.c.day == day).group_by(usage.c.token_id)
    return {token_id: int(count) for token_id, count in connection.execute(sums)}
