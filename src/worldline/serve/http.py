"""The HTTP interface of a service: routes of worlds and of its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from inspect import getdoc
from typing import Annotated

from worldline.errors import InputError, MissingExtraError

try:
    from fastapi import APIRouter, FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import HTMLResponse, PlainTextResponse
    from starlette.exceptions import HTTPException
    from starlette.routing import Route
    from starlette.types import ASGIApp

    from worldline.planning.calls import CALLS
    from worldline.serve import requests
    from worldline.serve.background import kept_up
    from worldline.serve.callers import Caller, Scope
    from worldline.serve.database import Database
    from worldline.serve.environments import Environments
    from worldline.serve.http_admin import admin_router
    from worldline.serve.http_compare import comparison_router
    from worldline.serve.http_docs import docs_router
    from worldline.serve.http_environments import environments_router
    from worldline.serve.http_jobs import jobs_router
    from worldline.serve.http_logs import episode_calls_router, logs_router
    from worldline.serve.http_sessions import sessions_router
    from worldline.serve.http_studio import studio_router
    from worldline.serve.jobs import Jobs, JobSettings
    from worldline.serve.openapi import PROBLEM, needs, operation, sandboxed
    from worldline.serve.problems import MethodError, NotFoundError
    from worldline.serve.registry import Registry
    from worldline.serve.requests import ENCODERS, JSON, accepted_response, answer_type, json_of, read_content
    from worldline.serve.service import Service
    from worldline.serve.sessions import Sessions
    from worldline.serve.world_views import WorldList, list_pages, read_page, summary_of, view_of
    from worldline.world.base import ANSWERS
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name).partition(".")[0], "serve") from error


Reader = Annotated[Caller, needs(Scope.READ)]


def create_app(
    service: Service,
    database: Database | None = None,
    *,
    job_settings: JobSettings | None = None,
    environments: Environments | None = None,
    any_host: bool = False,
) -> ASGIApp:
    """The web application.

    Args:
        service: answers the calls.
        database: for sessions and added worlds; None for a service without them.
        job_settings: how jobs run, which need a database; None for a service without jobs.
        environments: what callers may run; None for a service without environments.
        any_host: whether a service without tokens answers under any host name, not only to localhost.
    """
    sessions = None if database is None else Sessions(service, database)
    registry = None if database is None else Registry(service.hosts, database)
    jobs = None if database is None or job_settings is None else Jobs(service, database, job_settings)
    often = [] if registry is None else [registry.sync]
    seldom = [part.clean for part in (sessions, jobs) if part is not None]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with kept_up(service, often, seldom):
            if jobs is not None:
                service.stopping.append(jobs.stop)
                jobs.start()
            yield
            if jobs is not None:
                await jobs.close()
            if environments is not None:
                environments.close()
        service.close()

    app = FastAPI(
        openapi_url=None,  # the documents of the service are its own
        lifespan=lifespan,
        responses=PROBLEM,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    # Most requests take this route, so it comes first and skips the request handling of FastAPI.
    verbs = Route("/v1/worlds/{name}:{verb}", partial(_call_world, service), methods=["POST"])
    app.router.routes.insert(0, verbs)
    routers = [_worlds(service), logs_router(service.logs), episode_calls_router(service), comparison_router(service)]
    if sessions is not None and registry is not None:
        routers += [sessions_router(service, sessions), admin_router(service, registry)]
    if jobs is not None:
        routers.append(jobs_router(service, jobs))
    routers += [environments_router(service, environments), _state(service), docs_router(service, app), studio_router()]
    for router in routers:
        app.include_router(router)
    app.add_middleware(requests.Guard, service=service, any_host=any_host)

    _add_errors(app)
    return app


def _add_errors(app: FastAPI) -> None:
    """Raises what the router finds as errors, which `Guard` answers."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Parameters of a query."""
        first = error.errors()[0]
        raise InputError(f"{first['loc'][-1]} is {first['input']!r:.60}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        """Unknown paths and methods, found by the router."""
        if error.status_code == 404:
            raise NotFoundError("path", request.url.path)
        allow = (error.headers or {}).get("Allow", "")
        raise MethodError(f"{request.method} is not possible here. Use {allow}.", allow)


def _state(service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> Response:
        """Answers OK while the process runs."""
        return PlainTextResponse("OK")

    @router.get("/readyz", response_class=PlainTextResponse)
    async def readyz() -> Response:
        """Answers OK if the workers answer, and 503 if they do not."""
        is_ready = service.ready()
        return PlainTextResponse("OK" if is_ready else "the workers do not answer", 200 if is_ready else 503)

    @router.get("/metrics", response_class=PlainTextResponse, dependencies=[needs(Scope.READ)])
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _worlds(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/worlds", tags=["worlds"])

    for verb, kind in CALLS.items():
        shown = operation(body=kind.__name__, answer=ANSWERS[kind].__name__, msgpack=True, headers=["Deadline-Ms"])
        router.add_api_route(
            f"/{{name}}:{verb}",
            _describe_verb,
            methods=["POST"],
            name=verb,
            description=(getdoc(kind) or "").partition("\n\nArgs:")[0],
            dependencies=[needs(Scope.INFER)],
            openapi_extra=shown,
        )

    @router.get("", dependencies=[needs(Scope.READ)], openapi_extra=operation(answer="WorldList"))
    async def list_worlds() -> Response:
        """The served worlds."""
        return await json_of(lambda: WorldList(worlds=tuple(map(summary_of, [*service.hosts.values()]))))

    @router.get("/{name:plain}", openapi_extra=operation(answer="WorldView", msgpack=True))
    async def describe_world(name: str, request: Request, caller: Reader) -> Response:
        """The card of a world, its versions and aliases."""
        hosted = service.hosts.find(name, caller)
        if answer_type(request) == JSON:
            return await json_of(view_of, hosted)
        _, world = await asyncio.to_thread(hosted.current)
        return accepted_response(request, world.describe())

    @router.get("/{name:plain}/pages", openapi_extra=operation(answer="WorldPages"))
    async def get_pages(name: str, caller: Reader) -> Response:
        """The pages about a world: report, audit and exam."""
        return await json_of(list_pages, service.hosts.find(name, caller))

    @router.get("/{name:plain}/pages/{page}", response_class=HTMLResponse)
    async def get_page(name: str, page: str, caller: Reader) -> Response:
        """A page about a world, as HTML."""
        return sandboxed(await asyncio.to_thread(read_page, service.hosts.find(name, caller), page))

    return router


def _describe_verb(name: str) -> None:
    """Stands in the document for a verb; `_call_world` has the same path and comes first, so nothing calls this."""
    raise AssertionError(f"{name} reached the route that only documents verbs")


async def _call_world(service: Service, request: Request) -> Response:
    """Calls a verb of a world."""
    name, verb = request.path_params["name"], request.path_params["verb"]
    caller = await service.authorize(request.headers.get("authorization"), Scope.INFER)
    service.hosts.find(name, caller)  # an unknown name is an error before the body is read
    if verb not in CALLS:
        raise NotFoundError("verb", verb, CALLS)
    request.state.labels = name, verb
    wait_s, answer, gone = requests.deadline_s(request), answer_type(request), partial(requests.left, request)
    call = await read_content(request, service, caller, verb, CALLS[verb])
    encode = ENCODERS[answer]
    body = await service.ask(caller, name, call, encode=encode, deadline_s=wait_s, gone=gone, checked=True)
    return Response(body, media_type=answer)
