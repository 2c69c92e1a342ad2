"""The route that compares two served worlds on a log."""

from __future__ import annotations

import asyncio
from threading import Lock
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from worldline.audit.world_comparison import WorldComparison
from worldline.errors import InputError
from worldline.serve.hosting import HostedWorld
from worldline.serve.openapi import JobCaller, operation
from worldline.serve.problems import OverloadedError, TooLargeError
from worldline.serve.requests import json_response
from worldline.serve.service import Service

VERB: Final = "compare"
"""The name under which comparisons are metered."""


def comparison_router(service: Service) -> APIRouter:
    """The route below /v1/logs; it needs the scope job.

    Args:
        service: has the served worlds and logs.
    """
    router, busy = APIRouter(prefix="/v1/logs", tags=["jobs"]), Lock()

    def compare(pair: list[HostedWorld], log: str, horizon: int | None) -> WorldComparison:
        from worldline.workflows.compare_worlds import WorldSource, compare_worlds  # loads gymnasium

        if not busy.acquire(blocking=False):  # held by the thread, because a caller may leave earlier
            raise OverloadedError("another comparison is running. Try again when it is done.", retry_after_s=10.0)
        try:
            first, second = (WorldSource(hosted.current()[1], hosted.name, str(hosted.folder or "")) for hosted in pair)
            return compare_worlds(first, second, service.logs.store(log), horizon=horizon)
        finally:
            busy.release()

    @router.get("/{log}/comparison", openapi_extra=operation(answer="WorldComparison"))
    async def compare_on_log(
        log: str,
        caller: JobCaller,
        worlds: Annotated[str, Query(description="Two names, separated by a comma.")],
        horizon: Annotated[int | None, Query(ge=1, description="Steps to predict.")] = None,
    ) -> Response:
        """Two served worlds on the same windows of a log, as `worldline compare-worlds` prints them."""
        names = worlds.split(",")
        if len(names) != 2 or names[0] == names[1]:
            raise InputError(f"worlds is {worlds!r:.100}. Give two different names, separated by a comma.")
        if horizon is not None and horizon > service.limits.horizon:
            raise TooLargeError(f"horizon is {horizon}, more than {service.limits.horizon}. Give a smaller one.")
        first, second = (service.hosts.find(name, caller) for name in names)
        counted = [service.metered(caller, hosted, VERB, checked=True) for hosted in (first, second)]
        async with counted[0], counted[1]:
            compared = await asyncio.to_thread(compare, [first, second], log, horizon)
        return json_response(compared)

    return router
