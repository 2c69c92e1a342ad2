"""Routes of jobs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import msgspec

from worldline.errors import MissingExtraError, WorldlineError
from worldline.report.page import page_policy
from worldline.serve.callers import Caller, Scope
from worldline.serve.job_requests import MAX_BYTES, decode_request
from worldline.serve.jobs import ENDED, Jobs, JobView
from worldline.serve.problems import MediaTypeError
from worldline.serve.service import Service

try:
    from fastapi import APIRouter, Request, Response
    from fastapi.responses import StreamingResponse

    from worldline.serve.requests import JSON, content_type, idempotency_key, read_body
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

_NUMBER: Final = re.compile(r"[0-9]{1,15}")


def jobs_router(service: Service, jobs: Jobs) -> APIRouter:
    """Routes below /v1/jobs and /v1/logs; all need the scope job, and show callers only their own jobs.

    Args:
        service: knows the callers.
        jobs: does the work.
    """
    router = APIRouter(prefix="/v1", tags=["jobs"])

    async def caller_of(request: Request) -> Caller:
        return await service.authorize(request.headers.get("authorization"), Scope.JOB)

    @router.get("/logs")
    async def list_logs(request: Request) -> Response:
        """The names of the logs."""
        await caller_of(request)
        return _json({"logs": await asyncio.to_thread(jobs.logs.names)})

    @router.post("/jobs")
    async def create_job(request: Request) -> Response:
        """Adds a job to the queue: learn, audit or exam."""
        caller = await caller_of(request)
        if content_type(request) != JSON:
            raise MediaTypeError(f"jobs are described in JSON. Send {JSON}.")
        body = await read_body(request, MAX_BYTES, service.limits.body_s)
        job = await jobs.create(caller, decode_request(body), key=idempotency_key(request))
        return _json(job, 202, {"location": f"/v1/jobs/{job.id}"})

    @router.get("/jobs")
    async def list_jobs(request: Request) -> Response:
        """The jobs of the caller, the newest first."""
        return _json({"jobs": await jobs.list_jobs(await caller_of(request))})

    @router.get("/jobs/{name}")
    async def get_job(name: str, request: Request) -> Response:
        """A job with its progress."""
        return _json(await jobs.get(await caller_of(request), name))

    @router.delete("/jobs/{name}")
    async def cancel_job(name: str, request: Request) -> Response:
        """Cancels a job."""
        return _json(await jobs.cancel(await caller_of(request), name))

    @router.get("/jobs/{name}/result")
    async def get_result(name: str, request: Request) -> Response:
        """The figures of a job that is done."""
        return _json(await jobs.result(await caller_of(request), name))

    @router.get("/jobs/{name}/report")
    async def get_report(name: str, request: Request) -> Response:
        """The report of a job that is done, an HTML page."""
        page = await jobs.report(await caller_of(request), name)
        policy = f"{page_policy()}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    @router.get("/jobs/{name}/events")
    async def get_events(name: str, request: Request) -> Response:
        """Server-sent events: `progress`, then `end` with the job as it ended."""
        caller, given = await caller_of(request), request.headers.get("last-event-id", "")
        after, job = int(given) if _NUMBER.fullmatch(given) else 0, await jobs.get(caller, name)
        if job.status in ENDED and job.number <= after:
            return Response(status_code=204)  # browsers do not connect again
        events = jobs.events(caller, name, after)
        first = await anext(events)  # raises errors before the answer begins
        return StreamingResponse(_stream(first, events), media_type="text/event-stream")

    return router


async def _stream(first: JobView | None, events: AsyncIterator[JobView | None]) -> AsyncIterator[bytes]:
    yield _event(first)
    with suppress(WorldlineError):  # the client connects again, and gets the error
        async for event in events:
            yield _event(event)


def _event(job: JobView | None) -> bytes:
    if job is None:
        return b": heartbeat\n\n"
    ended = job.status in ENDED
    data = msgspec.json.encode(job if ended else {"status": job.status, **(job.progress or {})})
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (job.number, b"end" if ended else b"progress", data)


def _json(found: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(found), status, headers, JSON)
