"""The documentation of a service: /openapi.json and /docs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any, Final, final

import msgspec
from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from worldline.serve.callers import Scope
from worldline.serve.examples import examples_of
from worldline.serve.hosting import HostedWorld
from worldline.serve.openapi import DocumentedRoute, create_openapi, operation, routes_of, verb_routes
from worldline.serve.requests import HTML, JSON
from worldline.serve.scheduler import Lane
from worldline.serve.service import Service

_SERVER: Final = "http://server.invalid"
"""Stands for the address of the service in a page that is kept."""


@final
@dataclass(frozen=True, kw_only=True)
class Documentation:
    """The documentation of one set of worlds.

    Args:
        openapi: the document.
        page: the same for people.
    """

    openapi: bytes
    page: bytes


@final
class Documents:
    """Makes the documentation once per version of the first world, whose examples it shows.

    Args:
        service: has the worlds.
        routes: what is documented.
    """

    def __init__(self, service: Service, routes: Sequence[DocumentedRoute]) -> None:
        self._service, self._routes = service, routes
        self._made: dict[bool, tuple[object, asyncio.Task[Documentation]]] = {}

    async def get(self, *, has_examples: bool) -> Documentation:
        """The documentation. Requests that come while it is made wait for it.

        Args:
            has_examples: whether the caller may see signals of a world.
        """
        hosted = next(iter(self._service.hosts.values()), None) if has_examples else None
        key = (hosted, None if hosted is None else hosted.version, self._service.needs_token)
        made_for, task = self._made.get(has_examples, (None, None))
        if task is None or made_for != key or (task.done() and (task.cancelled() or task.exception() is not None)):
            make = partial(self._make, hosted, self._service.needs_token)
            run = asyncio.to_thread(make) if hosted is None else self._service.scheduler.run(make, lane=Lane.SLOW)
            task = asyncio.ensure_future(run)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._made[has_examples] = key, task
        return await asyncio.shield(task)

    def _make(self, hosted: HostedWorld | None, needs_token: bool) -> Documentation:
        examples = {} if hosted is None else examples_of(hosted)
        found = create_openapi(self._routes, examples, needs_token=needs_token)
        return Documentation(openapi=msgspec.json.encode(found), page=render(found, needs_token=needs_token).encode())


def docs_router(service: Service, path: str, routers: Sequence[APIRouter]) -> APIRouter:
    """The routes of the documentation.

    Args:
        service: is documented.
        path: of the route of verbs.
        routers: the other routes.
    """
    router = APIRouter(tags=["documentation"])

    @router.get("/openapi.json", openapi_extra=operation(scope=Scope.READ, media=JSON, problems=[429, 504]))
    async def get_openapi(request: Request) -> Response:
        """This interface as OpenAPI 3.1."""
        await service.authorize(request.headers.get("authorization"), Scope.READ)
        found = await documents.get(has_examples=True)
        return Response(found.openapi, media_type=JSON)

    @router.get("/docs", openapi_extra=operation(media=HTML, problems=[401, 403, 429, 504]))
    async def get_docs(request: Request) -> Response:
        """This page. Without a token, it shows no examples from served worlds."""
        given = request.headers.get("authorization")
        has_examples = given is not None or not service.needs_token
        if has_examples:
            await service.authorize(given, Scope.READ)
        found = await documents.get(has_examples=has_examples)
        page = found.page.replace(_SERVER.encode(), _address(request).encode())
        return Response(page, media_type=HTML, headers={"content-security-policy": _policy()})

    documents = Documents(service, [*verb_routes(path), *routes_of([*routers, router])])
    return router


def render(document: Mapping[str, Any], *, needs_token: bool) -> str:
    """The page for an OpenAPI document, without scripts and without parts from other hosts.

    Args:
        document: from `create_openapi`.
        needs_token: whether callers need a token.
    """
    operations = [
        {**one, "path": path, "method": method, "curl": _curl(document, path, method, needs_token)}
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    page = _environment().get_template("docs.html")
    return page.render(
        document=document, operations=operations, needs_token=needs_token, style=_style(), server=_SERVER
    )


def _curl(document: Mapping[str, Any], path: str, method: str, needs_token: bool) -> str:
    """A command that sends the example; ids that only the caller knows are variables of the shell."""
    stated = document["paths"][path][method]
    for one in stated["parameters"]:
        if one.get("in") == "path":
            path = path.replace(f"{{{one['name']}}}", one.get("example") or f"${{{one['name'].upper()}}}")
    body = stated.get("requestBody", {}).get("content", {}).get(JSON, {})
    verb = "" if method == ("post" if body else "get") else f"-X {method.upper()} "
    parts = [f'curl {verb}"{_SERVER}{path}"']
    if "security" in stated and needs_token:
        parts.append('-H "Authorization: Bearer $TOKEN"')
    if body:
        parts += [f'-H "Content-Type: {JSON}"', f"--data-binary @- <<'JSON'\n{_pretty(body.get('example', {}))}\nJSON"]
    return " \\\n  ".join(parts)


def _pretty(value: object) -> str:
    """JSON with each list of numbers on one line."""
    found = json.dumps(value, indent=2)
    return re.sub(r"\[\n([^\[\]{}\"]*)\n\s*\]", lambda one: f"[{' '.join(one[1].split())}]", found)


def _inline(text: str) -> Markup:
    """Text of a docstring, with code between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _prose(text: str) -> Markup:
    """The paragraphs of a docstring."""
    return Markup("").join(Markup("<p>{}</p>").format(_inline(part)) for part in text.split("\n\n") if part)


def _address(request: Request) -> str:
    """The address that the caller used, if it cannot mean anything else in HTML or in a shell."""
    found = f"{request.url.scheme}://{request.headers.get('host', '')}"
    return found if re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]{1,255}", found) else "http://localhost:8000"


@cache
def _environment() -> Environment:
    loader = PackageLoader("worldline.serve")
    found = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"inline": _inline, "prose": _prose, "pretty": _pretty}
    return found


@cache
def _style() -> Markup:
    parts = (("worldline.plots", "colours.css"), ("worldline.serve", "templates/docs.css"))
    return Markup("\n".join(resources.files(package).joinpath(name).read_text("utf-8") for package, name in parts))


@cache
def _policy() -> str:
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    rest = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; style-src 'sha256-{digest}'; {rest}"
