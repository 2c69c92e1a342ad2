"""Routes of environments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, final

from fastapi import APIRouter, Request, Response

from worldline.episode import Arrays
from worldline.serve.callers import Caller, Scope
from worldline.serve.environments import Environments
from worldline.serve.openapi import needs, operation
from worldline.serve.requests import accepted_response, json_response, read_content
from worldline.serve.service import Service

RunCaller = Annotated[Caller, needs(Scope.SESSION)]


@final
@dataclass(frozen=True, kw_only=True)
class EnvironmentList:
    """The environments that callers may run.

    Args:
        environments: names of labs and Gymnasium ids, as the operator gave them.
    """

    environments: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True)
class NewRun:
    """The body of a request for a run.

    Args:
        seed: of the reset, at least 0.
    """

    seed: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class RunStep:
    """The body of a step.

    Args:
        actions: per signal [*shape], inside the bounds.
    """

    actions: Arrays


_RUN: Final = partial(operation, answer="RunView", msgpack=True)


def environments_router(service: Service, environments: Environments | None) -> APIRouter:
    """The routes below /v1/environments; all need the scope session, and show callers only their own runs.

    Args:
        service: limits the calls.
        environments: what callers may run; None for an empty list, without routes of runs.
    """
    names = () if environments is None else environments.names
    router = APIRouter(prefix="/v1/environments", tags=["environments"], dependencies=[needs(Scope.SESSION)])

    @router.get("", openapi_extra=operation(answer="EnvironmentList"))
    async def list_environments() -> Response:
        """The names of the environments."""
        return json_response(EnvironmentList(environments=names))

    if environments is None:
        return router

    @router.post("/{environment:path}/runs", status_code=201, openapi_extra=_RUN(body="NewRun", statuses=(201,)))
    async def create_run(environment: str, request: Request, caller: RunCaller) -> Response:
        """Starts a run of an environment. It ends when it is deleted, or when it was not used for 10 minutes."""
        body = await read_content(request, service, caller, "create_run", NewRun)
        return accepted_response(request, await environments.start(caller, environment, body.seed), 201)

    @router.post("/{environment:path}/runs/{run:plain}:step", openapi_extra=_RUN(body="RunStep"))
    async def step_run(environment: str, run: str, request: Request, caller: RunCaller) -> Response:
        """Takes a step of the environment under these actions."""
        body = await read_content(request, service, caller, "step_run", RunStep)
        return accepted_response(request, await environments.step(caller, environment, run, body.actions))

    @router.delete("/{environment:path}/runs/{run:plain}", status_code=204)
    async def delete_run(environment: str, run: str, caller: RunCaller) -> Response:
        """Ends a run."""
        environments.end(caller, environment, run)
        return Response(status_code=204)

    return router
