"""The HTTP interface of a service: routes of worlds and of its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from worldline.catalog.aliases import Reference
from worldline.catalog.versions import Catalog
from worldline.errors import MissingExtraError, UnknownNameError
from worldline.serve.callers import Scope
from worldline.serve.hosting import HostedWorld
from worldline.serve.problems import MethodError, NotFoundError
from worldline.serve.service import Service
from worldline.world import wire

try:
    from fastapi import APIRouter, FastAPI, Request, Response
    from starlette.exceptions import HTTPException
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from worldline.serve.requests import (
        JSON,
        MSGPACK,
        Guard,
        answer_type,
        content_type,
        deadline_s,
        left,
        read_body,
    )
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error


def create_app(service: Service, *, any_host: bool = False) -> ASGIApp:
    """The web application.

    Args:
        service: answers the calls.
        any_host: whether a service without tokens answers under any host name, not only to localhost.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        service.close()

    app = FastAPI(title="worldline", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    # The first route, without dependencies: most requests take it, and FastAPI would add a fifth to their time.
    app.router.routes.insert(0, Route("/v1/worlds/{name}:{verb}", partial(_call_world, service), methods=["POST"]))
    app.include_router(_state(service))
    app.include_router(_worlds(service))
    app.add_middleware(Guard, service=service, any_host=any_host)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        """Unknown paths and methods, found by the router."""
        known = {404: NotFoundError("path", request.url.path[:200], [])}
        raise known.get(error.status_code, MethodError(f"{request.method} is not possible here."))

    return app


def _state(service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/healthz")
    async def healthz() -> Response:
        """Answers OK while the process runs."""
        return Response("OK", media_type="text/plain")

    @router.get("/readyz")
    async def readyz() -> Response:
        """Answers OK if the workers answered lately, and 503 if they did not."""
        found = await service.ready()
        return Response("OK" if found else "the workers do not answer", 200 if found else 503, media_type="text/plain")

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Metrics for Prometheus."""
        service.authorize(request.headers.get("authorization"), Scope.READ)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _worlds(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/worlds", tags=["worlds"])

    @router.get("")
    async def list_worlds(request: Request) -> Response:
        """The served worlds."""
        service.authorize(request.headers.get("authorization"), Scope.READ)
        found = await asyncio.to_thread(lambda: [_summary(one) for one in service.hosts.values()])
        return Response(wire.encode_json_answer({"worlds": found}), media_type=JSON)

    @router.get("/{name}")
    async def describe_world(name: str, request: Request) -> Response:
        """The card of a world, its versions and aliases."""
        service.authorize(request.headers.get("authorization"), Scope.READ)
        hosted = service.hosts[name]
        version, world = await asyncio.to_thread(hosted.current)
        if answer_type(request) == MSGPACK:
            return Response(wire.encode_answer(world.describe()), media_type=MSGPACK)
        versions = await asyncio.to_thread(_versions, hosted)
        found = {"name": name, "reference": hosted.reference, "version": version, "card": world.describe(), **versions}
        return Response(wire.encode_json_answer(found), media_type=JSON)

    return router


INLINE_BYTES = 2**16
"""Largest body that is decoded in the event loop; larger ones would delay other requests."""


async def _call_world(service: Service, request: Request) -> Response:
    """Calls a verb of a world."""
    name, verb = request.path_params["name"], request.path_params["verb"]
    caller = service.authorize(request.headers.get("authorization"), Scope.INFER)
    service.hosts[name]  # an unknown name is an error before the body is read
    if verb not in wire.VERBS or verb == "describe":
        raise NotFoundError("verb", verb, [one for one in wire.VERBS if one != "describe"])
    request.state.labels = name, verb
    kind, answer, wait_s = content_type(request), answer_type(request), deadline_s(request)
    limits = service.limits
    body = await read_body(request, limits.json_bytes if kind == JSON else limits.body_bytes, limits.body_s)
    decode = wire.decode_json_call if kind == JSON else wire.decode_call
    call = decode(verb, body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(decode, verb, body)
    encode = wire.encode_json_answer if answer == JSON else wire.encode_answer
    found = await service.ask(caller, name, call, encode=encode, deadline_s=wait_s, gone=left(request))
    return Response(found, media_type=answer)


def _summary(hosted: HostedWorld) -> dict[str, Any]:
    version, world = hosted.current()
    card = world.describe()
    return {"name": hosted.name, "reference": hosted.reference, "version": version, "engine": card.engine}


def _versions(hosted: HostedWorld) -> dict[str, Any]:
    """Versions and aliases of a world of the catalog; nothing for a folder."""
    if hosted.reference is None:
        return {"versions": [], "aliases": {}}
    name = Reference.parse(hosted.reference).name
    try:
        catalog = Catalog()
        found = catalog.versions(name)
        aliases = {alias: one.now.version for alias, one in catalog.shelf(name).aliases().items()}
    except UnknownNameError:  # removed from the catalog after it was opened
        return {"versions": [], "aliases": {}}
    versions = [{"number": one.number, "created": one.created, "engine": one.model} for one in found]
    return {"versions": versions, "aliases": aliases}
