"""MCP server: worlds as tools of a language model, over stdio or streamable HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import Annotated, Any, Final, final

import msgspec
import numpy as np
from msgspec import Meta, Struct

from worldline.engines.base import Card
from worldline.errors import MissingExtraError, UnknownNameError
from worldline.planning.calls import Call, PredictCall, ScoreCall, WhatIfCall
from worldline.plots.result_series import ResultSeries
from worldline.schema import Signal
from worldline.serve.callers import ANYONE, Caller, ForbiddenError, Scope, UnauthorizedError
from worldline.serve.mcp_inputs import VERBS, call_of, input_schema
from worldline.serve.mcp_results import MAX_TEXT, MIN_TRUST, encoded, end_values, facts_of, fit, summary
from worldline.serve.problems import logged_problem
from worldline.world.base import Plan, Prediction, Scores, Surprise
from worldline.world.wire import convert

try:
    from mcp.server.apps import Apps
    from mcp.server.auth.middleware.auth_context import get_access_token
    from mcp.server.auth.provider import AccessToken
    from mcp.server.auth.settings import AuthSettings
    from mcp.server.mcpserver import MCPServer
    from mcp.server.transport_security import TransportSecuritySettings
    from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations
    from starlette.applications import Starlette

    from worldline.serve.background import kept_up
    from worldline.serve.service import Service
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name).partition(".")[0], "mcp") from error

_logger = logging.getLogger(__name__)

PANE: Final = "ui://worldline/forecast.html"
"""The pane of `predict` and `plan`."""

_INSTRUCTIONS: Final = f"""World models that predict physical systems. Ask before you act:
1. describe_world: signals, units, bounds. Values are in these units, one row per step.
2. predict or compare_plans with the latest observations as history; more history makes predictions better.
3. Read trust first. Below {MIN_TRUST} the history is unlike the training data: do not rely on the result.
low and high bound the whole path with probability `level`; null means that no band is known at that step.
Observation t + 1 follows action t; the present is step 0. Long results show some steps, evenly spaced."""

_READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_Name = Annotated[str, Meta(max_length=200)]


class ListWorlds(Struct, forbid_unknown_fields=True):
    """Lists the worlds with what they predict and which actions they take."""


class DescribeWorld(Struct, forbid_unknown_fields=True):
    """Describes one world, or one of its signals: role, unit, size, bounds, duration of a step, length of bands."""

    world: _Name
    signal: _Name | None = None


_TOOLS: Final[Mapping[str, type[Struct]]] = {"list_worlds": ListWorlds, "describe_world": DescribeWorld}
"""The arguments of the tools that call no verb."""

_TEXTS: Final = {
    "predict": "Predicts the signals under the given actions, with a band and the trust in the history.",
    "compare_plans": "Compares up to 8 plans, the best first: cost, and predicted values at the end. violation is 0 if "
    "all constraints hold. If the bands of two plans overlap at the end, their difference may be chance.",
    "plan": "Searches actions towards a goal, for 5 s unless budget_s is given. status: optimal, searched, "
    "out_of_time, or one of these with a reason: goal_outside_logs, infeasible, refused.",
    "what_if": "Predicts how a recorded episode would have continued after observation `at` under other actions.",
    "explain_surprise": "Finds the steps of a recorded episode that the world did not expect.",
}
"""What a language model reads of the tools that call a verb."""


def tools_of() -> list[Tool]:
    """The tools as clients see them."""
    schemas = {name: msgspec.json.schema(kind)["$defs"][kind.__name__] for name, kind in _TOOLS.items()}
    texts = {name: schema.pop("description") for name, schema in schemas.items()} | _TEXTS
    schemas |= {name: input_schema(name) for name in VERBS}
    panes = {name: {"ui": {"resourceUri": PANE}} for name in ("predict", "plan")}
    return [
        Tool(name=name, description=texts[name], input_schema=schema, annotations=_READ_ONLY, _meta=panes.get(name))
        for name, schema in schemas.items()
    ]


@final
class WorldMcpServer(MCPServer[Any]):
    """An MCP server whose tools are the verbs of worlds, and whose errors are short messages without paths.

    Args:
        service: answers the calls.
        options: of the SDK.
    """

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__("worldline", instructions=_INSTRUCTIONS, log_level="WARNING", **options)
        self._service = service

    async def list_tools(self) -> list[Tool]:
        """The tools."""
        return tools_of()

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> CallToolResult:
        """The result of a tool, as text and as structured content; an error is one with `is_error`."""
        try:
            result = await self._answer(name, arguments)
        except Exception as error:  # noqa: BLE001  # every error becomes an answer
            problem = logged_problem(_logger, f"the tool {name}", error)
            text = "the server failed. Ask the operator." if problem.status == 500 else str(problem.error)[:MAX_TEXT]
            return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
        return CallToolResult(content=[TextContent(type="text", text=encoded(result))], structured_content=result)

    async def _answer(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if tool in VERBS:
            return await self._ask(tool, arguments)
        if tool not in _TOOLS:
            raise UnknownNameError("tool", tool[:60], [*_TOOLS, *VERBS])
        match convert(arguments, _TOOLS[tool], (tool,)):
            case DescribeWorld(world, None):
                return fit(_described(world, self._card(world)))
            case DescribeWorld(world, str(signal)):
                return fit(_signal(self._card(world).schema[signal]))
        cards = {hosted.name: hosted.card for hosted in [*self._service.hosts.values()]}
        worlds = [
            {"name": name, "predicts": card.predicts, "actions": [signal.name for signal in card.schema.actions]}
            for name, card in cards.items()
        ]
        return fit({"worlds": worlds, "num_worlds": len(cards)})

    def _card(self, world: str) -> Card:
        return self._service.hosts.find(world, ANYONE).card  # the tool list_worlds lists them, too

    async def _ask(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer of a world to a verb."""
        asked = dict(arguments)
        world = convert(asked.pop("world", None), str, (tool, "world"))
        call, names = call_of(tool, asked, self._card(world), self._service.limits.horizon)
        ask = partial(self._service.ask, current_caller(), world)
        result = await ask(call)
        if isinstance(call, ScoreCall):
            paths = await asyncio.gather(*map(ask, _paths(call, len(names))))  # computed as one batch
            return _compared(world, dict(zip(names, paths, strict=True)), result)
        series = result.series(None)
        if isinstance(call, WhatIfCall):
            series = [replace(curve, first=call.at + 1) for curve in series]
        return fit({"world": world, **facts_of(result), **_curves_of(result, series)})


def _compared(world: str, paths: Mapping[str, Prediction], scores: Scores) -> dict[str, Any]:
    """Plans in the order of violation and cost."""
    worst, cost = scores.violation.max(-1, initial=0.0), scores.cost
    order = np.lexsort([np.nan_to_num(cost, nan=np.inf), worst])
    plans = [
        {"plan": name[:40], "cost": float(cost[n]), "violation": float(worst[n]), "end": end_values(path.series(None))}
        for n, (name, path) in enumerate(paths.items())
    ]
    level = facts_of(next(iter(paths.values())))["level"]
    return fit({"world": world, **facts_of(scores), "level": level, "plans": [plans[n] for n in order]})


def _paths(call: ScoreCall, count: int) -> list[Call]:
    """The prediction of each plan."""
    plans = [{name: value[n] for name, value in call.actions.items()} for n in range(count)]
    return [PredictCall(history=call.history, actions=plan, exogenous=call.exogenous) for plan in plans]


def _curves_of(result: Any, series: Sequence[ResultSeries]) -> dict[str, Any]:
    """The values of a result over its steps."""
    if isinstance(result, Surprise):
        moments = [{"step": at.step, "p_value": at.p_value, "signals": at.signals[:2]} for at in result.moments]
        meaning = "p_value: share of normal steps that are at least as surprising; step t leads to observation t+1"
        return {"num_steps": len(result.steps), "moments": moments, "meaning": meaning}
    actions = [curve for curve in series if curve.heading == "actions"]
    shown = summary([curve for curve in series if curve.heading != "actions"])
    prediction = result.prediction if isinstance(result, Plan) else result
    if isinstance(prediction, Prediction) and prediction.calibrated:
        for name, curves in shown["signals"].items():
            forecast = prediction.signals[name]
            if (skill := int(np.ravel(forecast.horizon)[0])) < len(forecast.mean):
                curves["skill_until_step"] = skill
    return shown | ({"actions": summary(actions)} if actions else {})


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


def create_server(service: Service, url: str | None = None) -> WorldMcpServer:
    """The server with its tools and pane.

    Args:
        service: answers the calls.
        url: of the server. If the service needs tokens, each request then needs one with the scope `infer`. None for a
            server without authentication, over stdio.
    """
    apps, options = Apps(), dict[str, Any]()
    if url is not None and service.needs_token:
        about = {"issuer_url": url, "resource_server_url": None, "required_scopes": [Scope.INFER.value]}
        options = {"token_verifier": ServiceTokens(service), "auth": AuthSettings.model_validate(about)}
    apps.add_html_resource(PANE, resources.files("worldline.serve").joinpath("static/forecast.html").read_text("utf-8"))
    return WorldMcpServer(service, extensions=[apps], **options)


def http_app(service: Service, *, url: str, names: Sequence[str]) -> Starlette:
    """The web application: streamable HTTP at `/mcp`, without sessions.

    Args:
        service: answers the calls; it is closed with the application.
        url: of the server.
        names: names of this host that clients may use in URLs; other ones are refused, because a web page can point
            its own name to this machine (DNS rebinding). Requests of web pages are refused by their Origin.
    """
    hosts = [form for name in names for form in (name, f"{name}:*")]
    app = create_server(service, url).streamable_http_app(
        stateless_http=True,
        max_request_body_size=service.limits.mcp_bytes,
        transport_security=TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[]),
    )
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with kept_up(service), inner(app):
            yield
        service.close()

    app.router.lifespan_context = lifespan
    return app


def _described(name: str, card: Card) -> dict[str, Any]:
    return {
        "world": name,
        "step_s": card.schema.step_s,
        "signals": [_signal(signal) for signal in card.schema.signals],
        "needs": card.inputs,
        "predicts": card.predicts,
        "history_steps": card.context,
        "band_steps": card.band_horizon,
        "can_plan": card.action_conditioned,
        "num_signals": len(card.schema.signals),
    }


def _signal(signal: Signal) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": signal.name, "role": signal.role.value, "kind": signal.kind.value}
    facts |= {"unit": signal.unit[:20], "shape": list(signal.shape), "low": signal.low, "high": signal.high}
    facts |= {"components": signal.components, "num_values": signal.num_values}
    return {name: value for name, value in facts.items() if value not in (None, ())}
