"""MCP server: worlds as tools of a language model, over stdio or streamable HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import Annotated, Any, Final, final

import numpy as np
from pydantic import Field, ValidationError

from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError, WorldlineError
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.plots.result_series import ResultSeries
from worldline.schema import Signal
from worldline.serve.callers import ANYONE, Caller, ForbiddenError, Scope, UnauthorizedError
from worldline.serve.mcp_inputs import (
    BoundInput,
    GoalInput,
    HistoryInput,
    SignalRows,
    constraints_of,
    episode_of,
    futures_of,
    goal_of,
    history_of,
)
from worldline.serve.mcp_results import (
    MAX_TEXT,
    MIN_TRUST,
    Detail,
    ResultStore,
    encoded,
    end_values,
    fit,
    largest_difference,
    plain,
    series_of,
    shown_error,
    summary,
    trust_meaning,
)
from worldline.serve.problems import NotFoundError, fault_text
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf

try:
    import anyio
    from mcp.server.apps import Apps
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp_types import CallToolResult, TextContent, ToolAnnotations
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Send
    from starlette.types import Scope as ASGIScope

    from worldline.serve.background import kept_up
    from worldline.serve.service import Service
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name).partition(".")[0], "mcp") from error

_logger = logging.getLogger(__name__)

MAX_CANDIDATES: Final = 8
"""Most plans that `compare_plans` takes."""

PANE: Final = "ui://worldline/forecast.html"
"""The pane of `predict` and `plan`."""

_INSTRUCTIONS: Final = f"""World models that predict physical systems. Ask before you act:
1. describe_world: signals, units, bounds. Values are in these units, one row per step.
2. predict or compare_plans with the latest observations as history; more history makes predictions better.
3. Read trust first. Below {MIN_TRUST} the history is unlike the training data: do not rely on the result.
low and high bound the whole path with probability `level`; null means that no band is known at that step.
Observation t + 1 follows action t; the present is step 0. get_result pages through full results by handle."""

_READ_ONLY: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

WorldName = Annotated[str, Field(max_length=64, description="name from list_worlds")]
Steps = Annotated[int | None, Field(description="number of steps; default: the longest input. Last rows are held")]
Actions = Annotated[SignalRows, Field(description="action signal -> one row per step; one row is held for all steps")]
Exogenous = Annotated[
    SignalRows, Field(default_factory=dict, description="exogenous signal -> one row per step; one row is held")
]
Candidates = Annotated[
    dict[Annotated[str, Field(max_length=40)], SignalRows],
    Field(min_length=1, max_length=MAX_CANDIDATES, description="plan name -> actions, as in predict"),
]
Bounds = Annotated[list[BoundInput], Field(default_factory=list, max_length=16)]


@final
class WorldTools:
    """The tools. Each method is one tool; its docstring is what a language model reads.

    Args:
        service: answers the calls.
    """

    def __init__(self, service: Service) -> None:
        self._service, self._limits = service, service.limits
        limits = service.limits
        self._store = ResultStore(count=limits.results, num_bytes=limits.result_bytes, lifetime_s=limits.result_s)

    async def list_worlds(self) -> CallToolResult:
        """Lists the worlds with what they predict and which actions they take."""
        cards = {hosted.name: hosted.card for hosted in self._service.hosts.values()}

        def build(detail: Detail) -> dict[str, Any]:
            shown = list(cards.items())[: detail.parts]
            return {"worlds": [_listed(name, card, detail) for name, card in shown], "num_worlds": len(cards)}

        return _answer(build)

    async def describe_world(
        self, world: WorldName, signal: Annotated[str | None, Field(description="only this signal")] = None
    ) -> CallToolResult:
        """Describes one world: signals with role, unit, size and bounds, duration of a step, and length of bands."""
        card = self._card(world)
        if signal is not None:
            return _answer(partial(_signal, card.schema[signal]))
        return _answer(partial(_described, world, card))

    async def predict(
        self,
        world: WorldName,
        history: HistoryInput,
        actions: Actions,
        *,
        steps: Steps = None,
        exogenous: Exogenous,
        level: Annotated[float | None, Field(gt=0, lt=1, description="probability of the band")] = None,
    ) -> CallToolResult:
        """Predicts the signals under the given actions, with a band and the trust in the history."""
        card = self._card(world)
        (taken,), fixed = futures_of(card, [actions], exogenous, steps, limit=self._limits.horizon)
        past = history_of(card, history)
        call = PredictCall(history=past, actions=taken, exogenous=fixed, level=level)
        return self._forecast(world, await self._ask(world, call), {}, [])

    async def compare_plans(
        self,
        world: WorldName,
        history: HistoryInput,
        candidates: Candidates,
        goal: GoalInput,
        *,
        constraints: Bounds,
        steps: Steps = None,
        exogenous: Exogenous,
    ) -> CallToolResult:
        """Compares up to 8 plans, the best first: cost, and predicted values at the end.

        violation is 0 if all constraints hold. bands_overlap: the difference to the next plan may be chance.
        """
        card, names = self._card(world), list(candidates)
        limit = self._limits.horizon
        futures, fixed = futures_of(card, list(candidates.values()), exogenous, steps, limit=limit)
        expected = {signal.name for signal in card.schema.actions}
        for name, actions in zip(names, futures, strict=True):
            if actions.keys() != expected:
                raise InputError(f"plan {name!r} has actions {sorted(actions)}, expected {sorted(expected)}.")
        together = {name: np.stack([actions[name] for actions in futures]) for name in expected}
        past = history_of(card, history)
        call = ScoreCall(
            history=past,
            actions=together,
            goal=goal_of(card, goal),
            constraints=constraints_of(constraints),
            exogenous=fixed,
        )
        scores = await self._ask(world, call)
        asked = [self._ask(world, PredictCall(history=past, actions=actions, exogenous=fixed)) for actions in futures]
        paths = await asyncio.gather(*asked)  # the service computes them as one batch
        return self._compared(world, names, scores, paths)

    async def plan(
        self,
        world: WorldName,
        history: HistoryInput,
        goal: GoalInput,
        horizon: Annotated[int, Field(ge=1, description="number of steps")],
        *,
        constraints: Bounds,
        exogenous: Exogenous,
        budget_s: Annotated[float, Field(gt=0, le=60, description="seconds for the search")] = 5.0,
    ) -> CallToolResult:
        """Searches actions towards a goal.

        status: optimal, searched, out_of_time, or one of these with a reason: goal_outside_logs, infeasible, refused.
        """
        card = self._card(world)
        _, fixed = futures_of(card, [], exogenous, horizon, limit=self._limits.horizon)
        call = PlanCall(
            history=history_of(card, history),
            goal=goal_of(card, goal),
            constraints=constraints_of(constraints),
            horizon=horizon,
            exogenous=fixed,
            budget_s=budget_s,
        )
        plan: Plan = await self._ask(world, call)
        facts = {
            "status": plan.status.value,
            "reason": plan.reason[:300],
            "cost": plain(float(plan.cost)),
            "violation": plain(float(np.max(plan.violation, initial=0.0))),
        }
        actions = [series for series in series_of(plan) if series.heading == "actions"]
        if plan.prediction is None:
            return _answer(lambda _: {"world": world, **facts, **_trust(plan.trust)})
        return self._forecast(world, plan.prediction, facts, actions)

    async def what_if(
        self,
        world: WorldName,
        episode: HistoryInput,
        at: Annotated[int, Field(ge=0, description="last common observation, from 0")],
        actions: Actions,
        steps: Steps = None,
    ) -> CallToolResult:
        """Predicts how a recorded episode would have continued after observation `at` under other actions."""
        card = self._card(world)
        (taken,), _ = futures_of(card, [actions], {}, steps, limit=self._limits.horizon)
        call = WhatIfCall(episode=episode_of(card, episode), at=at, actions=taken)
        answer: WhatIf = await self._ask(world, call)
        series = [replace(curve, first=at + 1) for curve in series_of(answer)]
        facts = {"abduction": answer.abduction.value, "reason": answer.reason[:300]}
        handle = self._put({curve.signal.name: curve for curve in series})
        return _answer(lambda detail: {"world": world, **facts, **handle, **summary(series, detail)})

    async def explain_surprise(self, world: WorldName, episode: HistoryInput) -> CallToolResult:
        """Finds the steps of a recorded episode that the world did not expect, and what it expected at the worst."""
        card = self._card(world)
        recorded = episode_of(card, episode)
        surprise: Surprise = await self._ask(world, SurpriseCall(episode=recorded))
        series = series_of(surprise)
        handle = self._put({curve.signal.name: curve for curve in series})
        expected = list[ResultSeries]()
        if surprise.moments:
            expected = await self._expected(world, card, recorded, surprise.moments[0].step)

        def build(detail: Detail) -> dict[str, Any]:
            moments = [
                {
                    "step": moment.step,
                    "p_value": plain(moment.p_value),
                    "signals": [name[:60] for name in moment.signals[:2]],
                }
                for moment in surprise.moments[: detail.parts]
            ]
            worst = {"worst_outcome": end_values(expected, detail)} if expected else {}
            meaning = "p_value: share of normal steps that are at least as surprising; step t leads to observation t+1"
            return {
                "world": world,
                "num_steps": len(surprise.steps),
                "moments": moments,
                **worst,
                "meaning": meaning,
            } | handle

        return _answer(build)

    async def get_result(
        self,
        handle: Annotated[str, Field(max_length=64)],
        signal: Annotated[str | None, Field(max_length=200, description="default: lists the signals")] = None,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> CallToolResult:
        """Pages through a full result: the values of one signal or component ("position.x") at consecutive steps."""
        page = self._store.page(current_caller().id, handle, signal, first_step, last_step)
        return _answer(lambda _: page)

    def _card(self, world: str) -> Card:
        if world not in self._service.hosts:
            raise NotFoundError("world", world, self._service.hosts)  # the tool list_worlds lists them, too
        return self._service.hosts[world].card

    async def _ask(self, world: str, call: Call) -> Any:
        """The answer of a world."""
        return await self._service.ask(current_caller(), world, call)

    def _put(self, series: Mapping[str, ResultSeries]) -> dict[str, str | None]:
        return {"handle": self._store.put(current_caller().id, series)}

    def _forecast(
        self, world: str, prediction: Prediction, facts: Mapping[str, Any], actions: Sequence[ResultSeries]
    ) -> CallToolResult:
        """A prediction, and the actions of a plan."""
        series = series_of(prediction)
        handle = self._put({curve.signal.name: curve for curve in [*actions, *series]})
        steps = max((len(curve.values) for curve in series), default=0)
        skill = {name: int(np.ravel(forecast.horizon)[0]) for name, forecast in prediction.signals.items()}

        def build(detail: Detail) -> dict[str, Any]:
            shown = summary(series, detail)
            for name, curves in shown["signals"].items():
                if prediction.calibrated and skill[name] < steps:
                    curves["skill_until_step"] = skill[name]
            taken = {"actions": summary(actions, detail)} if actions else {}
            level = {"level": plain(prediction.level) if prediction.calibrated else None, "steps": steps}
            return {"world": world, **facts, **_trust(prediction.trust), **level, **handle, **taken, **shown}

        return _answer(build)

    def _compared(
        self, world: str, names: Sequence[str], scores: Scores, paths: Sequence[Prediction]
    ) -> CallToolResult:
        """Plans in the order of violation and cost."""
        worst = scores.violation.max(-1, initial=0.0)
        order = sorted(range(len(names)), key=lambda n: (worst[n], np.nan_to_num(scores.cost[n], nan=np.inf)))
        series = [series_of(path) for path in paths]
        handle = self._put({f"{names[n]}/{curve.signal.name}": curve for n in order for curve in series[n]})
        differs = {"difference_at_end": largest_difference(series[order[0]], series[order[1]])} if order[1:] else {}

        def build(detail: Detail) -> dict[str, Any]:
            plans = [
                {
                    "plan": names[n],
                    "cost": plain(float(scores.cost[n])),
                    "violation": plain(float(worst[n])),
                    "end": end_values(series[n], detail),
                }
                for n in order
            ]
            level = plain(paths[0].level) if paths[0].calibrated else None
            return {"world": world, **_trust(scores.trust), "level": level, **handle, **differs, "plans": plans}

        return _answer(build)

    async def _expected(self, world: str, card: Card, episode: Episode, step: int) -> list[ResultSeries]:
        """The prediction of one step, with the observed values."""
        taken = {name: value[step : step + 1] for name, value in episode.actions.items()}
        fixed = {name: value[step : step + 1] for name, value in episode.exogenous.items()} or None
        past = episode.history(step, min(step + 1, card.context))
        prediction: Prediction = await self._ask(world, PredictCall(history=past, actions=taken, exogenous=fixed))
        seen = {name: value[step + 1 : step + 2] for name, value in episode.observations.items()}
        return [
            replace(curve, others={"observed": seen[curve.signal.name], **curve.others})
            if curve.signal.name in seen
            else curve
            for curve in series_of(prediction)
        ]


def current_caller() -> Caller:
    """The caller of the tool that runs; anyone without authentication."""
    token = get_access_token()
    return token.caller if isinstance(token, VerifiedToken) else ANYONE


@final
class VerifiedToken(AccessToken):
    """A valid token with its caller."""

    caller: Caller


@final
class ServiceTokens:
    """Verifies tokens for the SDK.

    Args:
        service: knows the tokens.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def verify_token(self, token: str) -> AccessToken | None:
        """The token with its caller; without scopes if it may not infer; None if it is not valid."""
        try:
            caller = await self._service.authorize(f"Bearer {token}", Scope.INFER)
        except UnauthorizedError:
            return None
        except ForbiddenError:
            return AccessToken(token=token, client_id="", scopes=[])
        return VerifiedToken(token=token, client_id=caller.id, scopes=[*caller.scopes], caller=caller)


@final
class WorldMcpServer(MCPServer[Any]):
    """An MCP server whose errors are short messages without paths."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """The result of a tool; an error of worldline, or of the arguments, is one with `is_error`."""
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, WorldlineError):
                text = shown_error(cause)
            elif isinstance(cause, ValidationError):
                first = cause.errors(include_url=False, include_context=False, include_input=False)[0]
                text = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
            elif isinstance(error, UnexpectedToolError):
                # The SDK would log the text and the paths of the cause.
                _logger.error("the tool %s failed: %s", name, fault_text(cause or error))
                text = "the server failed. Ask the operator."
            else:
                text = str(error)
        return CallToolResult(content=[TextContent(type="text", text=text[:MAX_TEXT])], is_error=True)


def create_server(service: Service, url: str | None = None) -> WorldMcpServer:
    """The server with its tools and pane.

    Args:
        service: answers the calls.
        url: of the server. If the service needs tokens, each request then needs one with the scope `infer`. None for a
            server without authentication, over stdio.
    """
    tools, apps, verifier, auth = WorldTools(service), Apps(), None, None
    if url is not None and service.needs_token:
        verifier, about = ServiceTokens(service), {"issuer_url": url, "resource_server_url": None}
        auth = AuthSettings.model_validate({**about, "required_scopes": [Scope.INFER.value]})
    apps.add_html_resource(PANE, resources.files("worldline.serve").joinpath("static/forecast.html").read_text("utf-8"))
    apps.tool(resource_uri=PANE, annotations=_READ_ONLY)(tools.predict)
    apps.tool(resource_uri=PANE, annotations=_READ_ONLY)(tools.plan)
    server = WorldMcpServer(
        "worldline",
        instructions=_INSTRUCTIONS,
        token_verifier=verifier,
        auth=auth,
        extensions=[apps],
        log_level="WARNING",
    )
    for tool in (
        tools.list_worlds,
        tools.describe_world,
        tools.compare_plans,
        tools.what_if,
        tools.explain_surprise,
        tools.get_result,
    ):
        server.add_tool(tool, annotations=_READ_ONLY)
    return server


@final
class CancelOnDisconnect:
    """Cancels a request whose client closes the connection, so that its call gives up its place in the queue.

    The SDK notices a closed connection in streams only, not while it computes an answer in JSON.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_read = anyio.Event()

        async def receive_body() -> Message:
            if is_read.is_set():
                await anyio.sleep_forever()  # `watch` notices the end, and cancels this
            message = await receive()
            if not message.get("more_body"):
                is_read.set()
            return message

        async def watch(request: anyio.CancelScope) -> None:
            await is_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            request.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, tasks.cancel_scope)
            await self._app(scope, receive_body, send)
            tasks.cancel_scope.cancel()


def http_app(service: Service, *, url: str, names: Sequence[str]) -> Starlette:
    """The web application: streamable HTTP at `/mcp`, without sessions, answers as JSON.

    Args:
        service: answers the calls; it is closed with the application.
        url: of the server.
        names: names of this host that clients may use in URLs; other ones are refused, because a web page can point
            its own name to this machine (DNS rebinding). Requests of web pages are refused by their Origin.
    """
    hosts = [form for name in names for form in (name, f"{name}:*")]
    app = create_server(service, url).streamable_http_app(
        json_response=True,
        stateless_http=True,
        max_request_body_size=service.limits.mcp_bytes,
        transport_security=TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[]),
    )
    app.add_middleware(CancelOnDisconnect)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with kept_up(service), inner(app):
            yield
        service.close()

    app.router.lifespan_context = lifespan
    return app


def _answer(build: Callable[[Detail], Mapping[str, Any]]) -> CallToolResult:
    """The result, as text and as structured content."""
    result = fit(build)
    return CallToolResult(content=[TextContent(type="text", text=encoded(result))], structured_content=result)


def _trust(trust: Any) -> dict[str, Any]:
    value = float(np.ravel(trust)[0])
    return {"trust": plain(value), "trust_meaning": trust_meaning(value)}


def _listed(name: str, card: Card, detail: Detail) -> dict[str, Any]:
    actions = [signal.name[:60] for signal in card.schema.actions[: detail.components]]
    return {"name": name, "predicts": [text[:60] for text in card.predicts[: detail.components]], "actions": actions}


def _described(name: str, card: Card, detail: Detail) -> dict[str, Any]:
    signals = card.schema.signals
    description: dict[str, Any] = {
        "world": name,
        "step_s": card.schema.step_s,
        "signals": [_signal(signal, detail) for signal in signals[: detail.parts]],
        "needs": [needed[:60] for needed in card.inputs[: detail.components]],
        "predicts": [predicted[:60] for predicted in card.predicts[: detail.components]],
        "history_steps": card.context,
        "band_steps": card.band_horizon,
        "can_plan": card.action_conditioned,
    }
    if len(signals) > detail.parts:
        description["more_signals"] = len(signals) - detail.parts
        description["hint"] = "pass signal to get the others"
    return description


def _signal(signal: Signal, detail: Detail) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": signal.name, "role": signal.role.value, "kind": signal.kind.value}
    facts |= {"unit": signal.unit[:20], "shape": list(signal.shape)}
    for name in ("low", "high", "components"):
        if values := getattr(signal, name):
            facts[name] = plain([item[:20] if isinstance(item, str) else item for item in values[: detail.components]])
    return facts | ({"num_values": signal.num_values} if signal.num_values else {})
