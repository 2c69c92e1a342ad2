"""WebSocket /v1/control: an observation comes in, an action goes out before its deadline.

The first message holds `ControlSettings`. Every later one is a `ControlStep` or a `GoalChange`. Messages are JSON (text
frames) or msgpack (binary frames); each answer has the encoding of its message.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, final

import msgspec
import numpy as np
from starlette.concurrency import run_in_threadpool

from worldline.control.controller import Situation, no_move
from worldline.control.controllers import ControllerActor, controller_of
from worldline.control.realtime import MIN_BUDGET_S
from worldline.episode import Arrays, History
from worldline.errors import ConfigError, InputError, WorldlineError
from worldline.planning.base import Constraint, Goal
from worldline.planning.calls import PlanCall
from worldline.schema import Schema
from worldline.serve.following import MAX_GAP, FollowedStep, Follower, check_step, forecast, shifted
from worldline.serve.problems import logged_problem, problem_of
from worldline.serve.requests import INLINE_BYTES
from worldline.serve.sockets import Connection, SocketEndpoint, error_message
from worldline.world.base import Plan, PlanStatus, World
from worldline.world.session import NO_HISTORY, Alarm
from worldline.world.validation import check_actions, check_goal
from worldline.world.wire import MessageError, decode_json

PROTOCOL: Final = 1
"""Version of the messages."""
GUARD_S: Final = 2.5e-3
"""Largest time before the deadline at which the service stops waiting for a plan. Timers fire up to 2 ms late."""
LATE_SHARE: Final = 5e-4
"""Share of actions that may be late because of a plan; the margin adapts to it."""
MARGIN_RATE: Final = 0.4
"""Speed of that adaptation."""
DEADLINE_SHARE: Final = 0.85
"""Default deadline, as a share of the period."""
MAX_FRAME_BYTES: Final = 4 * 2**20
"""Largest frame. Decoding one holds the interpreter, and with it every other connection."""
MAX_CONTROLLER: Final = 2**14
"""Largest controller, bytes of its JSON."""
MAX_STEP: Final = 2**53
"""Largest number of a step; JSON numbers are exact up to it."""

_logger = logging.getLogger(__name__)
Message = TypeVar("Message")


@final
@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """The first message.

    Args:
        goal: as in `World.plan`. With a controller, its targets are those of the controller.
        constraints: as in `World.plan`.
        controller: chooses the actions instead of a plan: a tree as in `controller_of`, at most 16 KiB. None for plans.
            Its goal has targets only; `constraints`, `replan_every` and `min_trust` are those of plans.
        horizon: steps of a plan, at least 1; of a controller, for how many steps its action may be sent.
        period_s: seconds between two observations, above 0.
        deadline_s: seconds from the receipt of an observation until its action is sent, at most `period_s`. None for
            0.85 of it.
        replan_every: steps that are taken of each plan, 1 to `horizon`.
        min_trust: as in `World.plan`; below it, there is no fresh plan.
        initial: per action signal [*shape], what is sent without a plan. None for 0, clipped to the bounds.
        seed: of every draw, 0 to 2**53.
    """

    goal: Goal = field(default_factory=Goal)
    constraints: Sequence[Constraint] = ()
    controller: Mapping[str, Any] | None = None
    horizon: int
    period_s: float
    deadline_s: float | None = None
    replan_every: int = 1
    min_trust: float = 0.0
    initial: Arrays | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.period_s < math.inf and 0 < self.within_s <= self.period_s):
            raise InputError(
                f"period_s is {self.period_s} and deadline_s {self.deadline_s}. Give a period above 0, and a deadline "
                "above 0 and at most the period."
            )
        if not (1 <= self.replan_every <= self.horizon and 0 <= self.min_trust <= 1 and 0 <= self.seed <= MAX_STEP):
            raise InputError(
                f"replan_every {self.replan_every} must be in 1 to horizon {self.horizon}, min_trust {self.min_trust} "
                f"in [0, 1], seed {self.seed} in [0, {MAX_STEP}]."
            )

    @property
    def within_s(self) -> float:
        """The deadline in seconds."""
        return DEADLINE_SHARE * self.period_s if self.deadline_s is None else self.deadline_s


@final
@dataclass(frozen=True, kw_only=True)
class ControlStep:
    """The message for one step.

    Args:
        step: its number, above the one before. Numbers that are left out are steps without an observation.
        observations: per signal [*shape]; the same signals each time.
        observed: per signal, whether the value was observed; True if left out.
        actions: per action signal [*shape], the actions since the step before, if they were not those that were sent.
        exogenous: per exogenous signal [*shape], its last values.
        forecast: per exogenous signal [T, *shape], its future values. None: the last values stay.
    """

    step: int
    observations: Arrays
    observed: Mapping[str, bool] = field(default_factory=dict)
    actions: Arrays | None = None
    exogenous: Arrays = field(default_factory=dict)
    forecast: Arrays | None = None


@final
@dataclass(frozen=True, kw_only=True)
class GoalChange:
    """The message that replaces the goal, from the next step on.

    Args:
        goal: as in `World.plan`.
        constraints: as in `World.plan`; None keeps the present ones.
    """

    goal: Goal
    constraints: Sequence[Constraint] | None = None


class _Kind(msgspec.Struct):
    """The field by which the kind of a message is recognized."""

    goal: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


Objective = tuple[Goal, Sequence[Constraint]]
"""Goal and constraints; each plan belongs to one objective."""


class _TimedPlan(NamedTuple):
    """A plan, or the call for one, whose first action is for `step`."""

    plan: Any
    step: int
    objective: Objective


@final
class _Margin:
    """Allowance in seconds for plans that exceed their time limit, such that `LATE_SHARE` of the actions are late.

    Source: Gibbs, Candès 2021 (2106.00170), section 2, with the margin tracked instead of the level.
    """

    def __init__(self, within_s: float) -> None:
        self._low, self._high = within_s / 20, within_s / 2
        self.seconds = within_s / 4

    def adapt(self, *, late: bool) -> None:
        """Widens the margin after a late action, and narrows it slowly otherwise."""
        changed = self.seconds * math.exp(MARGIN_RATE * (late - LATE_SHARE))
        self.seconds = min(max(changed, self._low), self._high)


@final
class _ControlLoop:
    """The control of one running world. Its methods run in the event loop, except `_work`."""

    def __init__(self, connection: Connection, settings: ControlSettings, actor: ControllerActor | None) -> None:
        self._connection, self._settings, self._schema = connection, settings, connection.card.schema
        limit = connection.limits.horizon
        if settings.horizon > limit:
            raise InputError(f"horizon is {settings.horizon}. This service plans at most {limit} steps.")
        self._actor, self._begun = actor, -1
        self._reads = set(() if actor is None else (*(actor.controller.card.reads or ()), *connection.card.inputs))
        self._initial = {name: value[0, 0] for name, value in no_move(self._schema, 1, 1).items()}
        if settings.initial is not None:
            initial = {name: value[None] for name, value in settings.initial.items()}
            checked = check_actions(self._schema.actions, initial, (1,))
            self._initial = {name: value[0] for name, value in checked.items()}
        self._objective: Objective = settings.goal, settings.constraints
        self._follower, self._lock = Follower(tests_later=True), threading.Lock()
        self._margin = _Margin(settings.within_s)
        self._guard_s = min(GUARD_S, settings.within_s / 7)
        self._names: frozenset[str] | None = None
        self._last, self._sent = -1, dict(self._initial)
        self._waiting = list[FollowedStep]()
        self._loop = asyncio.get_running_loop()
        self._job: asyncio.Future[Sequence[Alarm]] | None = None
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._job_steps = list[FollowedStep]()
        self._planned: _TimedPlan | None = None
        self._trust, self._error, self._detail, self._alarms = math.nan, "", "", list[Alarm]()

    def change(self, message: GoalChange) -> dict[str, Any]:
        """Replaces the goal. The old plan stays as fallback."""
        _check_objective(self._schema, message.goal, message.constraints or (), has_controller=self._actor is not None)
        self._objective = message.goal, self._objective[1] if message.constraints is None else message.constraints
        return {"type": "goal", "after_step": self._last}

    async def answer(self, message: ControlStep, received_s: float) -> dict[str, Any]:
        """The action for one step, at its deadline or before."""
        exogenous = self._accept(message)
        ends_s = received_s + self._settings.within_s - self._guard_s
        if self._needs_plan(message.step):
            await self._finish(ends_s)  # a late plan for an earlier step
        if self._job is None or self._job.done():
            await self._finish(ends_s)
            needed, began_s = self._needs_plan(message.step), time.monotonic()
            self._start(self._query(message.step, exogenous) if needed else None, ends_s - self._margin.seconds)
            if needed:
                is_done = await self._finish(ends_s, tested=False)
                late = not is_done or time.monotonic() > ends_s + self._guard_s
                if began_s < ends_s - self._margin.seconds and not self._error:
                    self._margin.adapt(late=late)
        return self._action(message.step, received_s)

    def stop(self) -> None:
        """Cancels the call that still runs."""
        if self._job is not None:
            self._job.cancel()

    def _accept(self, message: ControlStep) -> Arrays | None:
        """Queues an observation; returns the exogenous inputs of a plan from it."""
        if not self._last < message.step <= MAX_STEP:
            raise InputError(f"step is {message.step}. Send a number above {self._last}, at most {MAX_STEP}.")
        names = frozenset(message.observations)
        if names != (self._names or names) or self._reads - names:
            raise InputError(f"expected observations {sorted(self._names or self._reads)}, got {sorted(names)}.")
        actions = self._sent if message.actions is None else message.actions
        if not actions and self._sent:
            raise MessageError("actions is {}. Send each action signal, or leave out actions.", "/actions")
        step = FollowedStep(
            step=message.step,
            observations=message.observations,
            observed=message.observed,
            actions={name: np.asarray(value)[None] for name, value in actions.items()},
            exogenous=message.exogenous,
        )
        check_step(self._schema, step)
        exogenous = forecast(self._schema.exogenous, self._settings.horizon, message.forecast, message.exogenous)
        self._names, self._last = names, message.step
        self._waiting = [*self._waiting, step][-MAX_GAP:]
        return exogenous

    def _needs_plan(self, step: int) -> bool:
        """Whether a new plan is needed for a step."""
        last = self._planned
        if last is None or last.objective is not self._objective:
            return True
        return step - last.step >= self._settings.replan_every

    def _query(self, step: int, exogenous: Arrays | None) -> _TimedPlan:
        """The call for the plan of a step, without its time limit."""
        settings, last = self._settings, self._planned
        call = PlanCall(
            history=NO_HISTORY,
            goal=self._objective[0],
            constraints=self._objective[1],
            horizon=settings.horizon,
            exogenous=exogenous,
            proposals=None if last is None else shifted(last.plan.actions, step - last.step, settings.horizon),
            min_trust=settings.min_trust,
            clip=True,
            seed=(settings.seed + step) % MAX_STEP,
            expected=False,
        )
        return _TimedPlan(call, step, self._objective)

    def _start(self, query: _TimedPlan | None, ready_s: float) -> None:
        """Gives all queued observations to a worker, and the plan that is needed until `ready_s`, if any."""
        self._job_steps, self._waiting, self._error, self._detail = self._waiting, [], "", ""
        self._answered = self._loop.create_future()
        work = partial(self._work, self._job_steps, query, ready_s, self._answered)
        # Without a deadline: a late plan and its observation are used for later steps.
        computed = self._connection.compute(work, plan_s=self._settings.within_s)
        self._job = asyncio.ensure_future(computed)
        # A client that leaves does not wait for the result.
        self._job.add_done_callback(lambda job: None if job.cancelled() else job.exception())

    async def _finish(self, ends_s: float, *, tested: bool = True) -> bool:
        """Waits for the worker until `ends_s`, or for its plan only unless `tested`. Returns whether it is finished."""
        job, answered = self._job, self._answered
        if job is None:
            return True
        if not job.done() and (tested or not answered.done()):
            left_s = max(0.0, ends_s - time.monotonic())
            awaited: set[asyncio.Future[Any]] = {job} if tested else {job, answered}
            await asyncio.wait(awaited, timeout=left_s, return_when="FIRST_COMPLETED")
        if not job.done():
            return answered.done() and not tested
        self._job = None
        try:
            self._alarms += job.result()
        except Exception as error:  # noqa: BLE001  # a fault of one plan must not stop a machine
            self._note(error)
            self._waiting = [*self._job_steps, *self._waiting]  # perhaps it did not run, as in an overloaded service
        return True

    def _note(self, error: Exception) -> None:
        """Keeps the reason for a fallback."""
        problem = logged_problem(_logger, f"WebSocket {self._connection.request_id}", error)
        self._error, self._detail = problem.code, str(problem.error)

    def _take(self, planned: _TimedPlan | None, error: WorldlineError | None, answered: asyncio.Future[None]) -> None:
        """Takes the plan or the error of a worker, before the worker tests the last observation."""
        answered.set_result(None)
        if error is not None:
            self._note(error)
        if planned is None:
            return
        self._trust = float(planned.plan.trust)
        if planned.plan.status is PlanStatus.REFUSED:
            self._error, self._detail = PlanStatus.REFUSED.value, planned.plan.reason
        else:
            self._planned = planned

    def _work(
        self,
        steps: Sequence[FollowedStep],
        query: _TimedPlan | None,
        ready_s: float,
        answered: asyncio.Future[None],
        world: World,
    ) -> Sequence[Alarm]:
        """Observes, and plans in what is left of the time. Runs in a worker thread; returns the alarms.

        Trust and alarms are computed after the action, unless the plan depends on them.
        """
        planned, error, session = None, None, None
        with self._lock:  # the service may give up a call that still runs
            for step in steps:
                try:
                    session, error = self._follower.observe(world, step), None
                except WorldlineError as failed:
                    error = failed
            if query is not None and session is not None and error is None:
                try:
                    if self._settings.min_trust > 0:
                        session.test()
                    left_s = min(ready_s - time.monotonic(), self._connection.limits.plan_s)
                    if self._actor is not None:
                        plan = self._act(self._actor, session.history, query)
                    else:
                        plan = session.answer(replace(query.plan, budget_s=max(left_s, MIN_BUDGET_S)))
                    planned = query._replace(plan=plan)
                except WorldlineError as failed:
                    error = failed
            self._loop.call_soon_threadsafe(self._take, planned, error, answered)
            if session is not None:
                session.test()
            return self._follower.new_alarms()

    def _act(self, actor: ControllerActor, history: History, query: _TimedPlan) -> Plan:
        """The action of a controller, as a plan that keeps it. Its time is that of the steps."""
        self._begun, goal = query.step if self._begun < 0 else self._begun, query.objective[0]
        goals = check_goal(self._schema, goal, ()) if goal.targets else {}
        now = Situation(history=History.stack([history]), goals=goals, step=query.step - self._begun)
        acts = actor.act(now, num_steps=1, seed=0)
        held = {name: np.repeat(value[0], self._settings.horizon, 0) for name, value in acts.items()}
        unknown: Any = {"cost": math.nan, "violation": np.zeros(0), "trust": math.nan}
        return Plan(actions=held, status=PlanStatus.SEARCHED, reason="", elapsed_s=0.0, **unknown)

    def _action(self, step: int, received_s: float) -> dict[str, Any]:
        """The message with the action for a step."""
        planned, fresh = self._planned, not self._needs_plan(step)
        if planned is not None and step - planned.step >= self._settings.horizon:
            planned = None
        actions = self._initial
        if planned is not None:
            actions = {name: value[step - planned.step] for name, value in planned.plan.actions.items()}
        self._sent = dict(actions)
        message = {
            "type": "action",
            "step": step,
            "actions": {name: value.tolist() for name, value in actions.items()},
            "source": "fresh" if fresh else "fallback",
            "planned_at_step": None if planned is None else planned.step,
            "trust": None if math.isnan(self._trust) else self._trust,
            "status": planned.plan.status.value if fresh and planned else self._error or "late",
        }
        if not fresh and self._detail:
            message["detail"] = self._detail
        if self._alarms:
            message["alarms"] = [{"step": alarm.step, "since": alarm.since} for alarm in self._alarms]
            self._alarms = []
        late_s = time.monotonic() - received_s - self._settings.within_s
        return message | ({"late_ms": 1e3 * late_s} if late_s > 0 else {})


def _actor(settings: ControlSettings, schema: Schema) -> ControllerActor | None:
    """The controller of these settings; None if the world plans."""
    _check_objective(schema, settings.goal, settings.constraints, has_controller=settings.controller is not None)
    if settings.controller is None:
        return None
    if (
        settings.min_trust
        or settings.replan_every > 1
        or len(msgspec.json.encode(settings.controller)) > MAX_CONTROLLER
    ):
        raise MessageError("a controller has at most 16 KiB, and no min_trust and replan_every. Leave them out.", "")
    try:
        return ControllerActor(controller_of(settings.controller, schema), schema)
    except ConfigError as error:
        raise MessageError(str(error), "/controller") from error


def _check_objective(schema: Schema, goal: Goal, constraints: Sequence[Constraint], *, has_controller: bool) -> None:
    if has_controller and (goal.costs or goal.reward or constraints):
        raise InputError("a controller follows targets only. Leave out costs, constraints and reward.")
    if goal.targets or not has_controller:
        check_goal(schema, goal, ())


async def _handle(connection: Connection) -> None:
    """Serves one connection."""
    await connection.accept()
    frame, _ = await connection.receive(connection.limits.body_s, MAX_FRAME_BYTES)
    settings = await _decoded(frame, ControlSettings)
    actor = await run_in_threadpool(_actor, settings, connection.card.schema)
    loop = _ControlLoop(connection, settings, actor)
    timing = {"period_s": settings.period_s, "deadline_s": settings.within_s}
    ready = {"type": "ready", "protocol": PROTOCOL, **connection.facts(), "horizon": settings.horizon, **timing}
    await _send(connection, frame, ready)
    try:
        while True:
            frame, received_s = await connection.receive(connection.limits.session_s, MAX_FRAME_BYTES)
            message: GoalChange | ControlStep = await _decoded(frame, GoalChange, ControlStep)
            try:
                if isinstance(message, GoalChange):
                    reply = loop.change(message)
                else:
                    reply = await loop.answer(message, received_s)
            except InputError as error:
                reply = error_message(problem_of(error), connection.request_id)
                reply |= {"step": message.step} if isinstance(message, ControlStep) else {}
            await _send(connection, frame, reply)
    finally:
        loop.stop()


async def _decoded(frame: str | bytes, *kinds: type[Message]) -> Message:
    """The message in a frame: of the first kind if that is the only one, else of the one that has its fields."""
    return await run_in_threadpool(_decode, frame, kinds) if len(frame) > INLINE_BYTES else _decode(frame, kinds)


def _decode(frame: str | bytes, kinds: Sequence[type[Message]]) -> Message:
    """Decodes a frame. A msgpack message has the form of a JSON message, so it is read as one."""
    try:
        text = frame.encode() if isinstance(frame, str) else msgspec.json.encode(msgspec.msgpack.decode(frame))
        named = msgspec.json.decode(text, type=_Kind).goal is not msgspec.UNSET
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the message is damaged: {error}. Send JSON in text frames, msgpack in others.") from error
    kind = kinds[0] if named else kinds[-1]
    return decode_json(kind, text)


async def _send(connection: Connection, frame: str | bytes, message: Mapping[str, Any]) -> None:
    """Sends a message in the encoding of the frame that it answers."""
    if isinstance(frame, str):
        await connection.socket.send_text(msgspec.json.encode(message).decode())
    else:
        await connection.socket.send_bytes(msgspec.msgpack.encode(message))


CONTROL: Final = SocketEndpoint(handle=_handle)
"""The endpoint `/v1/control`."""
