"""Routes of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from worldline.serve.job_requests import MAX_BYTES, decode_request
from worldline.serve.jobs import Jobs, JobView
from worldline.serve.openapi import JobCaller, operation, sandboxed, within_rate
from worldline.serve.problems import MediaTypeError
from worldline.serve.requests import JSON, content_type, idempotency_key, json_response, read_body
from worldline.serve.service import Service


@final
@dataclass(frozen=True, kw_only=True)
class JobList:
    """The jobs of a caller.

    Args:
        jobs: the newest first.
    """

    jobs: tuple[JobView, ...]


def jobs_router(service: Service, jobs: Jobs) -> APIRouter:
    """Routes below /v1/jobs; all need the scope job, and show callers only their own jobs.

    Args:
        service: knows the callers.
        jobs: does the work.
    """
    router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=[Depends(within_rate)])

    created = operation(body="JobRequest", answer="JobView", statuses=(202,), headers=["Idempotency-Key"])
    queued = operation(answer="JobView", statuses=(202,))

    @router.post("/jobs", status_code=202, openapi_extra=created)
    async def create_job(request: Request, caller: JobCaller) -> Response:
        """Adds a job to the queue: learn or audit."""
        if content_type(request) != JSON:
            raise MediaTypeError(f"jobs are described in JSON. Send {JSON}.")
        body = await read_body(request, service, caller, MAX_BYTES)
        job = await jobs.create(caller, decode_request(body), key=idempotency_key(request))
        return json_response(job, 202, {"location": f"/v1/jobs/{job.id}"})

    @router.get("/jobs", openapi_extra=operation(answer="JobList"))
    async def list_jobs(caller: JobCaller) -> Response:
        """The jobs of the caller, the newest first."""
        return json_response(JobList(jobs=tuple(await jobs.list_jobs(caller))))

    @router.get("/jobs/{job}", openapi_extra=operation(answer="JobView"))
    async def get_job(job: str, caller: JobCaller) -> Response:
        """A job with its progress."""
        return json_response(await jobs.get(caller, job))

    @router.delete("/jobs/{job}", openapi_extra=operation(answer="JobView"))
    async def cancel_job(job: str, caller: JobCaller) -> Response:
        """Cancels a job."""
        return json_response(await jobs.cancel(caller, job))

    @router.post("/jobs/{job:plain}:resume", status_code=202, openapi_extra=queued)
    async def resume_job(job: str, caller: JobCaller) -> Response:
        """Continues a cancelled or failed job, from its checkpoint if it has one."""
        return json_response(await jobs.resume(caller, job), 202)

    _add_results(router, jobs)
    return router


def _add_results(router: APIRouter, jobs: Jobs) -> None:
    """Adds the routes of results and reports."""

    @router.get("/jobs/{job}/result")
    async def get_result(job: str, caller: JobCaller) -> Response:
        """The figures of a job that is done."""
        return json_response(await jobs.result(caller, job))

    @router.get("/jobs/{job}/report", response_class=HTMLResponse)
    async def get_report(job: str, caller: JobCaller) -> Response:
        """The report of a job that is done, an HTML page."""
        return sandboxed(await jobs.report(caller, job))
