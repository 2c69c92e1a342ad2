"""The OpenAPI 3.1 document of a service, from its routes and the types of their messages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from inspect import getdoc
from itertools import chain
from types import UnionType
from typing import Any, Final, final

import msgspec

from worldline.errors import MissingExtraError
from worldline.planning.calls import CALLS
from worldline.serve import problems
from worldline.serve.callers import Scope
from worldline.serve.examples import NO_EXAMPLE, Example
from worldline.world import wire, wire_values
from worldline.world.base import ANSWERS
from worldline.world.wire_schemas import json_schemas

try:
    from fastapi import APIRouter
    from fastapi.routing import APIRoute

    from worldline.serve.requests import EVENTS, JSON
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

_REF: Final = "#/components/schemas/{name}"
_KEY: Final = "operation"


@final
@dataclass(frozen=True, kw_only=True)
class Operation:
    """What the documentation of a route states beside its path, method, status and docstring.

    Args:
        scope: what callers need; None if anyone may call.
        request: the body, read with `read_content`: a dataclass, or a type of msgspec that is read from
            JSON only. None without a body.
        without: fields of the body that the service fills in.
        name: of the schema of the body; None for that of the class.
        answer: a dataclass, or a type of msgspec; None if there is no content.
        media: content type of an answer that is no JSON.
        msgpack: whether callers can accept the answer in msgpack.
        headers: names of request headers, of those in the template.
        query: schemas of query parameters by name.
        problems: statuses of problems beside those that its other fields imply.
        repeatable: whether a repetition gets the same answer with status 200.
        link: the path parameter to which the field `id` of the answer belongs.
        example: the body; None for that of `examples_of`.
    """

    scope: Scope | None = None
    request: Any = None
    without: Collection[str] = ()
    name: str | None = None
    answer: Any = None
    media: str | None = None
    msgpack: bool = False
    headers: Sequence[str] = ()
    query: Mapping[str, Mapping[str, Any]] | None = None
    problems: Sequence[int] = ()
    repeatable: bool = False
    link: str | None = None
    example: Mapping[str, Any] | None = None

    @property
    def request_name(self) -> str:
        """The name of the schema of the body."""
        return self.name or self.request.__name__


def operation(**stated: Any) -> dict[str, Any]:
    """The argument `openapi_extra` of a route. Arguments as those of `Operation`."""
    return {_KEY: Operation(**stated)}


@final
@dataclass(frozen=True, kw_only=True)
class DocumentedRoute:
    """A route and what is stated about it.

    Args:
        path: with names of parameters in braces.
        method: in lower case.
        name: of the operation.
        text: says what it does; first a sentence.
        tag: groups operations.
        status: of the answer.
        stated: the rest.
    """

    path: str
    method: str
    name: str
    text: str
    tag: str
    status: int
    stated: Operation


_PATH: Final = {
    "name": "Name of a world.",
    "session": "Id of a session.",
    "alias": "Alias in the catalog.",
    "job": "Id of a job.",
}


def verb_routes(path: str) -> list[DocumentedRoute]:
    """The verbs of worlds, which share one route.

    Args:
        path: of the route, with `{verb}`.
    """
    return [
        DocumentedRoute(
            path=path.replace("{verb}", verb),
            method="post",
            name=verb,
            text=_text(kind),
            tag="worlds",
            status=200,
            stated=Operation(
                scope=Scope.INFER,
                request=kind,
                answer=ANSWERS[kind],
                msgpack=True,
                headers=["Deadline-Ms"],
                problems=[422, 429, 504],
            ),
        )
        for verb, kind in CALLS.items()
    ]


def routes_of(routers: Iterable[APIRouter]) -> list[DocumentedRoute]:
    """The routes of routers that state an `operation`."""
    return [
        DocumentedRoute(
            path=route.path_format,
            method=method.lower(),
            name=route.name,
            text=_text(route.endpoint),
            tag=str(route.tags[0]),
            status=route.status_code or 200,
            stated=route.openapi_extra[_KEY],
        )
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.openapi_extra
        for method in sorted(route.methods or ())
    ]


def create_openapi(
    routes: Sequence[DocumentedRoute], examples: Mapping[str, Example] | None = None, *, needs_token: bool
) -> dict[str, Any]:
    """The document.

    Args:
        routes: in the order of the document.
        examples: by name of the operation.
        needs_token: whether callers need a token.
    """
    schemas, components = _schemas([route.stated for route in routes])
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        example = (examples or {}).get(route.name, NO_EXAMPLE)
        found = _operation(route, example, schemas, needs_token)
        if route.stated.link is not None:
            found["responses"][str(route.status)]["links"] = _links(routes, route.stated.link)
        paths.setdefault(route.path, {})[route.method] = found
    document: dict[str, Any] = json.loads(
        resources.files("worldline.serve").joinpath("templates/openapi.json").read_text("utf-8")
    )
    document["paths"], parts, used = paths, document["components"], {route.tag for route in routes}
    document["tags"] = [tag for tag in document["tags"] if tag["name"] in used]
    parts["schemas"]["Problem"]["properties"]["code"]["enum"] = sorted({*chain(*problems.STATUSES.values())})
    parts["schemas"] |= dict(sorted(components.items()))
    parts["responses"] = {f"Problem{status}": _problem_response(status) for status in sorted(problems.STATUSES)}
    return document


def _operation(
    route: DocumentedRoute, example: Example, schemas: Mapping[str, Any], needs_token: bool
) -> dict[str, Any]:
    stated, (summary, *description) = route.stated, re.split(r"\.\s+|\.$", route.text, maxsplit=1)
    path = [
        {"name": name, "in": "path", "required": True, "description": _PATH[name], "schema": {"type": "string"}}
        | ({"example": example.path[name]} if name in example.path else {})
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    query = [{"name": name, "in": "query", **one} for name, one in (stated.query or {}).items()]
    headers = [{"$ref": f"#/components/parameters/{name}"} for name in (*stated.headers, "Request-Id")]
    done = [str(route.status), *(["200"] if stated.repeatable else [])]
    found: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": " ".join(summary.split()),
        "description": "".join(description),
        "parameters": [*path, *query, *headers],
        "responses": {status: _response(route.stated, schemas) for status in done},
    }
    for status in _statuses(stated, has_name=bool(path)):
        found["responses"][str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    if stated.request is not None:
        body: dict[str, Any] = {"schema": schemas[stated.request_name]}
        if (shown := stated.example or example.request) is not None:
            body["example"] = shown
        found["requestBody"] = {"required": True, "content": {JSON: body}}
        if not _is_msgspec(stated.request):
            found["requestBody"]["content"] |= _msgpack(f"A message of worldline for `{route.name}`.")
    if stated.scope is not None:
        found["security"] = [{"bearer": [stated.scope.value]}, *([] if needs_token else [{}])]
    return found


def _statuses(stated: Operation, *, has_name: bool) -> list[int]:
    """The statuses of problems."""
    found = {400, 503, *stated.problems}
    found |= {401, 403} if stated.scope is not None else set()
    found |= {404} if has_name else set()
    found |= {408, 413, 415} if stated.request is not None else set()
    return sorted(found)


def _response(stated: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": "The answer." if stated.answer or stated.media else "Done.",
        "headers": {"Request-Id": {"$ref": "#/components/headers/Request-Id"}},
    }
    if stated.media is not None:
        kinds = {JSON: {"type": "object"}, EVENTS: {}}  # a schema of events would be that of each event
        found["content"] = {stated.media: {"schema": kinds.get(stated.media, {"type": "string"})}}
    elif stated.answer is not None:
        found["content"] = {JSON: {"schema": schemas[_answer_name(stated.answer)]}}
        if stated.msgpack:
            found["content"] |= _msgpack("A message of worldline.")
    return found


def _msgpack(text: str) -> dict[str, Any]:
    """The content of messages in msgpack, which have no schema, by content type."""
    return {wire.CONTENT_TYPE: {"schema": {"description": f"{text} Its layout is in `{wire_values.__name__}`."}}}


def _links(routes: Sequence[DocumentedRoute], parameter: str) -> dict[str, Any]:
    """What can be done with the id in an answer."""
    return {
        route.name: {"operationId": route.name, "parameters": {parameter: "$response.body#/id"}}
        for route in routes
        if f"{{{parameter}}}" in route.path
    }


def _problem_response(status: int) -> dict[str, Any]:
    causes = [f"`{code}`: {text}" for code, text in problems.STATUSES[status].items()]
    headers = ["Request-Id", *(["Retry-After"] if status == 429 else [])]
    return {
        "description": "\n\n".join(causes),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in headers},
        "content": {
            problems.MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}},
            **_msgpack("An error, for callers that accept msgpack."),
        },
    }


def _schemas(stated: Iterable[Operation]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of each body and answer by name, and the components that they use."""
    stated = [*stated]
    requests: dict[str, Any] = {one.request_name: one.request for one in stated if one.request is not None}
    without = {one.request_name: one.without for one in stated if one.request is not None}
    answers: dict[str, Any] = {_answer_name(one.answer): one.answer for one in stated if one.answer is not None}
    typed = {name: kind for name, kind in {**requests, **answers}.items() if _is_msgspec(kind)}
    found, components = json_schemas(
        {name: (kind, without[name]) for name, kind in requests.items() if name not in typed},
        {name: kind for name, kind in answers.items() if name not in typed},
    )
    more, typed_components = msgspec.json.schema_components(typed.values(), ref_template=_REF)
    components |= typed_components
    # Docstrings name the null of JSON as in Python.
    components = msgspec.json.decode(re.sub(rb"\bNone\b", b"null", msgspec.json.encode(components)))
    return found | dict(zip(typed, more, strict=True)), components


def _answer_name(kind: Any) -> str:
    return f"answer {getattr(kind, '__name__', kind)}"


def _is_msgspec(kind: Any) -> bool:
    return isinstance(kind, UnionType) or (isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def _text(function: Callable[..., Any]) -> str:
    """The docstring without its sections."""
    return re.split(r"\n\n(?:Args|Raises|Returns):", getdoc(function) or "")[0]
