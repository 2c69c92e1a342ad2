"""Sessions of callers: a belief in memory, and every acknowledged step in the database."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar, final

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, delete, exists, func, insert, literal, select, update

from worldline.episode import Arrays, Episode
from worldline.errors import ConfigError, InputError, WorldlineError
from worldline.planning.calls import PlanCall, PredictCall
from worldline.schema import Schema, Signal
from worldline.serve.callers import Caller
from worldline.serve.costs import costs_of, lane_for, with_budget
from worldline.serve.database import Database
from worldline.serve.hosting import HostedWorld
from worldline.serve.problems import (
    ConflictError,
    DeadlineError,
    GoneError,
    NotFoundError,
    RateLimitedError,
    StepConflictError,
)
from worldline.serve.service import Service
from worldline.serve.tables import session_blobs, session_steps, sessions
from worldline.world.compatibility import clashes
from worldline.world.session import Session, SessionState, SessionView
from worldline.world.wire import decode_answer, encode_answer

MAX_LIVE: Final = 256
"""Sessions whose beliefs stay in memory. Others are built again from their steps when they are used."""
KEPT_EXPIRED_S: Final = 86400.0
"""Seconds for which an expired session is reported as such; then it is deleted."""
_TRIM: Final = 64  # steps after which old steps are deleted
_SHARED_BYTES: Final = 1024  # size from which a step is stored once for a session and its forks
_REFRESH: Final = 0.1  # share of the lifetime after which a use is stored, so that not each one is

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The settings of a session, as in `worldline.world.session.Session`.

    Args:
        num_kept: observations that are kept; None for 128, or what model and horizon need if that is more.
        level: probability of the bands, in (0, 1); None for that of the world.
        horizon: steps of the trajectories that are compared with their bands.
        rate: speed of adaptation of the bands, at least 0.
        patience: mean number of steps between false alarms, at least 2.
    """

    num_kept: int | None = None
    level: float | None = None
    horizon: int = 1
    rate: float = 0.05
    patience: float = 1000.0


@dataclass(frozen=True, kw_only=True)
class ObservedStep:
    """One step of a session; see `worldline.world.session.Session.observe`.

    Args:
        observations: per signal [*shape].
        actions: since the last observation, per signal [*shape]; empty at the first step.
        exogenous: likewise.
        observed: per signal, whether its value was observed; True if left out.
    """

    observations: Arrays
    actions: Arrays = field(default_factory=dict)
    exogenous: Arrays = field(default_factory=dict)
    observed: Mapping[str, bool] = field(default_factory=dict)


@dataclass(eq=False)
class _Live:
    """A session in memory; without `session` it must be built from its steps.

    With an idempotency key, a deleted session may be created again under its id; `created` distinguishes them.
    """

    session: Session | None = None
    created: float = 0.0
    step: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@final
class Sessions:
    """The sessions of a service. Processes with one database share them.

    The transport has checked the rate of requests with a body (`Usage.check`).

    A step is acknowledged after it is in the database. The belief in memory is used as long as no other process has
    continued the session; else it is built again from the kept steps.

    Args:
        service: has the worlds and the workers.
        database: keeps sessions and steps.
    """

    def __init__(self, service: Service, database: Database) -> None:
        self._service, self._database = service, database
        self._live: OrderedDict[str, _Live] = OrderedDict()

    async def create(
        self, caller: Caller, world: str, settings: SessionSettings, *, key: str | None = None
    ) -> SessionView:
        """Opens a session.

        Args:
            caller: from `Service.authorize`.
            world: name of the world.
            settings: of the session.
            key: an idempotency key; a request with the same key gets the same session. None for none.

        Raises:
            NotFoundError: there is no such world.
            RateLimitedError: the caller has too many open sessions, or exceeds its rate or quota.
            InputError: a setting is out of range.
            ConflictError: the key was used for another world or other settings.
            GoneError: the session of the key has expired.
        """
        hosted, limits = self._service.hosts.find(world, caller), self._service.limits
        async with self._service.metered(caller, hosted, "create_session", checked=True):
            opening = partial(_opened, hosted, settings, limits.session_steps)
            session, version = await self._service.scheduler.run(opening, caller=caller.id)
        name, now = new_id(caller, "session", key), time.time()
        row: dict[str, Any] = {"id": name, "token_id": caller.id, "world": world, "version": version, "step": 0}
        row |= {"settings": asdict(settings), "state": _packed(session.state), "created": now}
        row |= {"expires": now + limits.session_s, "signals": msgspec.to_builtins(hosted.card.schema)}
        stored = await self._database.write_async(lambda connection: self._added(connection, caller, row))
        if stored is row:
            self._live[name] = _Live(session=session, created=now)
            self._evict()
        return _view(stored)

    async def get(self, caller: Caller, name: str) -> SessionView:
        """The present state of a session.

        Raises:
            NotFoundError: the caller has no such session.
            GoneError: it has expired.
            RateLimitedError: the caller exceeds its rate. The quota does not count, so every session can be ended.
        """
        self._service.usage.check_rate(caller)
        return _view(await asyncio.to_thread(self._row, caller, name))

    async def observe(
        self, caller: Caller, name: str, step: int, observed: ObservedStep, *, deadline_s: float | None = None
    ) -> SessionView:
        """Adds a step. Sending the last step again changes nothing.

        Args:
            caller: from `Service.authorize`.
            name: of the session.
            step: number of observations before this one.
            observed: the observation, and the inputs that led to it.
            deadline_s: as in `Service.ask`. After a missed deadline, send the step again.

        Raises:
            StepConflictError: another number of observations was added so far.
            InputError: as in `Session.observe`. The step is not added.
            RateLimitedError: the caller exceeds its rate or quota, or its sessions keep too much.
            NotFoundError: as in `get`.
            GoneError: as in `get`.
        """
        async with self._used(caller, name) as (row, live, session):
            body = encode_answer(observed)
            if row["step"] == step + 1 and await asyncio.to_thread(self._body, name, step) == body:
                return _view(row)
            if row["step"] != step:
                raise StepConflictError(f"step is {step}, expected {row['step']}: the number of observations so far.")
            hosted = self._service.hosts[row["world"]]
            run = partial(_observed, hosted, observed)
            async with self._service.metered(caller, hosted, "observe", session.horizon, checked=True):
                version = await self._compute(caller, hosted, live, run, 1 + session.horizon, deadline_s=deadline_s)
            live.session = None  # until the step is in the database
            changed = {"version": version, "state": _packed(session.state), "step": step + 1}
            changed["expires"] = time.time() + self._service.limits.session_s
            if version != row["version"]:
                changed["signals"] = msgspec.to_builtins(session.world.describe().schema)
            row |= changed

            def write(connection: Connection) -> None:
                mine = (sessions.c.id == name, sessions.c.step == step)
                if connection.execute(update(sessions).where(*mine).values(changed)).rowcount != 1:
                    raise StepConflictError(f"another request added step {step} first. Read the session again.")
                self._add_step(connection, caller, name, step, body)
                if (step + 1) % _TRIM == 0:
                    is_old = session_steps.c.step <= step - session.num_kept
                    _drop_steps(connection, (session_steps.c.session_id == name) & is_old)

            await self._database.write_async(write)
            live.session, live.step = session, step + 1
            return _view(row)

    async def ask(
        self,
        caller: Caller,
        name: str,
        call: PredictCall | PlanCall,
        *,
        encode: Callable[[object], object] | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        """The answer of `Session.answer`.

        Args:
            caller: from `Service.authorize`.
            name: of the session.
            call: from the present of the session.
            encode: as in `Service.ask`.
            deadline_s: as in `Service.ask`.

        Raises:
            WorldlineError: as the verbs of `World`, `get` and `Service.ask`.
        """
        async with self._used(caller, name) as (row, live, session):
            hosted, limits = self._service.hosts[row["world"]], self._service.limits
            whole = with_budget(replace(call, history=session.history), limits, deadline_s)
            steps = costs_of(whole, hosted.card, limits).steps

            def answer(current: Session) -> object:
                _follow(hosted, current)
                answered: object = current.answer(whole)
                return answered if encode is None else encode(answered)

            search_s = whole.budget_s if isinstance(whole, PlanCall) else 0.0
            async with self._service.metered(caller, hosted, call.verb, steps, checked=True):
                result = await self._compute(caller, hosted, live, answer, 1 + steps, search_s, deadline_s)
            if row["expires"] - time.time() < (1 - _REFRESH) * limits.session_s:
                used = update(sessions).where(sessions.c.id == name).values(expires=time.time() + limits.session_s)
                await self._database.write_async(lambda connection: connection.execute(used).close())
            return result

    async def fork(self, caller: Caller, name: str, *, key: str | None = None) -> SessionView:
        """A new session with the same history; `key` as in `create`.

        Raises:
            NotFoundError: as in `get`.
            GoneError: as in `get`.
            RateLimitedError: as in `create`.
        """
        source = await asyncio.to_thread(self._row, caller, name)
        new, now = new_id(caller, f"fork of {name}", key), time.time()

        def write(connection: Connection) -> dict[str, Any]:
            stored = connection.execute(select(sessions).where(sessions.c.id == name)).mappings().one_or_none()
            if stored is None:
                raise NotFoundError("session", name)
            row = {**stored, "id": new, "created": now, "expires": now + self._service.limits.session_s}
            if (added := self._added(connection, caller, row)) is row:
                copied = ["step", "body", "blob"]
                columns = select(literal(new), *(session_steps.c[column] for column in copied))
                steps = columns.where(session_steps.c.session_id == name)
                connection.execute(insert(session_steps).from_select(["session_id", *copied], steps))
            return added

        async with self._service.metered(caller, self._service.hosts[source["world"]], "fork"):
            return _view(await self._database.write_async(write))

    async def delete(self, caller: Caller, name: str) -> None:
        """Ends a session.

        Raises:
            NotFoundError: as in `get`.
            RateLimitedError: as in `get`.
        """
        self._service.usage.check_rate(caller)

        mine = (sessions.c.id == name) & (sessions.c.token_id == caller.id)
        if not await self._database.write_async(lambda connection: _drop_sessions(connection, mine)):
            raise NotFoundError("session", name)
        self._live.pop(name, None)

    async def clean(self) -> None:
        """Deletes sessions that expired long ago."""
        old = sessions.c.expires < time.time() - KEPT_EXPIRED_S
        await self._database.write_async(lambda connection: _drop_sessions(connection, old))

    async def _compute(
        self,
        caller: Caller,
        hosted: HostedWorld,
        live: _Live,
        function: Callable[[Session], T],
        length: int,
        search_s: float | None = 0.0,
        deadline_s: float | None = None,
    ) -> T:
        """The result of a function of a session, in the workers for calls of this length (see `lane_for`)."""
        session, live.session = live.session, None
        assert session is not None
        try:
            lane = lane_for(hosted.card, length, search_s)
            run = partial(function, session)
            result = await self._service.scheduler.run(run, lane=lane, caller=caller.id, deadline_s=deadline_s)
        except DeadlineError:
            raise  # a worker may still change the session, so it is built again
        except WorldlineError:
            live.session = session  # unchanged
            raise
        live.session = session
        return result

    @asynccontextmanager
    async def _used(self, caller: Caller, name: str) -> AsyncIterator[tuple[dict[str, Any], _Live, Session]]:
        """The row of a session, and the session in memory. Calls of one session follow one another."""
        live = self._live.setdefault(name, _Live())
        self._live.move_to_end(name)
        async with live.lock:
            try:
                row = await asyncio.to_thread(self._row, caller, name)
                if live.session is None or (live.created, live.step) != (row["created"], row["step"]):
                    await self._build(caller, row, live)
                assert live.session is not None
                yield row, live, live.session
            finally:
                if live.session is None and self._live.get(name) is live:
                    del self._live[name]
        self._evict()

    def _evict(self) -> None:
        """Drops the sessions that were used least recently from memory."""
        surplus = len(self._live) - MAX_LIVE
        if surplus > 0:
            idle = [name for name, live in self._live.items() if not live.lock.locked()]
            for name in idle[:surplus]:
                del self._live[name]

    async def _build(self, caller: Caller, row: Mapping[str, Any], live: _Live) -> None:
        """Builds a session from its row and its steps."""
        hosted, settings = self._service.hosts[row["world"]], SessionSettings(**row["settings"])
        _check_signals(row, hosted.card.schema)
        state = await asyncio.to_thread(self._state, hosted.card.schema, row)
        opening = partial(_opened, hosted, settings, self._service.limits.session_steps, state, row["version"])
        live.session = None  # also if this fails
        length = 1 + (0 if state.episode is None else state.episode.num_steps)
        lane = lane_for(hosted.card, length)
        live.session, _ = await self._service.scheduler.run(opening, lane=lane, caller=caller.id)
        live.created, live.step = row["created"], row["step"]

    def _row(self, caller: Caller, name: str) -> dict[str, Any]:
        mine = select(sessions).where(sessions.c.id == name, sessions.c.token_id == caller.id)
        row = self._database.read(lambda connection: connection.execute(mine).mappings().one_or_none())
        if row is None:
            raise NotFoundError("session", name)
        if row["expires"] < time.time():
            raise GoneError("the session has expired. Open a new one.")
        return dict(row)

    def _body(self, name: str, step: int) -> bytes | None:
        """The stored message of a step."""
        query = _bodies().where(session_steps.c.session_id == name, session_steps.c.step == step)
        return self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())

    def _state(self, schema: Schema, row: Mapping[str, Any]) -> SessionState:
        """The state of a session from its row and its kept steps."""
        kept = _bodies().where(session_steps.c.session_id == row["id"], session_steps.c.step < row["step"])
        kept = kept.order_by(session_steps.c.step.desc()).limit(self._service.limits.session_steps)
        bodies = self._database.read(lambda connection: connection.execute(kept).scalars().all())
        steps: Any = [decode_answer(ObservedStep, body) for body in reversed(bodies)]
        state = msgspec.convert({**row["state"], "episode": None}, SessionState)
        return replace(state, episode=_episode(schema, steps) if steps else None)

    def _added(self, connection: Connection, caller: Caller, row: dict[str, Any]) -> dict[str, Any]:
        """The row after it was added; the one that an earlier request with the same key added, if there is one."""
        stored = connection.execute(select(sessions).where(sessions.c.id == row["id"])).mappings().one_or_none()
        if stored is None:
            self._check_count(connection, caller)
            connection.execute(insert(sessions).values(row))
            return row
        if stored["expires"] < time.time():
            raise GoneError("the session of this Idempotency-Key has expired. Use another key.")
        if any(stored[name] != row[name] for name in ("world", "settings")):
            raise ConflictError("this Idempotency-Key was used for another world or other settings. Use another key.")
        return dict(stored)

    def _add_step(self, connection: Connection, caller: Caller, name: str, step: int, body: bytes) -> None:
        """Stores a step, if the caller may store so much."""
        row: dict[str, Any] = {"session_id": name, "step": step, "body": body}
        if len(body) >= _SHARED_BYTES:
            limit = self._service.limits.session_bytes
            mine = select(func.coalesce(func.sum(session_blobs.c.size), 0)).where(session_blobs.c.token_id == caller.id)
            if (stored := connection.execute(mine).scalar_one()) + len(body) > limit:
                raise RateLimitedError(
                    f"sessions of this token keep {stored} bytes, and {limit} are allowed. Delete a session, or keep "
                    "fewer steps (num_kept)."
                )
            blob = {"id": secrets.token_urlsafe(16), "token_id": caller.id, "size": len(body), "body": body}
            connection.execute(insert(session_blobs).values(blob))
            row |= {"body": b"", "blob": blob["id"]}
        connection.execute(insert(session_steps).values(row))

    def _check_count(self, connection: Connection, caller: Caller) -> None:
        mine = (sessions.c.token_id == caller.id, sessions.c.expires > time.time())
        count = connection.execute(select(func.count()).select_from(sessions).where(*mine)).scalar_one()
        if count >= self._service.limits.sessions:
            raise RateLimitedError(f"{count} sessions are open. Delete one, or wait until one expires.")


def new_id(caller: Caller, kind: str, key: str | None) -> str:
    """A new id; the same one for each request of a caller with the same idempotency key."""
    if key is None:
        return secrets.token_urlsafe(16)
    digest = hashlib.sha256("\n".join((caller.id, kind, key)).encode()).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def _opened(
    hosted: HostedWorld,
    settings: SessionSettings,
    max_kept: int,
    state: SessionState | None = None,
    version_before: int | None = None,
) -> tuple[Session, int | None]:
    """A session with the current version of a world, and that version."""
    version, world = hosted.current()
    needed = world.describe().context + settings.horizon + 1
    num_kept = max(128, needed) if settings.num_kept is None else settings.num_kept
    if num_kept > max_kept:
        raise InputError(
            f"num_kept is {num_kept}, and this service keeps at most {max_kept} steps. Lower num_kept or horizon."
        )
    try:
        session = Session(world, **{**asdict(settings), "num_kept": num_kept})
    except ConfigError as error:  # the settings come from the caller
        raise InputError(str(error)) from error
    if state is not None:
        if version != version_before:  # bands as calibrated, as in `Session.use`
            state = replace(state, widening={}, evidence=1.0, since=state.num_seen)
        kept = None if state.episode is None else state.episode.last(num_kept)
        session.resume(replace(state, episode=kept))
    return session, version


def _follow(hosted: HostedWorld, session: Session) -> int | None:
    """Continues with the current version of the world, and returns its number."""
    version, world = hosted.current()
    if world is not session.world:
        try:
            session.use(world)
        except InputError as error:
            raise GoneError(f"{error} Open a new session.") from error
    return version


def _check_signals(row: Mapping[str, Any], schema: Schema) -> None:
    """Checks that the world of a session still has its signals, also if its folder was replaced.

    Raises:
        GoneError: it has others.
    """
    if row["signals"] is None:  # of an older version of the service
        return
    before = msgspec.convert(row["signals"], Schema)
    names, known = ([signal.name for signal in one.observations] for one in (before, schema))
    changes = [f"the observation signal {name!r} is missing" for name in names if name not in known]
    if changes := changes + list(clashes(before, schema, names)):
        raise GoneError(
            f"the world {row['world']!r} was replaced by another one: {'; '.join(changes[:3])}. Open a new session."
        )


def _observed(hosted: HostedWorld, step: ObservedStep, session: Session) -> int | None:
    version = _follow(hosted, session)
    # Without inputs at the first step, None is required.
    inputs = {"actions": step.actions or None, "exogenous": step.exogenous or None}
    session.observe(step.observations, **inputs, observed=step.observed)
    return version


def _bodies() -> Select[Any]:
    """The messages of steps."""
    body = func.coalesce(session_blobs.c.body, session_steps.c.body)
    return select(body).select_from(session_steps).outerjoin(session_blobs, session_blobs.c.id == session_steps.c.blob)


def _drop_steps(connection: Connection, which: ColumnElement[bool]) -> None:
    """Deletes steps, and large ones that no other session keeps."""
    dropped = connection.execute(delete(session_steps).where(which).returning(session_steps.c.blob)).scalars()
    blobs = [blob for blob in dropped if blob is not None]
    kept = exists().where(session_steps.c.blob == session_blobs.c.id)
    for first in range(0, len(blobs), 1000):  # SQLite limits the values of a statement
        some = session_blobs.c.id.in_(blobs[first : first + 1000])
        connection.execute(delete(session_blobs).where(some, ~kept))


def _drop_sessions(connection: Connection, which: ColumnElement[bool]) -> int:
    """Deletes sessions with their steps; returns their number."""
    _drop_steps(connection, session_steps.c.session_id.in_(select(sessions.c.id).where(which)))
    return connection.execute(delete(sessions).where(which)).rowcount


def _packed(state: SessionState) -> Any:
    """The state without its steps."""
    return msgspec.to_builtins(replace(state, episode=None))


def _episode(schema: Schema, steps: Sequence[ObservedStep]) -> Episode:
    """The episode of consecutive steps. The inputs of the first one, which led to it, are left out."""
    first, later = steps[0], steps[1:]
    return Episode(
        observations={name: np.stack([step.observations[name] for step in steps]) for name in first.observations},
        actions=_inputs(schema.actions, [step.actions for step in later]),
        exogenous=_inputs(schema.exogenous, [step.exogenous for step in later]),
        observed={name: np.array([step.observed.get(name, True) for step in steps]) for name in first.observations},
    )


def _inputs(signals: Sequence[Signal], parts: Sequence[Arrays]) -> Arrays:
    none = {signal.name: np.zeros((0, *signal.shape), signal.dtype) for signal in signals}
    return {name: np.stack([part[name] for part in parts]) if parts else empty for name, empty in none.items()}


def _view(row: Mapping[str, Any]) -> SessionView:
    columns = {str(name): value for name, value in row.items()}  # names of SQLAlchemy are of another type
    return msgspec.convert({**columns, **row["state"]}, SessionView)
