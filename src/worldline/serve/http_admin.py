"""Routes of administrators: aliases and usage."""

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
from worldline.serve.requests import JSON, read_content
from worldline.serve.service import Service
from worldline.serve.usage import UsageReport
from worldline.serve.world_views import view_of
from worldline.world import wire

Administrator = Annotated[Caller, needs(Scope.ADMIN)]


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


def admin_router(service: Service) -> APIRouter:
    """The routes of administrators."""
    router = APIRouter(prefix="/v1", tags=["administration"], dependencies=[needs(Scope.ADMIN)])

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
        view = await asyncio.to_thread(view_of, hosted)
        return Response(wire.encode_json_answer(view), media_type=JSON)

    @router.get("/usage", openapi_extra=operation(answer="UsageReport"))
    async def get_usage(days: Annotated[int, Query(ge=1, le=366)] = 30) -> Response:
        """Calls per token, day, world and verb, up to today (UTC). Calls of the last second may be missing."""
        report = UsageReport(usage=await asyncio.to_thread(service.usage.report, days))
        return Response(wire.encode_json_answer(report), media_type=JSON)

    return router
