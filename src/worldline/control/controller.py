"""Receding-horizon control: actors (planning, random) and a controller that replans every few steps."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.base import Constraint, Cost, Goal
from worldline.schema import Kind, Schema, Signal
from worldline.world.base import PlanStatus, World

MAX_ROUNDS: Final = 10_000
"""Calls of an actor that a controller records; bounds its memory in long runs."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The input of an actor, for W worlds.

    Args:
        history: the last H observations and the H-1 inputs between them.
        goals: per observation signal, the target value [W, *shape].
        remaining: per action signal, the unused actions of the last answer, [W, R, *shape]; None for none.
        pending: per action signal, the sent actions that have not taken effect yet, [W, D, *shape]; they precede the
            answer. None for none.
        forecast: per exogenous signal, its future values, [W, D + T, *shape]; None without exogenous signals.
        step: steps since the controller was reset.
        budget_s: time limit for the answer in seconds; None for no limit.
    """

    history: History
    goals: Arrays
    remaining: Arrays | None = None
    pending: Arrays | None = None
    forecast: Arrays | None = None
    step: int = 0
    budget_s: float | None = None


class Actor(ABC):
    """Chooses actions in W worlds. An actor has no state; its input holds all that it needs."""

    @abstractmethod
    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """Per action signal, the next K steps [W, K, *shape] inside the bounds of the signal; K at least `num_steps`.

        Args:
            now: the input.
            num_steps: number of steps that will be taken.
            seed: of every draw.
        """


@final
@dataclass(frozen=True, kw_only=True)
class WorldActor(Actor):
    """Takes the actions of `World.plan`.

    Args:
        world: any world that plans. It receives only the signals of its schema.
        horizon: K, steps of a plan.
        warm_start: whether the rest of the last plan is proposed to the next search. Set it to False for a world with
            the planner `first_proposal`, which would otherwise never use the proposals of the world.
        propose: returns further initial sequences, such as logged actions in similar states: per action signal
            [W, P, K, *shape].
        tolerance: as in `Goal`.
        in_steps: as in `Goal`.
        reward: as in `Goal`; the goals of a situation may then be empty.
        costs: as in `Goal`; or a function from the first step of a plan, counted from the reset, to the costs. An
            example is a tariff without the hours that have passed.
        constraints: as in `World.plan`.
        budget_s: time limit in seconds for the plans of all W worlds together, as in `World.plan`; None for only the
            limit of the situation.
    """

    world: World
    horizon: int
    warm_start: bool = True
    propose: Callable[[Situation], Arrays] | None = None
    tolerance: Mapping[str, float] = field(default_factory=dict)
    in_steps: bool = False
    reward: bool = False
    costs: Sequence[Cost] | Callable[[int], Sequence[Cost]] = ()
    constraints: Sequence[Constraint] = ()
    budget_s: float | None = None

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The planned actions, K = `horizon`.

        Raises:
            InputError: `num_steps` exceeds the horizon, or the forecast is too short.
            UnsupportedError: the world refused to plan.
        """
        if num_steps > self.horizon:
            raise InputError(f"num_steps is {num_steps}, but a plan has {self.horizon} steps. Replan more often.")
        schema = self.world.describe().schema
        goal = Goal(
            targets=now.goals,
            tolerance=self.tolerance,
            in_steps=self.in_steps,
            reward=self.reward,
            costs=self.costs(now.step) if callable(self.costs) else self.costs,
        )
        limits_s = [limit_s for limit_s in (self.budget_s, now.budget_s) if limit_s is not None]
        plan = self.world.plan(
            now.history.select([signal.name for signal in schema.signals]),
            goal,
            constraints=self.constraints,
            horizon=self.horizon,
            exogenous=self._forecast(now, schema),
            proposals=self._proposals(now),
            pending=None if now.pending is None else {s.name: now.pending[s.name] for s in schema.actions},
            budget_s=min(limits_s, default=None),
            seed=seed,
        )
        if plan.status is PlanStatus.REFUSED:
            raise UnsupportedError(f"the world refused to plan: {plan.reason}")
        return dict(plan.actions)

    def _proposals(self, now: Situation) -> Arrays | None:
        """The rest of the last plan, followed by the sequences from `propose`."""
        proposals: list[Arrays] = []
        if self.warm_start and now.remaining:
            proposals.append(_prolonged(now.remaining, self.horizon))
        if self.propose:
            proposals.append(self.propose(now))
        if not proposals:
            return None
        return {name: np.concatenate([part[name] for part in proposals], 1) for name in proposals[0]}

    def _forecast(self, now: Situation, schema: Schema) -> Arrays | None:
        """The part of the forecast that a plan needs."""
        if now.forecast is None:
            return None
        num_pending = 0 if now.pending is None else next(iter(now.pending.values())).shape[1]
        steps = self.horizon + num_pending
        known = {s.name: now.forecast[s.name] for s in schema.exogenous if s.name in now.forecast}
        for name, value in known.items():
            if value.shape[1] < steps:
                raise InputError(
                    f"the forecast of {name!r} has {value.shape[1]} steps, but a plan needs {steps}. Give a longer "
                    "forecast, or reduce the horizon."
                )
        return {name: value[:, :steps] for name, value in known.items()}


@final
@dataclass(frozen=True, kw_only=True)
class RandomActor(Actor):
    """Acts uniformly at random within the bounds of the action signals; the baseline.

    Args:
        schema: its vector actions must be bounded.
    """

    schema: Schema

    def __post_init__(self) -> None:
        for signal in self.schema.actions:
            if signal.kind is Kind.VECTOR and not np.isfinite(bounds_of(signal)).all():
                raise ConfigError(f"action {signal.name!r} has no finite bounds to sample from. Set low and high.")

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """Random actions, K = `num_steps`."""
        generator, actions = np.random.default_rng(seed), {}
        for signal in self.schema.actions:
            shape = (_num_worlds(now), num_steps, *signal.shape)
            drawn = (
                generator.uniform(*bounds_of(signal), shape)
                if signal.num_values is None
                else generator.integers(signal.num_values, size=shape)
            )
            actions[signal.name] = drawn.astype(signal.dtype)
        return actions


@dataclass(frozen=True, kw_only=True)
class ControlRound:
    """One call of an actor.

    Args:
        num_worlds: W.
        elapsed_s: duration for all W worlds.
        late: whether the answer missed the deadline, so that the rest of the previous answer replaced it.
    """

    num_worlds: int
    elapsed_s: float
    late: bool = False


@final
class ReplanningController:
    """Acts in W worlds in parallel, step by step: keeps their histories and calls its actor every few steps.

    Args:
        actor: chooses the actions.
        schema: of the environments.
        context: H, the largest number of observations in a history; at least 1.
        replan_every: steps that are taken of each answer; at least 1.
        delay: steps of the actor after which an action takes effect, at least 0. The actor receives the pending
            actions, at first those of no move. In the history an action is at the step where it took effect.
        seed: of every draw.
        clock: returns monotonic time in seconds.

    Attributes:
        rounds: the calls of the actor since the last reset, at most `MAX_ROUNDS`.
        fresh: whether the last action belongs to an answer to the last observation.
    """

    def __init__(
        self,
        actor: Actor,
        schema: Schema,
        *,
        context: int,
        replan_every: int,
        delay: int = 0,
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if context < 1 or replan_every < 1 or delay < 0:
            raise ConfigError(
                f"context {context} and replan_every {replan_every} must be at least 1, and delay {delay} at least 0."
            )
        self.actor, self.schema, self.seed = actor, schema, seed
        self.context, self.replan_every, self.delay = context, replan_every, delay
        self._clock = clock
        self._observations: deque[Arrays] = deque(maxlen=context)
        self._actions: deque[Arrays] = deque(maxlen=context - 1)
        self._exogenous: deque[Arrays] = deque(maxlen=context - 1)
        self._pending: deque[Arrays] = deque(maxlen=delay)
        self.reset({})

    def reset(self, goals: Arrays, past: History | None = None) -> None:
        """Starts a new run.

        Args:
            goals: per observation signal, the target value [W, *shape].
            past: the history before the first `act`, with as many actions as observations. The last action leads to
                the first observation of `act`. None for none.
        """
        self._goals, self.fresh = goals, False
        self._answer: Arrays | None = None
        self._num_taken, self._num_calls = 0, 0
        self.rounds: deque[ControlRound] = deque(maxlen=MAX_ROUNDS)  # new, because the caller may keep the old one
        for queue in (self._observations, self._actions, self._exogenous, self._pending):
            queue.clear()
        if past is None:
            return
        for step in range(next(iter(past.observations.values())).shape[1]):
            self._observations.append(_at(past.observations, step))
            self._actions.append(_at(past.actions, step))
            self._exogenous.append(_at(past.exogenous, step))

    def act(
        self,
        observations: Arrays,
        *,
        exogenous: Arrays | None = None,
        forecast: Arrays | None = None,
        goals: Arrays | None = None,
        budget_s: float | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """The next action [W, *shape] of each action signal.

        Args:
            observations: the present observations, per observation signal [W, *shape].
            exogenous: exogenous inputs since the previous observation, per exogenous signal [W, *shape]. Not needed in
                the first call, if `context` is 1, and if the schema has none.
            forecast: as in `Situation`.
            goals: new targets from this step on, as in `reset`; None for no change.
            budget_s: time limit for the actor in seconds; None for no limit.
            deadline_s: seconds after which an answer is discarded. The rest of the previous answer is then used if it
                is long enough, and `fresh` is False. None to always wait.

        Raises:
            InputError: an exogenous signal is missing.
        """
        called_s, self.fresh = self._clock(), False
        self._goals = self._goals if goals is None else goals
        if self._answer is not None and self.context > 1:
            inputs = exogenous or {}
            for signal in self.schema.exogenous:
                if signal.name not in inputs:
                    raise InputError(f"exogenous signal {signal.name!r} is missing. Give its last value.")
            self._exogenous.append({signal.name: inputs[signal.name] for signal in self.schema.exogenous})
        self._observations.append(observations)
        if self.delay and not self._pending:
            num_worlds = len(next(iter(observations.values())))
            idle = _at(no_move(self.schema, num_worlds, 1), 0)
            self._pending.extend([idle] * self.delay)
        if self._answer is None or self._num_taken == self.replan_every:
            ends_s = None if deadline_s is None else called_s + deadline_s
            self._answer, self._num_taken = self._call_actor(forecast, budget_s, ends_s), 0
        action = _at(self._answer, self._num_taken)
        self._num_taken += 1
        # The history holds an action at the step where it takes effect: the oldest pending action, if there is a delay.
        self._actions.append(self._pending[0] if self.delay else action)
        self._pending.append(action)
        return action

    def keep(self, worlds: NDArray[np.integer]) -> None:
        """Continues with these of the W worlds only, in this order."""
        self._goals = _select(self._goals, worlds)
        for queue in (self._observations, self._actions, self._exogenous, self._pending):
            steps = [_select(step, worlds) for step in queue]
            queue.clear()
            queue.extend(steps)
        self._answer = None if self._answer is None else _select(self._answer, worlds)

    def _call_actor(self, forecast: Arrays | None, budget_s: float | None, ends_s: float | None) -> Arrays:
        left = None if self._answer is None else {k: v[:, self._num_taken :] for k, v in self._answer.items()}
        now = Situation(
            history=self._history(),
            goals=self._goals,
            remaining=left if left and all(value.shape[1] for value in left.values()) else None,
            pending=_stacked(self._pending) if self._pending else None,
            forecast=forecast,
            step=self._num_calls * self.replan_every,
            budget_s=budget_s,
        )
        seed = int(np.random.SeedSequence([self.seed, self._num_calls]).generate_state(1)[0])
        started_s = self._clock()
        answer = self.actor.act(now, num_steps=self.replan_every, seed=seed)
        ended_s, self._num_calls = self._clock(), self._num_calls + 1
        enough = left is not None and all(value.shape[1] >= self.replan_every for value in left.values())
        late = enough and ends_s is not None and ended_s > ends_s
        self.rounds.append(ControlRound(num_worlds=_num_worlds(now), elapsed_s=ended_s - started_s, late=late))
        self.fresh = not late
        return left if late and left is not None else answer

    def _history(self) -> History:
        observations = _stacked(self._observations)
        num_worlds = len(next(iter(observations.values())))

        def inputs(signals: Sequence[Signal], steps: deque[Arrays]) -> dict[str, NDArray[np.generic]]:
            # A history names every input signal, also before the first step.
            return _stacked(steps) if steps else {s.name: np.zeros((num_worlds, 0, *s.shape), s.dtype) for s in signals}

        return History(
            observations=observations,
            actions=inputs(self.schema.actions, self._actions),
            exogenous=inputs(self.schema.exogenous, self._exogenous),
        )


def _at(arrays: Arrays, step: int) -> dict[str, NDArray[np.generic]]:
    """One step [W, *shape] of arrays [W, T, *shape]."""
    return {name: value[:, step] for name, value in arrays.items()}


def _stacked(steps: deque[Arrays]) -> dict[str, NDArray[np.generic]]:
    """Stacks T steps [W, *shape] to [W, T, *shape]."""
    return {name: np.stack([step[name] for step in steps], 1) for name in steps[0]}


def no_move(schema: Schema, num_worlds: int, num_steps: int) -> dict[str, NDArray[np.generic]]:
    """Actions [W, T, *shape] of 0, clipped to the bounds."""
    idle = {}
    for signal in schema.actions:
        zeros = np.zeros((num_worlds, num_steps, *signal.shape), signal.dtype)
        idle[signal.name] = zeros.clip(*bounds_of(signal), dtype=signal.dtype, casting="unsafe")
    return idle


def _select(arrays: Arrays, worlds: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
    return {name: value[worlds] for name, value in arrays.items()}


def _prolonged(remaining: Arrays, horizon: int) -> dict[str, NDArray[np.generic]]:
    """One proposal [W, 1, T, *shape]: `remaining` [W, R, *shape], padded with its last step."""
    step = {name: np.minimum(np.arange(horizon), value.shape[1] - 1) for name, value in remaining.items()}
    return {name: value[:, step[name]][:, None] for name, value in remaining.items()}


def _num_worlds(now: Situation) -> int:
    return len(next(iter(now.history.observations.values())))


def bounds_of(signal: Signal) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Low and high, each [*shape]; infinite if unbounded, 0 and the last value for a discrete signal."""
    if signal.num_values is not None:
        return np.zeros(()), np.full((), signal.num_values - 1.0)
    low, high = signal.low or (-np.inf,) * signal.size, signal.high or (np.inf,) * signal.size
    return np.array(low).reshape(signal.shape), np.array(high).reshape(signal.shape)
