"""Jobs of callers: a queue in the database, and processes that work on it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import msgspec
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog, default_folder
from worldline.errors import UnavailableError, UnknownNameError, UnsupportedError, WorldlineError
from worldline.serve.callers import Caller
from worldline.serve.database import Database
from worldline.serve.job_child import COMMAND, JobChild
from worldline.serve.job_process import REPORT, WORK, JobTask
from worldline.serve.job_requests import AuditJob, ExamJob, JobRequest, LearnJob, LogsFolder, check_request
from worldline.serve.problems import ConflictError, FaultLog, GoneError, NotFoundError, RateLimitedError, problem_of
from worldline.serve.service import Service
from worldline.serve.sessions import ID_LENGTH, new_id
from worldline.serve.tables import jobs

ATTEMPTS: Final = 3
"""How often a job begins whose service is killed."""

ENDED: Final = ("done", "failed", "cancelled")
"""States in which a job stays."""

_GRACE_S: Final = 10.0
_HEARTBEAT_S: Final = 15.0
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How a service runs jobs.

    Args:
        folder: for the files of jobs. Processes share it only if they share the database too.
        logs: folder whose entries are the logs that callers can name; None for no logs.
        worlds: folders of the served worlds that are not of the catalog, by name.
        device: of learning and audits; argument of `worldline.open`.
        workers: jobs at a time in this process; 0 leaves them to other processes.
        threads: of each job.
        beat_s: seconds between two signs of life.
        lease_s: seconds without one after which another process continues a job. Clocks of servers must agree to a
            quarter of it.
        command: runs a job.
    """

    folder: Path
    logs: Path | None = None
    worlds: Mapping[str, Path] = field(default_factory=dict)
    device: str = "auto"
    workers: int = 1
    threads: int = max(1, (os.cpu_count() or 1) // 2)
    beat_s: float = 1.0
    lease_s: float = 60.0
    command: Sequence[str] = COMMAND


@final
@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as its caller sees it. Times are seconds since 1970 (UTC).

    Args:
        id: names the job.
        kind: learn, audit or exam.
        status: queued, running, done, failed or cancelled.
        arguments: the request; a world is named with its version.
        progress: stage, completed steps, their total and loss; None before the first step.
        error: class and message of the error; None unless the job failed.
        created: when it was accepted.
        started: when it first ran; None before.
        finished: when it ended; None before.
    """

    id: str
    kind: str
    status: str
    arguments: Mapping[str, Any]
    progress: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    created: float
    started: float | None
    finished: float | None


_VIEW: Final = [jobs.c[item.name] for item in fields(JobView)]


@final
class Jobs:
    """The jobs of a service. Processes with one database share the queue, and run no job twice at once.

    Args:
        service: has the served worlds and the limits.
        database: holds the queue.
        settings: how jobs run.
    """

    def __init__(self, service: Service, database: Database, settings: JobSettings) -> None:
        self.logs = LogsFolder(settings.logs)
        self._hosts, self._limits, self._database, self._settings = service.hosts, service.limits, database, settings
        self._folder = settings.folder.resolve() / "jobs"
        self._owner = secrets.token_hex(8)
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._tasks = list[asyncio.Task[None]]()
        self._streams = service.streams

    def start(self) -> None:
        """Begins to work on the queue, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.workers)]

    def end_streams(self) -> None:
        """Ends the streams of events, and lets no further job begin. Call it before connections are drained."""
        self._closing.set()
        self._wake.set()

    async def close(self) -> None:
        """Stops the running jobs, which another process continues, or this one after its next start."""
        self.end_streams()
        await asyncio.gather(*self._tasks)

    async def create(self, caller: Caller, request: JobRequest, *, key: str | None = None) -> JobView:
        """Adds a job to the queue. It survives the service once this returns.

        Args:
            caller: from `Service.authorize`.
            request: what to do.
            key: an idempotency key; the same request with the same key gets the same job. None for none.

        Raises:
            RateLimitedError: the caller has too many unfinished jobs.
            ConflictError: the key was used for another job.
            WorldlineError: the request is not valid, as in `check_request` and `LogsFolder.path`; or there is no such
                world.
        """
        check_request(request, caller)
        asked, request = request, await asyncio.to_thread(self._resolved, request, caller)
        arguments = msgspec.to_builtins(request)
        row: dict[str, Any] = dict.fromkeys(jobs.c.keys()) | {
            "id": (name := new_id(caller, "job", key)),
            "token_id": caller.id,
            "kind": arguments.pop("kind"),
            "arguments": arguments,
            "status": "queued",
            "created": time.time(),
            "cancel": False,
            "attempts": 0,
        }

        def add(connection: Connection) -> JobView:
            known = connection.execute(select(*_VIEW).where(jobs.c.id == name)).mappings().one_or_none()
            if known is not None:
                if not _is_same(_request_of(known), request, asked):
                    raise ConflictError("this Idempotency-Key was used for another job. Use another key.")
                return _view(known)
            mine = (jobs.c.token_id == caller.id, jobs.c.status.not_in(ENDED))
            count = connection.execute(select(func.count()).select_from(jobs).where(*mine)).scalar_one()
            if count >= self._limits.jobs:
                raise RateLimitedError(f"{count} jobs are not finished. Wait for one, or cancel one.", 60.0)
            connection.execute(insert(jobs).values(row))
            return _view(row)

        job = await self._database.write_async(add)
        self._wake.set()
        return job

    async def get(self, caller: Caller, name: str) -> JobView:
        """The current state of a job.

        Raises:
            NotFoundError: the caller has no such job.
        """
        mine = select(*_VIEW).where(jobs.c.id == name, jobs.c.token_id == caller.id)
        row = await self._database.read_async(lambda connection: connection.execute(mine).mappings().one_or_none())
        return _existing(name, row)

    async def list_jobs(self, caller: Caller) -> list[JobView]:
        """The jobs of the caller, the newest first; at most 100."""
        mine = select(*_VIEW).where(jobs.c.token_id == caller.id).order_by(jobs.c.created.desc()).limit(100)
        rows = await self._database.read_async(lambda connection: connection.execute(mine).mappings().all())
        return [_view(row) for row in rows]

    async def cancel(self, caller: Caller, name: str) -> JobView:
        """Ends a job; one that runs ends within seconds. A job that has ended does not change.

        Raises:
            NotFoundError: as in `get`.
        """
        mine = (jobs.c.id == name, jobs.c.token_id == caller.id)

        def mark(connection: Connection) -> JobView:
            connection.execute(update(jobs).where(*mine, jobs.c.status == "queued").values(_ended("cancelled")))
            connection.execute(update(jobs).where(*mine, jobs.c.status == "running").values(cancel=True))
            return _existing(name, connection.execute(select(*_VIEW).where(*mine)).mappings().one_or_none())

        return await self._database.write_async(mark)

    async def result(self, caller: Caller, name: str) -> Mapping[str, Any]:
        """The figures of a job.

        Raises:
            NotFoundError: as in `get`.
            ConflictError: the job is not done.
        """
        await self._done(caller, name)
        stored = select(jobs.c.result).where(jobs.c.id == name)
        return dict(await self._database.read_async(lambda connection: connection.execute(stored).scalar_one()))

    async def report(self, caller: Caller, name: str) -> bytes:
        """The report of a job, an HTML page.

        Raises:
            NotFoundError: as in `get`.
            ConflictError: the job is not done.
            GoneError: the report is not on this server.
        """
        job = await self._done(caller, name)
        try:
            return await asyncio.to_thread((self._folder / job.id / REPORT).read_bytes)
        except OSError:
            raise GoneError("the report is not on this server. The result has the figures.") from None

    async def events(self, caller: Caller, name: str) -> AsyncIterator[JobView | None]:
        """The job now and after each change, until it ends or the service stops; None keeps a connection open.

        Progress is reported about once per second; steps between are left out.

        Args:
            caller: from `Service.authorize`.
            name: of the job.

        Raises:
            NotFoundError: as in `get`.
            OverloadedError: the caller has too many open streams.
        """
        with self._streams.open(caller.id, 1):
            sent, sent_s = None, time.monotonic()
            while True:
                job, now_s = await self.get(caller, name), time.monotonic()
                if job != sent or now_s - sent_s > _HEARTBEAT_S:
                    yield None if job == sent else job
                    sent, sent_s = job, now_s
                if job.status in ENDED or self._closing.is_set():
                    return
                await _wait(self._closing, self._settings.beat_s / 2)

    async def clean(self) -> None:
        """Deletes jobs that ended long ago, and the files of jobs that do not exist."""
        old = jobs.c.finished < time.time() - self._limits.job_kept_s
        await self._database.write_async(lambda connection: connection.execute(delete(jobs).where(old)))

        def remove() -> None:
            folders = list(self._folder.iterdir()) if self._folder.is_dir() else []  # before jobs are read
            known = self._database.read(lambda connection: connection.execute(select(jobs.c.id)).scalars().all())
            for folder in folders:
                if len(folder.name) == ID_LENGTH and folder.name not in known:  # others may be of a world named jobs
                    shutil.rmtree(folder, ignore_errors=True)

        await asyncio.to_thread(remove)

    async def _done(self, caller: Caller, name: str) -> JobView:
        job = await self.get(caller, name)
        if job.status != "done":
            reason = f": {job.error['message']}" if job.error else "."
            raise ConflictError(f"the job has no result. It is {job.status}{reason}")
        return job

    def _resolved(self, request: JobRequest, caller: Caller) -> JobRequest:
        """The request with its world as name and version, after its names were checked."""
        if isinstance(request, ExamJob):
            return request
        if isinstance(request, LearnJob):
            Catalog().check_name(request.name)
        self.logs.path(request.logs)
        if isinstance(request, AuditJob):
            return msgspec.structs.replace(request, world=self._pinned(request.world, caller))
        return request

    def _pinned(self, world: str, caller: Caller) -> str:
        """`NAME@NUMBER` of a world of the catalog; the name of another one."""
        if "@" not in world:
            reference = self._hosts.find(world, caller).reference
            return world if reference is None else self._pinned(reference, caller)
        try:
            return f"{Reference.parse(world).name}@{Catalog().resolve(world).name}"
        except UnknownNameError as error:
            raise NotFoundError(error.kind, error.name) from error  # callers cannot list the catalog

    def _task(self, row: Mapping[str, Any]) -> JobTask:
        """What the process of a job is to do."""
        request = _request_of(row)
        settings, folder = self._settings, self._folder / row["id"]
        roots, logs, world = [folder / WORK, default_folder().absolute()], None, None
        if not isinstance(request, ExamJob):
            logs = self.logs.path(request.logs)
            roots.append(logs.parent)
        if isinstance(request, AuditJob):
            world = Catalog().resolve(request.world) if "@" in request.world else settings.worlds.get(request.world)
            if world is None:
                raise UnsupportedError(f"the folder of {request.world!r} is not known. Publish the world and name it.")
            roots.append(world.resolve().parent)
        return JobTask(
            request=request,
            folder=str(folder),
            logs=str(logs or ""),
            world="" if world is None else str(world.resolve()),
            roots=tuple(map(str, roots)),
            device=settings.device,
            threads=settings.threads,
            memory_bytes=self._limits.job_bytes,
        )

    async def _work(self) -> None:
        """Runs one job after the other."""
        faults, task = FaultLog(_logger), "the queue of jobs"
        while not self._closing.is_set():
            try:
                self._wake.clear()
                row = await self._claim()
                faults.end(task)
                if row is None:
                    await _wait(self._wake, self._settings.beat_s)
                else:
                    await self._run(row)
            except Exception as error:  # noqa: BLE001  # the next job may run
                faults.begin(task, error)
                await _wait(self._closing, self._settings.beat_s)

    def _next(self, connection: Connection) -> RowMapping | None:
        """The oldest job that waits, or whose process is gone."""
        lost = (jobs.c.status == "running") & (jobs.c.heartbeat < time.time() - self._settings.lease_s)
        waiting = select(jobs).where((jobs.c.status == "queued") | lost).order_by(jobs.c.created).limit(1)
        return connection.execute(waiting).mappings().one_or_none()

    async def _claim(self) -> Mapping[str, Any] | None:
        """The next job, which this process now owns."""
        if await self._database.read_async(self._next) is None:
            return None

        def take(connection: Connection) -> Mapping[str, Any] | None:
            while (row := self._next(connection)) is not None:
                now = time.time()
                if row["cancel"]:
                    values = _ended("cancelled")
                elif row["attempts"] >= ATTEMPTS:
                    values = _failed("UnavailableError", f"the service was stopped {ATTEMPTS} times while the job ran.")
                else:
                    values = {"status": "running", "owner": self._owner, "heartbeat": now}
                    values |= {"started": row["started"] or now, "attempts": row["attempts"] + 1}
                connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(values))
                if values["status"] == "running":
                    return {**row, **values}
            return None

        return await self._database.write_async(take)

    async def _run(self, row: Mapping[str, Any]) -> None:
        """Runs a job until it ends, is cancelled, or this process closes."""
        try:
            task = await asyncio.to_thread(self._task, row)
        except WorldlineError as error:
            shown = problem_of(error).error
            await self._settle(row, None, _failed(type(shown).__name__, str(shown)))
            return
        child = await JobChild.start(self._settings.command, task)
        try:
            reason = await self._attend(row, child)
        finally:
            await child.kill()
        if reason == "lost":
            return
        await self._settle(row, child, _outcome(row, child, reason, self._limits.job_s))
        if child.end is not None and child.end.failure is not None and child.end.failure.fault:
            _logger.error("job %s failed: %s", row["id"], child.end.failure.fault)

    async def _attend(self, row: Mapping[str, Any], child: JobChild) -> str | None:
        """Waits for a process, with signs of life. Returns why it was stopped: cancel, close, late or lost."""
        begun_s = kept_s = time.monotonic()
        reason = None
        while reason is None:
            if await child.ended(self._settings.beat_s):
                return None
            cancel: bool | None = False
            with suppress(UnavailableError):
                cancel = await self._database.write_async(partial(self._beat, row, child))
                kept_s = time.monotonic()
            now_s = time.monotonic()
            if cancel is None or now_s - kept_s > self._settings.lease_s / 2:
                return "lost"  # another process has the job, or may take it soon
            late = now_s - begun_s > self._limits.job_s
            reason = "cancel" if cancel else "close" if self._closing.is_set() else "late" if late else None
        child.stop()
        await child.ended(_GRACE_S)
        return reason

    def _beat(self, row: Mapping[str, Any], child: JobChild, connection: Connection) -> bool | None:
        """Stores a sign of life and the progress. Returns whether to cancel the job; None if another process has it."""
        mine = (jobs.c.id == row["id"], jobs.c.owner == self._owner, jobs.c.status == "running")
        values = {"heartbeat": time.time(), **_progress(child)}
        if connection.execute(update(jobs).where(*mine).values(values)).rowcount != 1:
            return None
        return bool(connection.execute(select(jobs.c.cancel).where(jobs.c.id == row["id"])).scalar_one())

    async def _settle(self, row: Mapping[str, Any], child: JobChild | None, values: Mapping[str, Any]) -> None:
        """Stores how a run ended, and removes what it needed only while it ran.

        If the database fails, the lease ends, and the job runs again.
        """
        mine = (jobs.c.id == row["id"], jobs.c.owner == self._owner, jobs.c.status == "running")

        changed = update(jobs).where(*mine).values({**_progress(child), **values})
        stored = await self._database.write_async(lambda connection: connection.execute(changed).rowcount == 1)
        if stored and values["status"] in ENDED:
            await asyncio.to_thread(shutil.rmtree, self._folder / row["id"] / WORK, ignore_errors=True)


async def _wait(event: asyncio.Event, limit_s: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), limit_s)


def _view(row: RowMapping | Mapping[str, Any]) -> JobView:
    return JobView(**{item.name: row[item.name] for item in fields(JobView)})


def _existing(name: str, row: RowMapping | None) -> JobView:
    if row is None:
        raise NotFoundError("job", name)
    return _view(row)


def _request_of(row: RowMapping | Mapping[str, Any]) -> JobRequest:
    request: JobRequest = msgspec.convert({"kind": row["kind"], **row["arguments"]}, JobRequest)
    return request


def _is_same(known: JobRequest, request: JobRequest, asked: JobRequest) -> bool:
    """Whether a job was created by the same request, even if its alias has moved to another version since.

    Args:
        known: of the job, with the version of its world.
        request: with the version of its world now.
        asked: by the caller.
    """
    if isinstance(known, AuditJob) and isinstance(request, AuditJob) and request != asked:
        name, version = request.world.partition("@")[0], known.world.partition("@")[2]
        request = msgspec.structs.replace(request, world=f"{name}@{version}")
    return known == request


def _progress(child: JobChild | None) -> dict[str, Any]:
    """The column of the progress, if there is any."""
    return {} if child is None or child.progress is None else {"progress": asdict(child.progress)}


def _ended(status: str) -> dict[str, Any]:
    return {"status": status, "finished": time.time(), "owner": None}


def _failed(name: str, message: str) -> dict[str, Any]:
    return {**_ended("failed"), "error": {"class": name, "message": message}}


def _outcome(row: Mapping[str, Any], child: JobChild, reason: str | None, limit_s: float) -> dict[str, Any]:
    """The columns that say how a run ended."""
    end = child.end
    if end is not None and end.result is not None:
        return {**_ended("done"), "result": end.result}
    if end is not None and end.failure is not None:
        return _failed(end.failure.error, end.failure.message)
    if reason == "cancel":
        return _ended("cancelled")
    if reason == "late":
        return _failed("UnavailableError", f"the job was stopped after {limit_s:g} s, the limit of this service.")
    # A service manager may stop processes before the service: that is no attempt.
    if reason == "close" or child.status == -signal.SIGTERM or (end is not None and end.stopped):
        return {"status": "queued", "owner": None, "attempts": row["attempts"] - 1}
    reason = "It may have needed too much memory, or too much time to read its logs."
    return _failed("UnavailableError", f"the process ended without a result (status {child.status}). {reason}")
