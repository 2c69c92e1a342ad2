"""Routes of administrators: served worlds, aliases and usage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, final

from fastapi import APIRouter, Query, Request, Response

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog
from worldline.errors import InputError, UnsupportedError
from worldline.serve.callers import Caller, Scope
from worldline.serve.openapi import needs, operation
from worldline.serve.registry import Registry
from worldline.serve.requests import json_of, read_content
from worldline.serve.service import Service
from worldline.serve.usage import UsageReport
from worldline.serve.world_views import summary_of, view_of

Administrator = Annotated[Caller, needs(Scope.ADMIN)]


@final
@dataclass(frozen=True, kw_only=True)
class NewWorld:
    """The body of a request to serve a world.

    Args:
        name: in URLs.
        reference: a world of the catalog, such as "greenhouse@prod".
    """

    name: str
    reference: str


@final
@dataclass(frozen=True, kw_only=True)
class NewAlias:
    """The body of a request to move an alias.

    Args:
        version: number of the version that the alias shall point to.
        reason: in words; stored with the change.
    """

    version: int
    reason: str = "moved over HTTP"


def admin_router(service: Service, registry: Registry) -> APIRouter:
    """The routes of administrators."""
    router = APIRouter(prefix="/v1", tags=["administration"], dependencies=[needs(Scope.ADMIN)])

    added = operation(body="NewWorld", answer="WorldSummary", statuses=(201, 200))

    @router.post("/worlds", status_code=201, openapi_extra=added)
    async def add_world(request: Request, caller: Administrator) -> Response:
        """Serves a world of the catalog. Adding it again changes nothing."""
        body = await read_content(request, service, caller, "add_world", NewWorld)
        hosted, is_new = await registry.add(caller, body.name, body.reference)
        return await json_of(summary_of, hosted, status=201 if is_new else 200)

    @router.delete("/worlds/{name:plain}", status_code=204)
    async def remove_world(name: str) -> Response:
        """Stops serving a world that was added."""
        await registry.remove(name)
        return Response(status_code=204)

    @router.put("/worlds/{name}/aliases/{alias}", openapi_extra=operation(body="NewAlias", answer="WorldView"))
    async def move_alias(name: str, alias: str, request: Request, caller: Administrator) -> Response:
        """Points an alias to another version; sessions and calls follow."""
        hosted = service.hosts.find(name, caller)
        if hosted.reference is None:
            raise UnsupportedError(
                f"{name!r} is served from a folder, which has no versions. Publish it in the catalog."
            )
        body = await read_content(request, service, caller, "move_alias", NewAlias)
        if len(body.reason) > 1000:
            raise InputError(f"reason has {len(body.reason)} characters. Use at most 1000.")
        world, reason = Reference.parse(hosted.reference).name, f"{body.reason} ({caller.name})"
        await asyncio.to_thread(Catalog().point, world, alias, body.version, reason=reason)
        return await json_of(view_of, hosted)

    @router.get("/usage", openapi_extra=operation(answer="UsageReport"))
    async def get_usage(days: Annotated[int, Query(ge=1, le=366)] = 30) -> Response:
        """Calls per token, day, world and verb, up to today (UTC). Calls of the last second may be missing."""
        return await json_of(lambda: UsageReport(usage=service.usage.report(days)))

    return router
