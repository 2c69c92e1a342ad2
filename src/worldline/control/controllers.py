"""Controllers choose the actions of plants from what was measured: PID loops, rules, schedules and functions."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.control.controller import Actor, Situation, bounds_of, no_move
from worldline.documents import convert_document, read_document
from worldline.episode import Arrays
from worldline.errors import ConfigError, InputError
from worldline.registry import imported
from worldline.schema import Kind, Role, Schema, Signal
from worldline.world.validation import check_group

Floats = NDArray[np.floating]

FIX: Final = "Compare it with docs/howto/controllers.md."
"""What to do about a file that is no controller."""


@dataclass(frozen=True, kw_only=True)
class ControllerCard:
    """What a controller is.

    Args:
        name: such as "pid", or the name of a function.
        reads: the signals that decide its actions; None if that is not known.
        settings: one line per part, such as "temperature sets heater: gain 2, set point 21".
        switches: whether it switches actions by design, so that its loop oscillates.
    """

    name: str
    reads: tuple[str, ...] | None
    settings: tuple[str, ...] = ()
    switches: bool = False


class Controller(ABC):
    """Chooses the actions of W plants, step by step. It may keep values of each plant between steps.

    Attributes:
        card: what it is.
    """

    card: ControllerCard

    @abstractmethod
    def reset(self) -> None:
        """Forgets what was kept, before a new run. The next `act` may have another number of plants."""

    @abstractmethod
    def act(self, session: Situation) -> Arrays:
        """The next action [W, *shape] of each action signal, within its bounds.

        Args:
            session: what was measured so far, and the goals.
        """


@final
class ControllerActor(Actor):
    """Lets a `ReplanningController` run a controller, with `replan_every` = 1.

    Args:
        controller: chooses the actions.
        schema: of the plants.
    """

    def __init__(self, controller: Controller, schema: Schema) -> None:
        self.controller, self.schema = controller, schema

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The action of one step, K = 1.

        Raises:
            InputError: the controller returned no valid action; the message names controller, step and signal.
        """
        del num_steps, seed
        if now.step == 0:
            self.controller.reset()
        where = f"controller {self.controller.card.name!r} at step {now.step}"
        try:
            answer = self.controller.act(now)
            actions = check_group(self.schema.actions, answer, (now.history.num_worlds,), "action")
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except Exception as error:
            raise InputError(f"{where} failed: {type(error).__name__}: {error}. Correct it.") from error
        for signal in self.schema.actions:
            if (signal.bounded(actions[signal.name]) != actions[signal.name]).any():
                raise InputError(
                    f"{where}: action {signal.name!r} is {actions[signal.name].tolist()} {signal.unit}, outside its "
                    f"bounds {signal.low} to {signal.high}. Clip it."
                )
        return {name: value[:, None] for name, value in actions.items()}


@final
class FunctionController(Controller):
    """A function as a controller.

    Args:
        function: maps a `Situation` to the next action [W, *shape] of each action signal. It keeps nothing.
        name: for the card; None for that of the function.
    """

    def __init__(self, function: Callable[[Situation], Arrays], name: str | None = None) -> None:
        self._function = function
        known: str = getattr(function, "__name__", type(function).__name__)
        self.card = ControllerCard(name=name or known, reads=None)

    def reset(self) -> None:
        """Nothing is kept."""

    def act(self, session: Situation) -> Arrays:
        """The result of the function."""
        return self._function(session)


class PidLoop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A loop that keeps a measured value at its set point.

    Args:
        reads: component of an observation, such as "temperature", "position.1" or "position.x".
        acts: component of an action.
        set_point: wanted value, in the unit of the observation; None for the goal of the run.
        gain: change of the action per error, in the units of both; below 0 if the action lowers the value.
        integral_s: reset time, seconds (steps without a time step); None for no integral.
        derivative_s: derivative time, of the measured value; 0 for none.
        bias: action without error, in its unit.
    """

    reads: str
    acts: str
    gain: float
    set_point: float | None = None
    integral_s: float | None = None
    derivative_s: float = 0.0
    bias: float = 0.0


@final
class PidController(Controller):
    """PID loops in the standard form. Actions without a loop are 0, or the bound next to 0.

    The integral waits while the action is at a bound and the error points beyond it. A missing value is taken as
    unchanged.

    Args:
        loops: at most one for each component of an action.
        schema: of the plants.

    Raises:
        ConfigError: a loop names no such component, or two loops have the same action, or a number is out of range.

    Source: Åström, Hägglund, "Advanced PID Control", 2006, sections 3.2 and 3.5.
    """

    def __init__(self, loops: Sequence[PidLoop], schema: Schema) -> None:
        self._schema, self._step_s = schema, schema.step_s or 1.0
        self._loops = [
            (loop, _component(schema, Role.OBSERVATION, loop.reads), _component(schema, Role.ACTION, loop.acts))
            for loop in loops
        ]
        if not loops or len({(action.signal.name, action.key) for *_, action in self._loops}) < len(loops):
            raise ConfigError("a PID controller needs one loop for each action that it sets. Add or merge loops.")
        for loop in loops:
            integral_s = 1.0 if loop.integral_s is None else loop.integral_s
            numbers = (loop.gain, loop.bias, loop.derivative_s, integral_s, loop.set_point or 0.0)
            if not all(map(math.isfinite, numbers)) or loop.derivative_s < 0 or integral_s <= 0:
                raise ConfigError(
                    f"the loop of {loop.acts!r} has gain {loop.gain}, integral_s {loop.integral_s} and derivative_s "
                    f"{loop.derivative_s}. Numbers must be finite, integral_s above 0, and derivative_s at least 0."
                )
        for loop, _, action in self._loops:
            if action.signal.kind is Kind.DISCRETE:
                raise ConfigError(f"action {loop.acts!r} is discrete, so no PID loop can set it. Use rules.")
        reads = tuple(dict.fromkeys(read.signal.name for _, read, _ in self._loops))
        self.card = ControllerCard(
            name="pid", reads=reads, settings=tuple(_described(loop, _unit(schema)) for loop in loops)
        )
        self.reset()

    def reset(self) -> None:
        """Forgets integrals and last values."""
        self._integrals: list[Floats] = [np.zeros(0)] * len(self._loops)
        self._last: list[Floats | None] = [None] * len(self._loops)

    def act(self, session: Situation) -> Arrays:
        """The clipped actions of the loops."""
        actions = _idle(self._schema, session)
        for k, (loop, read, action) in enumerate(self._loops):
            if loop.set_point is None and read.signal.name not in session.goals:
                raise InputError(f"the run has no goal for {read.signal.name!r}. Add a set_point to the loop.")
            wanted = session.goals[read.signal.name][read.key] if loop.set_point is None else loop.set_point
            last = self._last[k]
            value = read.latest(session, wanted if last is None else last)
            error = read.signal.difference(np.broadcast_to(wanted, value.shape), value)
            rate = 0.0 if last is None else read.signal.difference(value, last) / self._step_s
            low, high = (bound[action.key] for bound in bounds_of(action.signal))
            before = self._integrals[k] if last is not None else np.zeros_like(error)
            after = before + (0.0 if loop.integral_s is None else self._step_s / loop.integral_s) * error
            quick = loop.bias + loop.gain * (error - loop.derivative_s * rate)
            raw = quick + loop.gain * after
            kept = np.where((raw - np.clip(raw, low, high)) * loop.gain * error > 0, before, after)
            actions[action.signal.name][action.key] = np.clip(quick + loop.gain * kept, low, high)
            self._integrals[k], self._last[k] = kept, value
        return actions


class ValueRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A condition on a measured value.

    Args:
        above: the value must be above it; None for no limit.
        below: the value must be below it; None for no limit.
    """

    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.above or 0.0) or math.isnan(self.below or 0.0):
            raise ConfigError(f"above is {self.above} and below is {self.below}. Give numbers.")


class ControlRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sets actions while all conditions hold.

    Args:
        when: per component of an observation its range.
        set: per component of an action its value.
    """

    when: dict[str, ValueRange]
    set: dict[str, float]


@final
class RuleController(Controller):
    """A table of rules. The first one whose conditions hold sets its actions; all others keep their last value.

    So a gap between two rules is a hysteresis: a heater that turns on below 20 degrees and off above 22 keeps its state
    between them. A missing value meets no condition.

    Args:
        rules: in the order of priority.
        first: per component of an action its value before any rule applied. Others are 0, or the bound next to 0.
        schema: of the plants.

    Raises:
        ConfigError: there is no rule, a name is no such component, or a value is outside its bounds.
    """

    def __init__(self, rules: Sequence[ControlRule], schema: Schema, first: Mapping[str, float] | None = None) -> None:
        if not rules:
            raise ConfigError("there are no rules. Add one with `when` and `set`.")
        self._schema, self._first = schema, _settings(schema, first or {})
        self._rules = [
            (
                [(_component(schema, Role.OBSERVATION, name), limit) for name, limit in rule.when.items()],
                _settings(schema, rule.set),
            )
            for rule in rules
        ]
        reads = tuple(dict.fromkeys(read.signal.name for conditions, _ in self._rules for read, _ in conditions))
        self.card = ControllerCard(name="rules", reads=reads, settings=tuple(map(_said, rules)), switches=True)
        self.reset()

    def reset(self) -> None:
        """Forgets the last actions."""
        self._actions: dict[str, NDArray[Any]] | None = None

    def act(self, session: Situation) -> Arrays:
        """The actions of the first rule that applies, for each plant."""
        if self._actions is None:
            self._actions = _idle(self._schema, session)
            _put(self._actions, self._first, slice(None))
        actions = {name: value.copy() for name, value in self._actions.items()}
        free = np.ones(session.history.num_worlds, bool)
        for conditions, values in self._rules:
            applies = free.copy()
            for read, limit in conditions:
                value = read.latest(session, math.nan)
                applies &= value > (-math.inf if limit.above is None else limit.above)
                applies &= value < (math.inf if limit.below is None else limit.below)
            _put(actions, values, applies)
            free &= ~applies
        self._actions = actions
        return actions


class ScheduledStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sets actions from a time on.

    Args:
        at_s: seconds since the start of the run, or of the period; steps without a time step.
        set: per component of an action its value.
    """

    at_s: float
    set: dict[str, float]


@final
class ScheduleController(Controller):
    """Actions over time, whatever is measured. Before its first step an action is 0, or the bound next to 0.

    Args:
        steps: in the order of time.
        schema: of the plants.
        period_s: after which the schedule begins again; None for never.

    Raises:
        ConfigError: the times do not rise from 0 on or reach the period, a name is no such component, or a value is
            outside its bounds.
    """

    def __init__(self, steps: Sequence[ScheduledStep], schema: Schema, period_s: float | None = None) -> None:
        times = [step.at_s for step in steps]
        ends = [0.0, *times, math.inf if period_s is None else period_s]
        if not steps or not all(a <= b for a, b in pairwise(ends)) or not ends[-1] > 0:
            raise ConfigError(f"the times {times} must rise from 0 on, up to the period {period_s}. Sort them.")
        self._schema, self._period_s = schema, period_s
        self._steps = [(step.at_s, _settings(schema, step.set)) for step in steps]
        settings = tuple(f"at {step.at_s:g} {_unit(schema)}: {_values(step.set)}" for step in steps)
        self.card = ControllerCard(name="schedule", reads=(), settings=settings)

    def reset(self) -> None:
        """Nothing is kept: the time is that of the session."""

    def act(self, session: Situation) -> Arrays:
        """The actions of this time."""
        now_s = session.step * (self._schema.step_s or 1.0)
        begun = [values for at_s, values in self._steps if at_s <= now_s + 1e-9]
        if self._period_s is not None and now_s >= self._period_s:
            now_s %= self._period_s
            begun = [values for _, values in self._steps]  # each action has its last value of the period before
            begun += [values for at_s, values in self._steps if at_s <= now_s + 1e-9]
        actions = _idle(self._schema, session)
        for values in begun:
            _put(actions, values, slice(None))
        return actions


class _Pid(msgspec.Struct, tag="pid", tag_field="kind", forbid_unknown_fields=True):
    loops: list[PidLoop]


class _Rules(msgspec.Struct, tag="rules", tag_field="kind", forbid_unknown_fields=True):
    rules: list[ControlRule]
    first: dict[str, float] = {}


class _Schedule(msgspec.Struct, tag="schedule", tag_field="kind", forbid_unknown_fields=True):
    steps: list[ScheduledStep]
    period_s: float | None = None


class _Plan(msgspec.Struct, tag="plan", tag_field="kind", forbid_unknown_fields=True):
    world: str
    horizon: int
    goal: str


class _Logged(msgspec.Struct, tag="logged", tag_field="kind", forbid_unknown_fields=True):
    logs: str
    goal: str | None = None
    reads: list[str] | None = None


_SimpleController: TypeAlias = _Pid | _Rules | _Schedule
_AnyController: TypeAlias = _SimpleController | _Plan | _Logged


def load_controller(source: str | Path, schema: Schema) -> Controller:
    """The controller of a TOML file, or of "module:name".

    Args:
        source: a file whose `kind` is "pid", "rules", "schedule", "plan" or "logged"; or the name of a controller, of a
            class of controllers without arguments, or of a function as in `FunctionController`.
        schema: of the plants.

    Raises:
        ConfigError: the file does not exist, is no TOML or has other fields; or as in the controllers.
        InputError: there is no such module, or the object is none of these.
        UnknownNameError: the module has no such name.
    """
    if Path(source).suffix != ".toml":
        made = imported("controller", str(source))
        made = made() if isinstance(made, type) else made
        if not isinstance(made, Controller) and not callable(made):
            raise InputError(f"{source} is a {type(made).__name__}. Name a Controller, or a function of a Situation.")
        return made if isinstance(made, Controller) else FunctionController(made)
    read = read_document(source, _AnyController, FIX)
    if not isinstance(read, _Plan | _Logged):
        return _simple_controller(read, schema)
    from worldline.control.logged_controller import LoggedController  # this, and the next, import what opens files
    from worldline.control.plan_controller import PlanController
    from worldline.control.run_goal import load_goal
    from worldline.data.store import open_store

    folder = Path(source).parent
    if isinstance(read, _Plan):
        return PlanController.opened(read.world, folder / read.goal, horizon=read.horizon)
    store, goal = open_store(folder / read.logs), None if read.goal is None else load_goal(folder / read.goal)
    episodes = [store.episode(number, images=False) for number in range(len(store))]
    goals = [goal.logged_targets(episode, schema) for episode in episodes] if goal else []
    return LoggedController(episodes, schema, goals, reads=read.reads)


def controller_of(tree: Mapping[str, Any], schema: Schema, source: str = "the controller") -> Controller:
    """The controller of a tree of TOML or JSON, which names no file and no code.

    Args:
        tree: as in `load_controller`; its `kind` is "pid", "rules" or "schedule".
        schema: of the plants.
        source: for messages.

    Raises:
        ConfigError: as in `load_controller`.
    """
    return _simple_controller(convert_document(tree, _SimpleController, source, FIX), schema)


def _simple_controller(read: _SimpleController, schema: Schema) -> Controller:
    if isinstance(read, _Pid):
        return PidController(read.loops, schema)
    if isinstance(read, _Rules):
        return RuleController(read.rules, schema, read.first)
    return ScheduleController(read.steps, schema, read.period_s)


@dataclass(frozen=True)
class _Component:
    """A component of a vector, or a discrete signal.

    Args:
        signal: of the component.
        key: selects the component in an array [..., *shape].
    """

    signal: Signal
    key: tuple[Any, ...]

    def latest(self, session: Situation, missing: Floats | float) -> Floats:
        """The last value [W], or `missing` where it was not observed."""
        name, history = self.signal.name, session.history
        values = np.asarray(history.observations[name][:, -1][self.key], float)
        return np.where(history.mask(name)[:, -1], values, missing)


def _component(schema: Schema, role: Role, name: str) -> _Component:
    """The component of this name."""
    known = dict[str, _Component]()
    for signal in schema.signals:
        if signal.role is not role or signal.kind is Kind.IMAGE:
            continue
        if signal.kind is Kind.DISCRETE:
            known[signal.name] = _Component(signal, (...,))
            continue
        for index in range(signal.size):
            labels = [str(index), *([signal.components[index]] if signal.components else [])]
            names = [f"{signal.name}.{label}" for label in labels] + ([signal.name] if signal.size == 1 else [])
            known |= dict.fromkeys(names, _Component(signal, (..., index)))
    if name not in known:
        raise ConfigError(f"there is no {role} {name!r}. Choose one of: {', '.join(known)}.")
    return known[name]


def _settings(schema: Schema, values: Mapping[str, float]) -> list[tuple[_Component, float]]:
    """The components of actions with their values, which must be inside their bounds."""
    settings = [(_component(schema, Role.ACTION, name), value) for name, value in values.items()]
    for part, value in settings:
        low, high = (bound[part.key] for bound in bounds_of(part.signal))
        if not low <= value <= high or (part.signal.kind is Kind.DISCRETE and value != int(value)):
            raise ConfigError(f"{value} is no value of action {part.signal.name!r}, which is from {low} to {high}.")
    return settings


def _put(actions: Arrays, settings: Sequence[tuple[_Component, float]], plants: Any) -> None:
    """Sets components of actions [W, *shape] in these plants."""
    for part, value in settings:
        actions[part.signal.name][(plants, *part.key[1:])] = value


def _idle(schema: Schema, session: Situation) -> dict[str, NDArray[Any]]:
    """Actions [W, *shape] of 0, or of the bound next to 0."""
    return {name: value[:, 0] for name, value in no_move(schema, session.history.num_worlds, 1).items()}


def _unit(schema: Schema) -> str:
    """Of times: steps, if the schema has no time step."""
    return "s" if schema.step_s else "steps"


def _described(loop: PidLoop, unit: str) -> str:
    wanted = "the goal" if loop.set_point is None else f"{loop.set_point:g}"
    parts = [f"gain {loop.gain:g}"]
    parts += [] if loop.integral_s is None else [f"integral {loop.integral_s:g} {unit}"]
    parts += [f"derivative {loop.derivative_s:g} {unit}"] if loop.derivative_s else []
    return f"{loop.acts} keeps {loop.reads} at {wanted}: {', '.join(parts)}"


def _said(rule: ControlRule) -> str:
    limits = [
        f"{name} is {word} {value:g}"
        for name, limit in rule.when.items()
        for word, value in (("above", limit.above), ("below", limit.below))
        if value is not None
    ]
    return f"{' and '.join(limits) or 'else'}: {_values(rule.set)}"


def _values(settings: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in settings.items())
