"""Routes of logs and their episodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from worldline.planning.calls import CALLS, MAX_HORIZON, Call
from worldline.serve import log_views as views
from worldline.serve.callers import Caller, Scope
from worldline.serve.episode_calls import FIXED, OPTIONAL, EpisodePlace, completed
from worldline.serve.logs import ServedLogs
from worldline.serve.openapi import needs, operation, within_rate
from worldline.serve.requests import ENCODERS, answer_type, deadline_s, json_of, left, read_content
from worldline.serve.service import Service
from worldline.world import wire
from worldline.world.base import ANSWERS

Number = Annotated[int, Query(ge=0, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=views.MAX_EPISODES)]
Points = Annotated[int, Query(ge=2, le=views.MAX_POINTS)]
Steps = Annotated[int | None, Query(ge=1, le=MAX_HORIZON)]
Frames = Annotated[str, Query(max_length=1000)]
Height = Annotated[int, Query(ge=0, le=views.MAX_HEIGHT)]
Names = Annotated[list[str], Query(default_factory=list, max_length=1000)]
EpisodeCaller = Annotated[Caller, needs(Scope.INFER, Scope.JOB)]

_PICTURES: Final[Any] = {200: {"description": "The pictures.", "content": {"image/jpeg": {}, "image/png": {}}}}


def logs_router(logs: ServedLogs) -> APIRouter:
    """Routes that read logs. All need the scope job."""
    router = APIRouter(prefix="/v1/logs", tags=["logs"], dependencies=[Depends(within_rate)])

    @router.get("", openapi_extra=operation(answer="LogList"))
    async def list_logs() -> Response:
        """The names of the logs."""
        return await json_of(lambda: views.LogList(logs=tuple(logs.names())))

    @router.get("/{log}", openapi_extra=operation(answer="LogView"))
    async def get_log(log: str) -> Response:
        """A log with its signals. It must be a store."""
        return await json_of(lambda: views.view_log(log, logs.store(log)))

    @router.get("/{log}/episodes", openapi_extra=operation(answer="EpisodeList"))
    async def get_episodes(log: str, offset: Number = 0, limit: Limit = views.MAX_EPISODES) -> Response:
        """The episodes of a log, from number `offset` on."""
        return await json_of(lambda: views.list_episodes(logs.store(log), offset, limit))

    @router.get("/{log}/episodes/{number:plain}", openapi_extra=operation(answer="EpisodeCurves"))
    async def get_episode(
        log: str, number: int, signals: Names, first: Number = 0, last: Number | None = None, points: Points = 2000
    ) -> Response:
        """The values of an episode without images; `signals` are separated by commas.

        A part of more than `points` observations is reduced to minima and maxima.
        """
        return await json_of(lambda: views.view_curves(logs.store(log), number, first, last, points, signals))

    @router.get("/{log}/episodes/{number}/frames/{signal}", response_class=Response, responses=_PICTURES)
    async def get_frames(log: str, number: int, signal: str, steps: Frames = "0", height: Height = 96) -> Response:
        """Pictures of an episode side by side, at most `height` pixels high; `steps` are separated by commas.

        With a height of 0, a single picture in its own size, as PNG.
        """
        view = partial(views.view_frames, number=number, camera=signal, steps=steps, height=height)
        content, kind = await asyncio.to_thread(lambda: view(logs.store(log)))
        return Response(content, media_type=kind)

    return router


def episode_calls_router(service: Service) -> APIRouter:
    """Calls of a world about an episode. They need the scopes job and infer."""
    router = APIRouter(prefix="/v1/logs", tags=["logs"])
    for kind in CALLS.values():
        body, answer = f"Episode{kind.__name__}", ANSWERS[kind].__name__
        shown = operation(body=body, answer=answer, msgpack=True, headers=["Deadline-Ms"])
        path, name = f"/{{log}}/episodes/{{number}}:{kind.verb}", f"{kind.verb}_episode"
        router.add_api_route(path, _asking(service, kind), methods=["POST"], name=name, openapi_extra=shown)
    return router


def _asking(service: Service, kind: type[Call]) -> Callable[..., Any]:
    """The route of a verb."""

    async def ask(
        log: str,
        number: int,
        request: Request,
        caller: EpisodeCaller,
        world: str,
        at: Number | None = None,
        steps: Steps = None,
    ) -> Response:
        """A call of `world` at observation `at`, for `steps` steps. What the body leaves out is as logged."""
        card = service.hosts.find(world, caller).card
        request.state.labels = world, kind.verb
        wait_s, answer, horizon = deadline_s(request), answer_type(request), steps or max(1, card.band_horizon)
        filled = {**FIXED, **OPTIONAL, "horizon": wire.Default(horizon)}
        call = await read_content(request, service, caller, kind.verb, kind, filled)

        def complete() -> Call:
            store = service.logs.store(log)
            place = EpisodePlace(log=log, store=store, number=number, at=at, steps=horizon)
            return completed(call, card, place, service.limits)

        whole, encode, gone = await asyncio.to_thread(complete), ENCODERS[answer], partial(left, request)
        body = await service.ask(caller, world, whole, encode=encode, deadline_s=wait_s, gone=gone, checked=True)
        return Response(body, media_type=answer)

    return ask
