"""Jobs of callers: a queue in the database, and a process for each job that runs."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, select, update

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog
from worldline.errors import UnavailableError, UnknownNameError, UnsupportedError, WorldlineError
from worldline.serve.callers import Caller
from worldline.serve.database import ENVIRONMENT, Database
from worldline.serve.job_process import END, PROGRESS, REPORT, STOPPED, WORK, JobTask, raise_fence
from worldline.serve.job_requests import AuditJob, JobRequest, check_request
from worldline.serve.problems import ConflictError, FaultLog, GoneError, NotFoundError, RateLimitedError, problem_of
from worldline.serve.service import Service
from worldline.serve.sessions import new_id
from worldline.serve.tables import jobs
from worldline.workers import num_cores

COMMAND: Final = (sys.executable, "-m", "worldline.serve.job_process")
"""The process of a job."""
ATTEMPTS: Final = 3
"""How often a job begins whose service is killed."""
ENDED: Final = ("done", "failed", "cancelled")
"""States of jobs that no process works on."""
RESUMABLE: Final = ("failed", "cancelled")
"""States from which a caller can resume a job."""

_GRACE_S: Final = 10.0
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """How a service runs jobs.

    Args:
        folder: for the files of jobs. Processes share it only if they share the database too.
        device: of learning and audits; argument of `worldline.open`.
        workers: jobs at a time in this process; 0 leaves them to other processes.
        threads: of each job.
        beat_s: seconds between two signs of life.
        lease_s: seconds without one after which another process continues a job. Clocks of servers must agree to a
            quarter of it.
        command: runs a job.
    """

    folder: Path
    device: str = "auto"
    workers: int = 1
    threads: int = max(1, num_cores() // 2)
    beat_s: float = 1.0
    lease_s: float = 60.0
    command: Sequence[str] = COMMAND


@final
@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as its caller sees it. Times are seconds since 1970 (UTC).

    Args:
        id: names the job.
        kind: learn or audit.
        status: queued, running, done, failed or cancelled.
        arguments: the request; a world is named with its version.
        progress: stage, completed steps, their total and loss; `losses` of the training so far, at most 200 pairs of
            step and loss; None before the first step.
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
        self._service, self._limits, self._database, self.settings = service, service.limits, database, settings
        self._folder = settings.folder.resolve() / "jobs"
        self._owner = secrets.token_hex(8)
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._tasks = list[asyncio.Task[None]]()

    def start(self) -> None:
        """Begins to work on the queue, in the running event loop."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.settings.workers)]

    def stop(self) -> None:
        """Stops the running jobs, which another process continues, or this one after its next start."""
        self._closing.set()
        self._wake.set()

    async def close(self) -> None:
        """Stops the running jobs, and waits until they have ended."""
        self.stop()
        await asyncio.gather(*self._tasks)

    async def create(self, caller: Caller, request: JobRequest, *, key: str | None = None) -> JobView:
        """Adds a job to the queue. It survives the service once this returns.

        Args:
            caller: from `Service.authorize`.
            request: what to do.
            key: an idempotency key; a request with the same key gets the same job. None for none.

        Raises:
            RateLimitedError: the caller has too many unfinished jobs.
            ConflictError: the key was used for another job.
            WorldlineError: the request is not valid, as in `check_request`; or there is no such world.
        """
        name = new_id(caller, "job", key)
        await asyncio.to_thread(check_request, request, self._service.logs)
        pinned = await asyncio.to_thread(self._pinned, request, caller)
        arguments = msgspec.to_builtins(pinned)
        row = {"id": name, "token_id": caller.id, "kind": arguments.pop("kind"), "arguments": arguments}
        row |= {"status": "queued", "created": time.time(), "cancel": False, "attempts": 0}

        def add(connection: Connection) -> JobView:
            known = connection.execute(select(jobs).where(jobs.c.id == name)).mappings().one_or_none()
            if known is None:
                self._check_unfinished(caller, connection)
                connection.execute(insert(jobs).values(row))
            elif _unpinned(dict(known)) != _unpinned(row):
                raise ConflictError("this Idempotency-Key was used for another job. Use another key.")
            return _view(caller, name, connection)

        job = await self._database.write_async(add)
        self._wake.set()
        return job

    async def get(self, caller: Caller, name: str) -> JobView:
        """The current state of a job.

        Raises:
            NotFoundError: the caller has no such job.
        """
        return await self._database.read_async(partial(_view, caller, name))

    async def list_jobs(self, caller: Caller) -> list[JobView]:
        """The jobs of the caller, the newest first; at most 100."""
        mine = select(*_VIEW).where(jobs.c.token_id == caller.id).order_by(jobs.c.created.desc()).limit(100)
        rows = await self._database.read_async(lambda connection: connection.execute(mine).mappings().all())
        return [JobView(**row) for row in rows]

    async def cancel(self, caller: Caller, name: str) -> JobView:
        """Ends a job; one that runs ends within seconds. A job that has ended does not change.

        Raises:
            NotFoundError: as in `get`.
        """

        def mark(connection: Connection) -> JobView:
            for status, values in (("queued", _ended("cancelled")), ("running", {"cancel": True})):
                which = (jobs.c.id == name, jobs.c.token_id == caller.id, jobs.c.status == status)
                connection.execute(update(jobs).where(*which).values(values))
            return _view(caller, name, connection)

        return await self._database.write_async(mark)

    async def resume(self, caller: Caller, name: str) -> JobView:
        """Queues a cancelled or failed job again. A learn job continues from its checkpoint, if it has one.

        Raises:
            NotFoundError: as in `get`.
            ConflictError: the job is neither cancelled nor failed.
            RateLimitedError: as in `create`.
        """

        def queue(connection: Connection) -> JobView:
            if (status := _view(caller, name, connection).status) not in RESUMABLE:
                raise ConflictError(f"the job is {status}. Only a cancelled or failed job can be resumed.")
            self._check_unfinished(caller, connection)
            values = {"status": "queued", "cancel": False, "attempts": 0, "error": None, "finished": None}
            connection.execute(update(jobs).where(jobs.c.id == name).values(values))
            return _view(caller, name, connection)

        job = await self._database.write_async(queue)
        self._wake.set()
        return job

    async def result(self, caller: Caller, name: str) -> Mapping[str, Any]:
        """The figures of a job.

        Raises:
            NotFoundError: as in `get`.
            ConflictError: the job is not done.
        """
        job = await self.get(caller, name)
        if job.status != "done":
            reason = f": {job.error['message']}" if job.error else "."
            raise ConflictError(f"the job has no result. It is {job.status}{reason}")
        stored = select(jobs.c.result).where(jobs.c.id == name)
        return dict(await self._database.read_async(lambda connection: connection.execute(stored).scalar_one()))

    async def report(self, caller: Caller, name: str) -> bytes:
        """The report of a job, an HTML page.

        Raises:
            NotFoundError: as in `get`.
            ConflictError: the job is not done.
            GoneError: the report is not on this server.
        """
        await self.result(caller, name)
        try:
            return await asyncio.to_thread((self._folder / name / REPORT).read_bytes)
        except OSError:
            raise GoneError("the report is not on this server. The result has the figures.") from None

    async def clean(self) -> None:
        """Deletes jobs that ended long ago, with their files."""
        old = delete(jobs).where(jobs.c.finished < time.time() - self._limits.job_kept_s).returning(jobs.c.id)
        for name in await self._database.write_async(lambda connection: connection.execute(old).scalars().all()):
            await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)

    def task(self, row: Mapping[str, Any]) -> JobTask:
        """What the process of a job is to do.

        Raises:
            WorldlineError: its logs or its world are no longer there.
        """
        request: JobRequest = msgspec.convert({"kind": row["kind"], **row["arguments"]}, JobRequest)
        settings, hosts, world = self.settings, self._service.hosts, ""
        if isinstance(request, AuditJob):
            path = hosts[request.world].folder if request.world in hosts else None
            path = Catalog().resolve(request.world) if "@" in request.world else path
            if path is None:
                raise UnsupportedError(f"the folder of {request.world!r} is not known. Publish the world and name it.")
            world = str(path.resolve())
        return JobTask(
            request=request,
            folder=str(self._folder / row["id"]),
            logs=str(self._service.logs.path(request.logs)),
            world=world,
            device=settings.device,
            threads=settings.threads,
            memory_bytes=self._limits.job_bytes,
            fence=row["fence"],
        )

    def _check_unfinished(self, caller: Caller, connection: Connection) -> None:
        """Checks that the caller may have a further unfinished job."""
        mine = (jobs.c.token_id == caller.id, jobs.c.status.not_in(ENDED))
        count = connection.execute(select(func.count()).select_from(jobs).where(*mine)).scalar_one()
        if count >= self._limits.jobs:
            raise RateLimitedError(f"{count} jobs are not finished. Wait for one, or cancel one.", 60.0)

    def _pinned(self, request: JobRequest, caller: Caller) -> JobRequest:
        """The request with its world as name and version."""
        if not isinstance(request, AuditJob):
            return request
        world = request.world
        if "@" not in world:
            world = self._service.hosts.find(world, caller).reference or world
        if "@" in world:
            try:
                world = f"{Reference.parse(world).name}@{Catalog().resolve(world).name}"
            except UnknownNameError as error:
                raise NotFoundError(error.kind, error.name) from error  # callers cannot list the catalog
        return msgspec.structs.replace(request, world=world)

    async def _work(self) -> None:
        """Runs one job after the other."""
        faults = FaultLog(_logger)
        while not self._closing.is_set():
            self._wake.clear()
            with faults.logged("the queue of jobs"):
                if (row := await self._claim()) is not None:
                    await self._run(row)
                    continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self.settings.beat_s)

    async def _claim(self) -> Mapping[str, Any] | None:
        """The next job, which this process now owns: the oldest one that waits, or whose process is gone."""

        def waiting(connection: Connection) -> Mapping[str, Any] | None:
            lost = (jobs.c.status == "running") & (jobs.c.heartbeat < time.time() - self.settings.lease_s)
            query = select(jobs).where((jobs.c.status == "queued") | lost).order_by(jobs.c.created).limit(1)
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else dict(row)

        def take(connection: Connection) -> Mapping[str, Any] | None:
            if (row := waiting(connection)) is None:
                return None
            now = time.time()
            values = {"status": "running", "owner": self._owner, "heartbeat": now}
            values |= {"started": row["started"] or now, "attempts": row["attempts"] + 1, "fence": row["fence"] + 1}
            if row["cancel"]:
                values = _ended("cancelled")
            elif row["attempts"] >= ATTEMPTS:
                values = _failed(f"the service was stopped {ATTEMPTS} times while the job ran.")
            connection.execute(update(jobs).where(jobs.c.id == row["id"]).values(values))
            return {**row, **values} if values["status"] == "running" else None

        if await self._database.read_async(waiting) is None:  # so that idle processes do not write
            return None
        return await self._database.write_async(take)

    async def _run(self, row: Mapping[str, Any]) -> None:
        """Runs a job until it ends, is cancelled, or this process closes."""
        try:
            task = await asyncio.to_thread(self.task, row)
        except (WorldlineError, msgspec.ValidationError) as error:  # the latter of another version of the service
            shown = problem_of(error).error
            await self._settle(row, _failed(str(shown), type(shown).__name__))
            return
        if not await asyncio.to_thread(raise_fence, Path(task.folder), task.fence):
            return  # another process claimed the job while this one waited for the folder
        process = await _start(self.settings.command, task)
        try:
            stopped = await self._attend(row, process)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it started
            await process.wait()
        if stopped is not None:
            await self._settle(row, self._end_of(row) or stopped or _vanished(row, process.returncode))

    async def _attend(self, row: Mapping[str, Any], process: Process) -> dict[str, Any] | None:
        """Waits for a process, with signs of life. Returns the columns of a job that was stopped; {} if it ended.

        None if another process has the job, or may take it soon.
        """
        begun_s = kept_s = time.monotonic()
        stopped = dict[str, Any]()
        while not stopped and not await _has_ended(process, self.settings.beat_s):
            cancel: bool | None = False
            with suppress(UnavailableError):
                cancel = await self._database.write_async(partial(self._beat, row))
                kept_s = time.monotonic()
            if cancel is None or time.monotonic() - kept_s > self.settings.lease_s / 2:
                return None
            if cancel:
                stopped = _ended("cancelled")
            elif time.monotonic() - begun_s > (limit_s := self._limits.job_s):
                stopped = _failed(f"the job was stopped after {limit_s:g} s, the limit of this service.")
            elif self._closing.is_set():
                stopped = _queued(row)
        if stopped:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                process.terminate()
            await _has_ended(process, _GRACE_S)
        return stopped

    def _beat(self, row: Mapping[str, Any], connection: Connection) -> bool | None:
        """Stores a sign of life and the progress. Returns whether to cancel the job; None if another process has it."""
        values = {"heartbeat": time.time(), **self._progress(row)}
        kept = update(jobs).where(self._owned(row)).values(values).returning(jobs.c.cancel)
        return connection.execute(kept).scalar_one_or_none()

    async def _settle(self, row: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Stores how a run ended, and removes what no run needs any more.

        If the database fails, the lease ends, and the job runs again.
        """
        changed = update(jobs).where(self._owned(row)).values({**self._progress(row), **values})
        is_stored = await self._database.write_async(lambda connection: connection.execute(changed).rowcount == 1)
        if not is_stored or values["status"] not in ENDED:
            return
        # Checkpoints stay for as many jobs of a caller as may be unfinished.
        ended = (jobs.c.token_id == row["token_id"], jobs.c.status.in_(RESUMABLE))
        resumable = select(jobs.c.id).where(*ended).order_by(jobs.c.finished.desc()).limit(2 * self._limits.jobs)
        kept = await self._database.read_async(lambda connection: connection.execute(resumable).scalars().all())
        for name in {row["id"], *kept} - set(kept[: self._limits.jobs]):
            await asyncio.to_thread(shutil.rmtree, self._folder / name / WORK, ignore_errors=True)

    def _owned(self, row: Mapping[str, Any]) -> ColumnElement[bool]:
        """Whether the job still belongs to this process."""
        mine = (jobs.c.owner == self._owner, jobs.c.fence == row["fence"])
        return and_(jobs.c.id == row["id"], *mine, jobs.c.status == "running")

    def _progress(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The column of the progress, if there is any."""
        progress = _read(self._folder / row["id"] / PROGRESS)
        return {"progress": progress} if progress else {}

    def _end_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a job that ended by itself; empty if it did not."""
        end = _read(self._folder / row["id"] / END)
        if fault := end.pop("fault", ""):
            _logger.error("job %s failed: %s", row["id"], fault)
        return end and {**_ended("done" if "result" in end else "failed"), **end}


async def _start(command: Sequence[str], task: JobTask) -> Process:
    """Starts the process of a job, which leads a group."""
    env = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}  # it may hold a password
    env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(task.threads))
    env["PYTHONSAFEPATH"] = "1"  # no module from the working directory
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True, env=env
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(task) + b"\n")
    return process


async def _has_ended(process: Process, limit_s: float) -> bool:
    """Whether a process ends within this time."""
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), limit_s)
    return process.returncode is not None


def _read(path: Path) -> dict[str, Any]:
    """The content of a file of a job; empty if there is none."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.exists() else {}


def _view(caller: Caller, name: str, connection: Connection) -> JobView:
    mine = select(*_VIEW).where(jobs.c.id == name, jobs.c.token_id == caller.id)
    if (row := connection.execute(mine).mappings().one_or_none()) is None:
        raise NotFoundError("job", name)
    return JobView(**row)


def _unpinned(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The request without the version of its world, to which an alias may have moved since."""
    arguments = dict(row["arguments"])
    return row["kind"], arguments | {"world": arguments.get("world", "").partition("@")[0]}


def _ended(status: str) -> dict[str, Any]:
    return {"status": status, "finished": time.time(), "owner": None}


def _failed(message: str, name: str = "UnavailableError") -> dict[str, Any]:
    return {**_ended("failed"), "error": {"class": name, "message": message}}


def _queued(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "queued", "owner": None, "attempts": row["attempts"] - 1}


def _vanished(row: Mapping[str, Any], status: int | None) -> dict[str, Any]:
    """The columns of a job whose process ended without a word."""
    if status in (-signal.SIGTERM, STOPPED):  # a service manager may stop processes before the service
        return _queued(row)
    cause = "It may have needed too much memory, or too much time to read its logs."
    return _failed(f"the process ended without a result (status {status}). {cause}")
