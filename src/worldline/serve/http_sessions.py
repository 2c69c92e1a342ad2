"""Routes of sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from fastapi import APIRouter, Request, Response

from worldline.planning.base import PlanRequest
from worldline.serve.callers import Scope
from worldline.serve.problems import NotFoundError
from worldline.serve.requests import JSON, MSGPACK, answer_type, deadline_s, idempotency_key, read_arguments
from worldline.serve.service import Service
from worldline.serve.sessions import ObservedStep, Sessions, SessionSettings, SessionView
from worldline.world import wire
from worldline.world.session import Session


@final
@dataclass(frozen=True, kw_only=True)
class NewSession:
    """The body of a request for a session.

    Args:
        world: name of the world.
        settings: of the session.
    """

    world: str
    settings: SessionSettings = field(default_factory=SessionSettings)


@final
@dataclass(frozen=True, kw_only=True)
class NewStep(ObservedStep):
    """The body of an observation.

    Args:
        step: number of observations before this one.
    """

    step: int


@final
@dataclass(frozen=True, kw_only=True)
class SessionPlan:
    """The body of a request for a plan.

    Args:
        request: goal, horizon and options.
    """

    request: PlanRequest


def sessions_router(service: Service, sessions: Sessions) -> APIRouter:
    """The routes of sessions."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"])
    limits = service.limits

    @router.post("", status_code=201)
    async def create_session(request: Request) -> Response:
        """Opens a session."""
        caller = await service.authorize(request.headers.get("authorization"), Scope.SESSION)
        key = idempotency_key(request)
        body = NewSession(**await read_arguments(request, limits, "create_session", NewSession))
        found = await sessions.create(caller, body.world, body.settings, key=key)
        return _response(request, found, 201)

    @router.get("/{name}")
    async def get_session(name: str, request: Request) -> Response:
        """The session as it is now."""
        caller = await service.authorize(request.headers.get("authorization"), Scope.SESSION)
        return _response(request, await sessions.get(caller, name))

    @router.delete("/{name}", status_code=204)
    async def delete_session(name: str, request: Request) -> Response:
        """Ends a session."""
        caller = await service.authorize(request.headers.get("authorization"), Scope.SESSION)
        await sessions.delete(caller, name)
        return Response(status_code=204)

    @router.post("/{name}:{verb}")
    async def call_session(name: str, verb: str, request: Request) -> Response:
        """Adds an observation, predicts, plans or copies the session: observe, predict, plan or fork."""
        caller = await service.authorize(request.headers.get("authorization"), Scope.SESSION)
        request.state.labels = "", f"session {verb}" if verb in _VERBS else "other"
        if verb == "fork":
            return _response(request, await sessions.fork(caller, name, key=idempotency_key(request)), 201)
        if verb not in _VERBS:
            raise NotFoundError("verb of sessions", verb, _VERBS)
        encode = wire.encode_json_answer if answer_type(request) == JSON else wire.encode_answer
        wait_s = deadline_s(request)
        if verb == "observe":
            one = NewStep(**await read_arguments(request, limits, verb, NewStep))
            return _response(request, await sessions.observe(caller, name, one.step, _step(one), deadline_s=wait_s))
        if verb == "predict":
            arguments = await read_arguments(request, limits, verb, Session.predict)
            found = await sessions.predict(caller, name, arguments, encode=encode, deadline_s=wait_s)
        else:
            plan = SessionPlan(**await read_arguments(request, limits, verb, SessionPlan))
            found = await sessions.plan(caller, name, plan.request, encode=encode, deadline_s=wait_s)
        return Response(found, media_type=answer_type(request))

    return router


_VERBS = ("observe", "predict", "plan", "fork")


def _step(one: NewStep) -> ObservedStep:
    return ObservedStep(
        observations=one.observations, actions=one.actions, exogenous=one.exogenous, observed=one.observed
    )


def _response(request: Request, found: SessionView, status: int = 200) -> Response:
    if answer_type(request) == MSGPACK:
        return Response(wire.encode_answer(found), status, media_type=MSGPACK)
    return Response(wire.encode_json_answer(found), status, media_type=JSON)
