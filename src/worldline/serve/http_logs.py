"""Routes of logs and their episodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from worldline.planning.calls import CALLS, MAX_HORIZON, Call
from worldline.serve.callers import Caller, Scope
from worldline.serve.episode_calls import FROM_EPISODE, EpisodePlace, completed
from worldline.serve.log_views import (
    MAX_EPISODES,
    MAX_HEIGHT,
    MAX_POINTS,
    LogList,
    list_episodes,
    view_curves,
    view_frames,
    view_log,
)
from worldline.serve.logs import ServedLogs
from worldline.serve.openapi import needs, operation, within_rate
from worldline.serve.requests import ENCODERS, JSON, answer_type, deadline_s, left, read_content
from worldline.serve.service import Service
from worldline.world import wire
from worldline.world.base import ANSWERS

Number = Annotated[int, Query(ge=0, lt=2**31)]
Names = Annotated[list[str], Query(default_factory=list, max_length=1000)]
EpisodeCaller = Annotated[Caller, needs(Scope.INFER, Scope.JOB)]

_PICTURES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The pictures.", "content": {"image/jpeg": {}, "image/png": {}}}
}


def logs_router(logs: ServedLogs) -> APIRouter:
    """Routes that read logs. All need the scope job.

    Args:
        logs: of the service.
    """
    router = APIRouter(prefix="/v1/logs", tags=["logs"], dependencies=[Depends(within_rate)])

    @router.get("", openapi_extra=operation(answer="LogList"))
    async def list_logs() -> Response:
        """The names of the logs."""
        return await _answer(lambda: LogList(logs=tuple(logs.names())))

    @router.get("/{log}", openapi_extra=operation(answer="LogView"))
    async def get_log(log: str) -> Response:
        """A log with its signals. It must be a store."""
        return await _answer(lambda: view_log(log, logs.store(log)))

    @router.get("/{log}/episodes", openapi_extra=operation(answer="EpisodeList"))
    async def get_episodes(
        log: str, offset: Number = 0, limit: Annotated[int, Query(ge=1, le=MAX_EPISODES)] = MAX_EPISODES
    ) -> Response:
        """The episodes of a log, from number `offset` on."""
        return await _answer(lambda: list_episodes(logs.store(log), offset, limit))

    @router.get("/{log}/episodes/{number:plain}", openapi_extra=operation(answer="EpisodeCurves"))
    async def get_episode(
        log: str,
        number: int,
        signals: Names,
        first: Number = 0,
        last: Number | None = None,
        points: Annotated[int, Query(ge=2, le=MAX_POINTS)] = 2000,
    ) -> Response:
        """The values of an episode without images; `signals` are separated by commas.

        A part of more than `points` observations is reduced to minima and maxima.
        """
        chosen = partial(view_curves, number=number, first=first, last=last, points=points, signals=signals)
        return await _answer(lambda: chosen(logs.store(log)))

    @router.get("/{log}/episodes/{number}/frames/{signal}", response_class=Response, responses=_PICTURES)
    async def get_frames(
        log: str,
        number: int,
        signal: str,
        steps: Annotated[str, Query(max_length=1000)] = "0",
        height: Annotated[int, Query(ge=0, le=MAX_HEIGHT)] = 96,
    ) -> Response:
        """Pictures of an episode side by side, at most `height` pixels high; `steps` are separated by commas.

        With a height of 0, a single picture in its own size, as PNG.
        """
        content, kind = await asyncio.to_thread(
            lambda: view_frames(logs.store(log), number, signal, steps=steps, height=height)
        )
        return Response(content, media_type=kind)

    return router


def episode_calls_router(service: Service) -> APIRouter:
    """Calls of a world about an episode. They need the scopes job and infer.

    Args:
        service: has the logs, and answers the calls.
    """
    router = APIRouter(prefix="/v1/logs", tags=["logs"])

    async def ask(
        kind: type[Call],
        request: Request,
        caller: Caller,
        log: str,
        number: int,
        world: str,
        at: int | None,
        steps: int | None,
    ) -> Response:
        hosted = service.hosts.find(world, caller)
        request.state.labels = world, kind.verb
        wait_s, answer = deadline_s(request), answer_type(request)
        steps = steps or max(1, hosted.card.band_horizon)
        defaults = {"actions": {}, "horizon": steps}
        call = await read_content(request, service, caller, kind.verb, kind, FROM_EPISODE, defaults)

        def complete() -> Call:
            place = EpisodePlace(log=log, store=service.logs.store(log), number=number, at=at, steps=steps)
            return completed(call, hosted.card, place, service.limits)

        whole = await asyncio.to_thread(complete)
        body = await service.ask(
            caller, world, whole, encode=ENCODERS[answer], deadline_s=wait_s, gone=partial(left, request), checked=True
        )
        return Response(body, media_type=answer)

    def add(kind: type[Call]) -> None:
        shown = operation(
            body=f"Episode{kind.__name__}", answer=ANSWERS[kind].__name__, msgpack=True, headers=["Deadline-Ms"]
        )

        @router.post(f"/{{log}}/episodes/{{number}}:{kind.verb}", name=f"{kind.verb}_episode", openapi_extra=shown)
        async def call_episode(
            log: str,
            number: int,
            request: Request,
            caller: EpisodeCaller,
            world: str,
            at: Number | None = None,
            steps: Annotated[int | None, Query(ge=1, le=MAX_HORIZON)] = None,
        ) -> Response:
            """A call of `world` at observation `at`, for `steps` steps. What the body leaves out is as logged."""
            return await ask(kind, request, caller, log, number, world, at, steps)

    for kind in CALLS.values():
        add(kind)
    return router


async def _answer(view: Callable[[], object]) -> Response:
    """The JSON of a view, which is made in a thread because it reads files."""
    return Response(await asyncio.to_thread(lambda: wire.encode_json_answer(view())), media_type=JSON)
