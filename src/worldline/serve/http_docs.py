"""The documentation of a service: /openapi.json and /docs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from worldline.serve.callers import Scope
from worldline.serve.examples import examples_of
from worldline.serve.hosting import HostedWorld
from worldline.serve.openapi import create_openapi, operation, routes_of, verb_routes
from worldline.serve.requests import HTML, JSON
from worldline.serve.service import Service


def docs_router(service: Service, path: str, routers: Sequence[APIRouter]) -> APIRouter:
    """The routes of the documentation.

    Args:
        service: is documented.
        path: of the route of verbs.
        routers: the other routes.
    """
    router = APIRouter(tags=["documentation"])

    @router.get("/openapi.json", openapi_extra=operation(scope=Scope.READ, media=JSON))
    async def get_openapi(request: Request) -> Response:
        """This interface as OpenAPI 3.1."""
        await service.authorize(request.headers.get("authorization"), Scope.READ)
        return Response(msgspec.json.encode(await documented(has_examples=True)), media_type=JSON)

    @router.get("/docs", openapi_extra=operation(media=HTML, problems=[401, 403]))
    async def get_docs(request: Request) -> Response:
        """This page. Without a token, it shows no examples from served worlds."""
        given = request.headers.get("authorization")
        has_examples = given is not None or not service.needs_token
        if has_examples:
            await service.authorize(given, Scope.READ)
        document, server = await documented(has_examples=has_examples), _address(request)
        page = render(document, needs_token=service.needs_token, server=server)
        return Response(page, media_type=HTML, headers={"content-security-policy": _policy()})

    @lru_cache(maxsize=4)
    def make(hosted: HostedWorld | None, version: int | None, needs_token: bool) -> dict[str, Any]:
        del version  # another one may have another card
        return create_openapi(routes, None if hosted is None else examples_of(hosted), needs_token=needs_token)

    async def documented(*, has_examples: bool) -> dict[str, Any]:
        """The document, with examples of the first world if the caller may see its signals."""
        hosted = next(iter(service.hosts.values()), None) if has_examples else None
        version = None if hosted is None else hosted.version
        return await asyncio.to_thread(make, hosted, version, service.needs_token)

    routes = [*verb_routes(path), *routes_of([*routers, router])]
    return router


def render(document: Mapping[str, Any], *, needs_token: bool, server: str) -> str:
    """The page for an OpenAPI document, without scripts and without parts from other hosts.

    Args:
        document: from `create_openapi`.
        needs_token: whether callers need a token.
        server: address of the service.
    """
    operations = [
        {**one, "path": path, "method": method, "curl": _curl(one, f"{server}{path}", method, needs_token)}
        for path, methods in document["paths"].items()
        for method, one in methods.items()
    ]
    page = _environment().get_template("docs.html")
    return page.render(document=document, operations=operations, needs_token=needs_token, style=_style(), server=server)


def _curl(stated: Mapping[str, Any], url: str, method: str, needs_token: bool) -> str:
    """A command that sends the example; ids that only the caller knows are variables of the shell."""
    for one in stated["parameters"]:
        if one.get("in") == "path":
            url = url.replace(f"{{{one['name']}}}", one.get("example") or f"${{{one['name'].upper()}}}")
    body = stated.get("requestBody", {}).get("content", {}).get(JSON, {})
    verb = "" if method == ("post" if body else "get") else f"-X {method.upper()} "
    parts = [f'curl {verb}"{url}"']
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
