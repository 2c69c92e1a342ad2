"""WebSocket /v1/openpi: the protocol of openpi's policy server, so that its client drives a world.

The first frame describes the world. Each request holds the present observation, and each reply the actions of a plan.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from worldline.episode import Arrays, History
from worldline.errors import InputError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall
from worldline.schema import Schema
from worldline.serve.following import MAX_GAP, FollowedStep, Follower, check_step, forecast, shifted
from worldline.serve.openpi_codec import Request, decode_request, encode_reply
from worldline.serve.sockets import INTERNAL, Connection, SocketEndpoint, signals_of
from worldline.world.base import Plan, World
from worldline.world.session import NO_HISTORY
from worldline.world.validation import check_goal

BUDGET_S: Final = 1.0
"""Default time limit of a plan, seconds."""
HORIZON: Final = 20
"""Default horizon for a world without bands, steps."""

_OPTIONS: Final = ("horizon", "steps", "budget_s")
_GOAL: Final = ("goal.", "tolerance.")


@final
@dataclass(frozen=True, kw_only=True)
class OpenpiSettings:
    """The settings in the URL.

    Args:
        horizon: steps of a plan, at least 1.
        steps: steps between two requests, 1 to `horizon`: the `action_horizon` of `ActionChunkBroker`.
        budget_s: time limit of a plan, above 0.
        goal: of requests without a goal; None for none.
    """

    horizon: int
    steps: int
    budget_s: float
    goal: Goal | None


def settings_of(connection: Connection) -> OpenpiSettings:
    """The settings in the query of the URL, such as `world=greenhouse&horizon=20&goal.temperature=21.5`.

    Raises:
        InputError: a name is unknown, or a value is not a number or out of range.
    """
    query, limits, card = connection.socket.query_params, connection.limits, connection.card
    for name in query:
        if name not in (*_OPTIONS, "world") and not name.startswith(_GOAL):
            raise InputError(
                f"the URL has {name!r:.60}. Known: world, {', '.join(_OPTIONS)}, goal.NAME, tolerance.NAME."
            )
    numbers = {name: _numbers(name, value) for name, value in query.items() if name != "world"}
    given = {name: _option(name, numbers[name], query[name]) for name in _OPTIONS if name in numbers}
    horizon, steps = given.get("horizon", card.band_horizon or HORIZON), given.get("steps", 1)
    budget_s = given.get("budget_s", BUDGET_S)
    if not (1 <= steps <= min(horizon, MAX_GAP) and horizon <= limits.horizon and 0 < budget_s <= limits.plan_s):
        raise InputError(
            f"got horizon {horizon:g}, steps {steps:g}, budget_s {budget_s:g}. Give a horizon of 1 to "
            f"{limits.horizon}, steps of 1 to it and at most {MAX_GAP}, and seconds above 0, at most {limits.plan_s:g}."
        )
    goal = _goal(card.schema, numbers)
    return OpenpiSettings(horizon=int(horizon), steps=int(steps), budget_s=budget_s, goal=goal)


@final
class _Policy:
    """Plans for one client; runs in a worker thread, one call at a time.

    A value [*shape] continues the history of the connection. Values [H, *shape] are a whole history.
    """

    def __init__(self, schema: Schema, settings: OpenpiSettings, max_steps: int) -> None:
        self._schema, self._settings, self._max_steps = schema, settings, max_steps
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
        first = next(iter(observations), "")
        if first and observations[first].ndim > len(schema[first].shape):
            if len(observations[first]) > self._max_steps:
                raise InputError(f"{first!r} has {len(observations[first])} steps. Send at most {self._max_steps}.")
            self._follower = Follower()
            last = {name: value[-1] for name, value in exogenous.items() if value.ndim and len(value)}
            past = History(
                observations=observations, actions=actions, exogenous=exogenous, observed=_known(observations)
            )
            plan = world.answer(self._call(past, options, last, None))
        else:
            plan = self._follow(world, observations, actions, exogenous, options)
        self._sent = plan.actions
        return plan

    def _follow(self, world: World, observations: Arrays, actions: Arrays, exogenous: Arrays, options: Arrays) -> Plan:
        """The plan from the history of the connection and the present observation."""
        steps, horizon = self._settings.steps, self._settings.horizon
        applied = {name: value[None] for name, value in actions.items()} or {
            name: value[:steps] for name, value in self._sent.items()
        }
        known = _known({name: value[None] for name, value in observations.items()})
        step = FollowedStep(
            step=self._step + steps,
            observations=observations,
            observed={name: bool(value[0]) for name, value in known.items()},
            actions=applied,
            exogenous=exogenous,
        )
        check_step(self._schema, step)
        proposals = shifted(self._sent, steps, horizon) if self._sent else None
        call = self._call(NO_HISTORY, options, exogenous, proposals)
        session = self._follower.observe(world, step)
        self._step = step.step
        plan: Plan = session.answer(replace(call, expected=False))
        return plan

    def _call(self, history: History, options: Arrays, exogenous: Arrays, proposals: Arrays | None) -> PlanCall:
        goal = _goal(self._schema, options) or self._settings.goal
        if goal is None:
            raise InputError("there is no goal. Send goal.NAME with the target of a signal, or add it to the URL.")
        given = {name.removeprefix("forecast."): v for name, v in options.items() if name.startswith("forecast.")}
        horizon = self._settings.horizon
        return PlanCall(
            history=history,
            goal=goal,
            horizon=horizon,
            exogenous=forecast(self._schema.exogenous, horizon, given or None, exogenous),
            proposals=proposals,
            budget_s=self._settings.budget_s,
            clip=True,
            seed=self._step,
        )


async def _handle(connection: Connection) -> None:
    """Serves one connection; every error ends it, as in openpi."""
    settings = settings_of(connection)
    policy = _Policy(connection.card.schema, settings, connection.limits.session_steps)
    await connection.accept()
    await connection.socket.send_bytes(encode_reply(_metadata(connection, settings)))
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


def _metadata(connection: Connection, settings: OpenpiSettings) -> dict[str, Any]:
    """The first frame."""
    return {
        "world": connection.name,
        "version": connection.version,
        "request_id": connection.request_id,
        "signals": signals_of(connection.card.schema),
        "context": connection.card.context,
        "horizon": settings.horizon,
        "steps": settings.steps,
        "budget_s": settings.budget_s,
    }


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
    targets = {name.removeprefix("goal."): value for name, value in values.items() if name.startswith("goal.")}
    tolerance = {
        name.removeprefix("tolerance."): float(np.ravel(value)[0]) if np.size(value) == 1 else math.nan
        for name, value in values.items()
        if name.startswith("tolerance.")
    }
    if not targets:
        return None
    shaped = {signal.name: signal.shape for signal in schema.observations}
    targets = {
        name: value.reshape(shaped[name]) if name in shaped and value.size == math.prod(shaped[name]) else value
        for name, value in targets.items()
    }
    goal = Goal(targets=targets, tolerance=tolerance)
    check_goal(schema, goal, ())
    return goal


def _option(name: str, numbers: NDArray[np.float64], text: str) -> float:
    if len(numbers) > 1 or (name != "budget_s" and not float(numbers[0]).is_integer()):
        raise InputError(f"{name} is {text!r:.60}. Give one {'number' if name == 'budget_s' else 'whole number'}.")
    return float(numbers[0])


def _numbers(name: str, text: str) -> NDArray[np.float64]:
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise InputError(f"{name!r:.60} is {text!r:.60}. Give numbers with commas between them.") from error


def _known(observations: Arrays) -> dict[str, NDArray[np.bool_]]:
    """Per signal [H], whether the value is finite; NaN marks a missing one."""
    return {
        name: np.asarray(np.isfinite(value).reshape(len(value), -1).all(1))
        for name, value in observations.items()
        if value.dtype.kind == "f" and value.ndim
    }


OPENPI: Final = SocketEndpoint(handle=_handle, denies=True, failed=INTERNAL)
"""The endpoint `/v1/openpi`; it refuses with an HTTP status, because the client reads the first frame as metadata."""
