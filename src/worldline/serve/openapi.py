"""What FastAPI needs for the document of a route: the scope of its callers, its messages and its headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Response, Security
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer, SecurityScopes
from starlette.convertors import StringConvertor, register_url_convertor

from worldline.report.page import page_policy
from worldline.serve import problems
from worldline.serve.callers import Caller, Scope
from worldline.serve.requests import JSON
from worldline.serve.service import Service
from worldline.world import wire

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

_BEARER: Final = HTTPBearer(scheme_name="bearer", auto_error=False)
"""For the document only: the service reads the header itself."""


class _Plain(StringConvertor):
    """A part of a path without a colon, behind which verbs stand: `{name:plain}`."""

    regex = "[^/:]+"


register_url_convertor("plain", _Plain())


async def authorize(request: Request, needed: SecurityScopes, _: Annotated[object, Depends(_BEARER)]) -> Caller:
    """The caller of a request, who has the scopes that the route needs."""
    service: Service = request.app.state.service
    return await service.authorize(request.headers.get("authorization"), *map(Scope, needed.scopes))


def needs(*scopes: Scope) -> Any:
    """The dependency of a route that callers need all these scopes for. Its value is the `Caller`."""
    return Security(authorize, scopes=[scope.value for scope in scopes])


async def within_rate(request: Request, caller: Annotated[Caller, needs(Scope.JOB)]) -> Caller:
    """The caller, whose rate is checked."""
    service: Service = request.app.state.service
    service.usage.check_rate(caller)
    return caller


JobCaller = Annotated[Caller, Depends(within_rate)]
"""The caller of a route that needs the scope job."""


def sandboxed(page: bytes) -> Response:
    """The answer with a page of worldline, whose scripts can neither call the service nor read from it."""
    policy = f"{page_policy()}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts"
    return HTMLResponse(page, headers={"content-security-policy": policy})


def operation(
    *,
    body: str | None = None,
    answer: str | None = None,
    statuses: Sequence[int] = (200,),
    msgpack: bool = False,
    headers: Sequence[str] = (),
) -> dict[str, Any]:
    """The argument `openapi_extra` of a route.

    Args:
        body: name of the schema of the body; None without a body.
        answer: name of the schema of the answer; None if it is no message.
        statuses: of the answer.
        msgpack: whether body and answer may be in msgpack.
        headers: names of request headers, of those in the template.
    """

    def content(name: str) -> dict[str, Any]:
        return {JSON: {"schema": {"$ref": REF.format(name=name)}}, **(_MSGPACK if msgpack else {})}

    fields: dict[str, Any] = {"parameters": [{"$ref": f"#/components/parameters/{name}"} for name in headers]}
    if body is not None:
        fields["requestBody"] = {"required": True, "content": content(body)}
    if answer is not None:
        shown = {"description": "The answer.", "content": content(answer)}
        fields["responses"] = {str(status): shown for status in statuses}
    return fields
