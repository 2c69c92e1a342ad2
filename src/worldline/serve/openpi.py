"""WebSocket /v1/openpi: the protocol of openpi's policy server, so that its client drives a world.

The first frame describes the world. Each request holds the present observation, and each reply the actions of a plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, final

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall
from worldline.schema import Schema
from worldline.serve.following import MAX_GAP, FollowedStep, Follower, check_step, forecast, shifted
from worldline.serve.openpi_codec import Request, decode_request, encode_reply
from worldline.serve.sockets import INTERNAL, Connection, SocketEndpoint
from worldline.world.base import Plan, World
from worldline.world.session import NO_HISTORY
from worldline.world.validation import check_goal

BUDGET_S: Final = 1.0
"""Default time limit of a plan, seconds."""
HORIZON: Final = 20
"""Default horizon for a world without bands, steps."""

_GOAL: Final = ("goal.", "tolerance.")


class OpenpiSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in the URL, beside those of the goal.

    Args:
        world: name of the world.
        horizon: steps of a plan; None for the steps with bands.
        steps: steps between two requests: the `action_horizon` of `ActionChunkBroker`.
        budget_s: time limit of a plan.
    """

    world: str
    horizon: Annotated[int, Meta(ge=1)] | None = None
    steps: Annotated[int, Meta(ge=1, le=MAX_GAP)] = 1
    budget_s: Annotated[float, Meta(gt=0)] = BUDGET_S


def settings_of(connection: Connection) -> tuple[OpenpiSettings, Goal | None]:
    """The settings in the query of the URL, such as `world=greenhouse&horizon=20&goal.temperature=21.5`.

    Returns:
        The settings, and the goal of requests without one.

    Raises:
        InputError: a name is unknown, or a value is not a number or out of range.
    """
    query, limits, card = connection.socket.query_params, connection.limits, connection.card
    numbers = {name: _numbers(name, value) for name, value in query.items() if name.startswith(_GOAL)}
    options = {name: value for name, value in query.items() if name not in numbers}
    try:
        settings = msgspec.convert(options, OpenpiSettings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join((*OpenpiSettings.__struct_fields__, "goal.NAME", "tolerance.NAME"))
        raise InputError(f"the URL is not valid: {error}. Known: {known}.") from error
    horizon = settings.horizon or card.band_horizon or HORIZON
    if not (settings.steps <= horizon <= limits.horizon and settings.budget_s <= limits.plan_s):
        raise InputError(
            f"got horizon {horizon}, steps {settings.steps}, budget_s {settings.budget_s:g}. Give a horizon of at "
            f"most {limits.horizon}, steps of at most the horizon, and at most {limits.plan_s:g} s."
        )
    return msgspec.structs.replace(settings, horizon=horizon), _goal(card.schema, numbers)


@final
class _Policy:
    """Plans for one client; runs in a worker thread, one call at a time."""

    def __init__(self, schema: Schema, settings: OpenpiSettings, goal: Goal | None) -> None:
        self._schema, self._settings, self._default_goal = schema, settings, goal
        self._horizon = settings.horizon or HORIZON
        self._follower, self._step = Follower(), 0
        self._sent: Arrays = {}

    def act(self, request: Request, world: World) -> Plan:
        """The plan for a request.

        Raises:
            InputError: a key is unknown, or a value does not fit.
        """
        schema, signals = self._schema, {signal.name for signal in self._schema.signals}
        values = {name: value for name, value in request.items() if name in signals}
        options = {name: value for name, value in request.items() if name not in signals}
        _check_options(options, signals)
        observations, actions, exogenous = (
            {signal.name: values[signal.name] for signal in group if signal.name in values}
            for group in (schema.observations, schema.actions, schema.exogenous)
        )
        if options.get("reset", False):
            self._follower, self._sent = Follower(), {}
        steps = self._settings.steps
        sent = {name: value[:steps] for name, value in self._sent.items()}
        step = FollowedStep(
            step=self._step + steps,
            observations=observations,
            observed=_missing(observations),
            actions={name: value[None] for name, value in actions.items()} or sent,
            exogenous=exogenous,
        )
        check_step(schema, step)
        call = self._call(options, exogenous)
        session = self._follower.observe(world, step)
        self._step = step.step
        plan: Plan = session.answer(call)
        self._sent = plan.actions
        return plan

    def _call(self, options: Arrays, exogenous: Arrays) -> PlanCall:
        goal = _goal(self._schema, options) or self._default_goal
        if goal is None:
            raise InputError("there is no goal. Send goal.NAME with the target of a signal, or add it to the URL.")
        return PlanCall(
            history=NO_HISTORY,
            goal=goal,
            horizon=self._horizon,
            exogenous=forecast(self._schema.exogenous, self._horizon, _named(options, "forecast.") or None, exogenous),
            proposals=shifted(self._sent, self._settings.steps, self._horizon) if self._sent else None,
            budget_s=self._settings.budget_s,
            clip=True,
            seed=self._step,
            expected=False,
        )


async def _handle(connection: Connection) -> None:
    """Serves one connection; every error ends it, as in openpi."""
    settings, goal = settings_of(connection)
    policy = _Policy(connection.card.schema, settings, goal)
    await connection.accept()
    shown = {"horizon": settings.horizon, "steps": settings.steps, "budget_s": settings.budget_s}
    await connection.socket.send_bytes(encode_reply(connection.facts() | shown))
    total_ms: float | None = None
    while True:
        frame, received_s = await connection.receive(connection.limits.session_s, connection.limits.frame_bytes)
        if isinstance(frame, str):
            raise InputError("got a text frame. Send binary frames with openpi-client.")
        request = await run_in_threadpool(decode_request, frame)
        began_s = time.monotonic()
        computed = connection.compute(partial(policy.act, request), plan_s=settings.budget_s)
        plan = await connection.unless_gone(computed)
        timing = {"infer_ms": 1e3 * (time.monotonic() - began_s)}
        timing |= {} if total_ms is None else {"prev_total_ms": total_ms}
        await connection.socket.send_bytes(encode_reply(_reply(plan, timing)))
        total_ms = 1e3 * (time.monotonic() - received_s)


def _reply(plan: Plan, timing: Mapping[str, float]) -> dict[str, Any]:
    """The actions [T, A] of all signals, and [T, *shape] of each. The client slices every array along T."""
    flat = [value.reshape(len(value), -1) for value in plan.actions.values()]
    return {
        "actions": np.concatenate(flat, 1).astype(np.float32),
        **{f"actions.{name}": value for name, value in plan.actions.items()},
        "trust": float(plan.trust),
        "status": plan.status.value,
        "server_timing": timing,
    }


def _check_options(options: Request, signals: set[str]) -> None:
    """Refuses keys that are neither signals nor options; a text `prompt` is customary and ignored."""
    for name, value in options.items():
        prefix, dot, signal = name.partition(".")
        known = prefix + dot in (*_GOAL, "forecast.") and signal in signals
        if not (known or name in ("reset", "prompt")):
            raise InputError(
                f"the request has {name!r:.60}. Known: {', '.join(sorted(signals))}, goal.NAME, tolerance.NAME, "
                "forecast.NAME, reset, prompt."
            )
        if (value.dtype.kind == "U" or (name == "reset" and value.ndim)) and name != "prompt":
            raise InputError(f"{name!r:.60} is not a number. Send numbers or arrays.")


def _goal(schema: Schema, values: Mapping[str, Any]) -> Goal | None:
    """The goal of `goal.NAME` and `tolerance.NAME`; None without targets."""
    targets, tolerance = (_named(values, prefix) for prefix in _GOAL)
    if not targets:
        return None
    for signal in schema.observations:
        if signal.name in targets and targets[signal.name].size == math.prod(signal.shape):
            targets[signal.name] = targets[signal.name].reshape(signal.shape)
    numbers = {name: float(value.ravel()[0]) if value.size == 1 else math.nan for name, value in tolerance.items()}
    goal = Goal(targets=targets, tolerance=numbers)
    check_goal(schema, goal, ())
    return goal


def _named(values: Mapping[str, Any], prefix: str) -> dict[str, NDArray[Any]]:
    """The values under names with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _numbers(name: str, text: str) -> NDArray[np.float64]:
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise InputError(f"{name!r:.60} is {text!r:.60}. Give numbers with commas between them.") from error


def _missing(observations: Arrays) -> dict[str, bool]:
    """False for each signal with a value that is not finite: NaN marks a missing one."""
    floats = {name: value for name, value in observations.items() if value.dtype.kind == "f"}
    return {name: False for name, value in floats.items() if not np.isfinite(value).all()}


OPENPI: Final = SocketEndpoint(handle=_handle, denies=True, failed=INTERNAL)
"""The endpoint `/v1/openpi`; it refuses with an HTTP status, because the client reads the first frame as metadata."""
