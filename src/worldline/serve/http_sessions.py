"""Routes of sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Final, final

from fastapi import APIRouter, Depends, Request, Response

from worldline.planning.calls import PlanCall, PredictCall
from worldline.serve.callers import Caller, Scope
from worldline.serve.openapi import needs, operation
from worldline.serve.requests import ENCODERS, accepted_response, answer_type, deadline_s, idempotency_key, read_content
from worldline.serve.service import Service
from worldline.serve.sessions import ObservedStep, Sessions, SessionSettings
from worldline.world.session import FILLED_IN

SessionCaller = Annotated[Caller, needs(Scope.SESSION)]


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
        observations: per signal [*shape].
        actions: since the last observation, per signal [*shape]; empty at the first step.
        exogenous: likewise.
        observed: per signal, whether its value was observed; true if left out.
    """

    step: int


_NEW: Final = partial(operation, answer="SessionView", statuses=(201,), msgpack=True, headers=["Idempotency-Key"])
_CALL: Final = partial(operation, msgpack=True, headers=["Deadline-Ms"])


def sessions_router(service: Service, sessions: Sessions) -> APIRouter:
    """The routes of sessions."""
    router = APIRouter(prefix="/v1/sessions", tags=["sessions"], dependencies=[Depends(_count), needs(Scope.SESSION)])

    @router.post("", status_code=201, openapi_extra=_NEW(body="NewSession"))
    async def create_session(request: Request, caller: SessionCaller) -> Response:
        """Opens a session. It ends when it is deleted, or when it was not used for some time."""
        key = idempotency_key(request)
        body = await read_content(request, service, caller, "create_session", NewSession)
        return accepted_response(request, await sessions.create(caller, body.world, body.settings, key=key), 201)

    _add_calls(router, service, sessions)

    @router.post("/{session}:fork", status_code=201, openapi_extra=_NEW())
    async def fork_session(session: str, request: Request, caller: SessionCaller) -> Response:
        """Opens a session with the same history."""
        return accepted_response(request, await sessions.fork(caller, session, key=idempotency_key(request)), 201)

    @router.get("/{session:plain}", openapi_extra=operation(answer="SessionView", msgpack=True))
    async def get_session(session: str, request: Request, caller: SessionCaller) -> Response:
        """The present state of a session."""
        return accepted_response(request, await sessions.get(caller, session))

    @router.delete("/{session:plain}", status_code=204)
    async def delete_session(session: str, caller: SessionCaller) -> Response:
        """Ends a session."""
        await sessions.delete(caller, session)
        return Response(status_code=204)

    return router


def _add_calls(router: APIRouter, service: Service, sessions: Sessions) -> None:
    """Adds the routes of calls of a session, which a worker computes."""

    @router.post("/{session}:observe", openapi_extra=_CALL(body="NewStep", answer="SessionView"))
    async def observe_session(session: str, request: Request, caller: SessionCaller) -> Response:
        """Adds an observation. Sending the last step again changes nothing."""
        wait_s = deadline_s(request)
        arguments = {**vars(await read_content(request, service, caller, "observe", NewStep))}
        step, observed = arguments.pop("step"), ObservedStep(**arguments)
        return accepted_response(request, await sessions.observe(caller, session, step, observed, deadline_s=wait_s))

    async def ask(kind: type[PredictCall | PlanCall], session: str, request: Request, caller: Caller) -> Response:
        answer, wait_s = answer_type(request), deadline_s(request)
        call = await read_content(request, service, caller, kind.verb, kind, FILLED_IN)
        body = await sessions.ask(caller, session, call, encode=ENCODERS[answer], deadline_s=wait_s)
        return Response(body, media_type=answer)

    @router.post("/{session}:predict", openapi_extra=_CALL(body="SessionPredictCall", answer="Prediction"))
    async def predict_session(session: str, request: Request, caller: SessionCaller) -> Response:
        """Predicts from the history of the session, as `predict` does; the bands have adapted to the session."""
        return await ask(PredictCall, session, request, caller)

    @router.post("/{session}:plan", openapi_extra=_CALL(body="SessionPlanCall", answer="Plan"))
    async def plan_session(session: str, request: Request, caller: SessionCaller) -> Response:
        """Searches a plan from the present of the session, as `plan` does."""
        return await ask(PlanCall, session, request, caller)


async def _count(request: Request) -> None:
    """Counts calls under their verbs, those of callers without a valid token too."""
    _, colon, verb = request.scope["path"].rpartition(":")
    if colon:
        request.state.labels = "", f"session {verb}"
