"""What the OpenAPI document of FastAPI cannot know of a route: its scope, its messages and its headers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import getdoc
from typing import Any, Final

from fastapi import APIRouter
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import BaseRoute

from worldline.planning.calls import CALLS
from worldline.serve import problems
from worldline.serve.callers import Scope
from worldline.serve.requests import JSON
from worldline.world import wire
from worldline.world.base import ANSWERS

REF: Final = "#/components/schemas/{name}"
"""A reference to a schema of the document."""

PROBLEM: Final[dict[int | str, dict[str, Any]]] = {
    "default": {
        "description": "Problem details (RFC 9457).",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": REF.format(name="Problem")}}},
    }
}
"""The answer to every request that fails."""

_MSGPACK: Final = {wire.CONTENT_TYPE: {"schema": {"description": f"Its layout is in `{wire.__name__}`."}}}
"""The content of messages in msgpack, which have no schema."""


class _Plain(StringConvertor):
    """A part of a path without a colon, behind which verbs stand: `{name:plain}`."""

    regex = "[^/:]+"


register_url_convertor("plain", _Plain())


def operation(
    scope: Scope,
    *,
    body: str | None = None,
    answer: str | None = None,
    statuses: Sequence[int] = (200,),
    msgpack: bool = False,
    headers: Sequence[str] = (),
) -> dict[str, Any]:
    """The argument `openapi_extra` of a route.

    Args:
        scope: what callers need.
        body: name of the schema of the body; None without a body.
        answer: name of the schema of the answer; None if it is no message.
        statuses: of the answer.
        msgpack: whether body and answer may be in msgpack.
        headers: names of request headers, of those in the template.
    """
    other = _MSGPACK if msgpack else {}
    fields: dict[str, Any] = {
        "security": [{"bearer": [scope.value]}],
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in headers],
    }
    if body is not None:
        fields["requestBody"] = {"required": True, "content": {JSON: _schema(body), **other}}
    if answer is not None:
        shown = {"description": "The answer.", "content": {JSON: _schema(answer), **other}}
        fields["responses"] = {str(status): shown for status in statuses}
    return fields


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": REF.format(name=name)}}


def verb_routes() -> list[BaseRoute]:
    """Routes that document the verbs of worlds. One faster route answers them all."""
    router = APIRouter(prefix="/v1/worlds", tags=["worlds"])

    def call_world(name: str) -> None:
        raise NotImplementedError(name)

    for verb, kind in CALLS.items():
        router.add_api_route(
            f"/{{name}}:{verb}",
            call_world,
            methods=["POST"],
            name=verb,
            operation_id=verb,
            description=re.split(r"\n\n(?:Args|Raises):", getdoc(kind) or "")[0],
            responses=PROBLEM,
            openapi_extra=operation(
                Scope.INFER, body=kind.__name__, answer=ANSWERS[kind].__name__, msgpack=True, headers=["Deadline-Ms"]
            ),
        )
    return list(router.routes)
