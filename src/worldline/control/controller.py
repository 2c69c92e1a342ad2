"""What to do next: by a world's plans, at random, or nothing; and a controller that asks anew every few steps."""

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
from worldline.errors import ConfigError, InputError
from worldline.planning.base import Constraint, Cost, Goal
from worldline.schema import Kind, Schema, Signal
from worldline.world.base import PlanStatus, World

Floats = NDArray[np.floating]

NUM_ROUNDS: Final = 10_000
"""Calls of an actor that a controller remembers, so that one that runs for days stays as small as it is."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What an actor has to know of W worlds.

    Args:
        history: the last H observations and the H-1 inputs between them.
        goals: per observation signal the wanted value [W, *shape].
        remaining: per action signal what was not taken of the answer before, [W, R, *shape]; None for nothing.
        pending: per action signal what was sent and still has to take effect, [W, D, *shape]: it comes before the
            answer; None for nothing.
        forecast: per exogenous signal what will act from outside, [W, D + T, *shape], the longer the better; None
            where nothing does.
        step: steps since the controller was reset.
        budget_s: seconds in which the answer is wanted; None for no limit.
    """

    history: History
    goals: Arrays
    remaining: Arrays | None = None
    pending: Arrays | None = None
    forecast: Arrays | None = None
    step: int = 0
    budget_s: float | None = None


class Actor(ABC):
    """Says what to do in W worlds. It keeps no state: what it has to know is handed to it."""

    @abstractmethod
    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """Per action signal the next K steps [W, K, *shape], inside the signal's bounds; K at least `num_steps`.

        Args:
            now: what there is to know.
            num_steps: how many of them will be taken.
            seed: of every draw.
        """


@final
@dataclass(frozen=True, kw_only=True)
class WorldActor(Actor):
    """Does what `World.plan` says.

    Args:
        world: anything that plans. It is shown the signals of its schema and no others.
        horizon: K, steps of a plan.
        warm_start: whether what is left of the last plan is proposed to the next search. Switch it off to measure
            the proposals of a world whose planner is `first_proposal`: they would never be looked at.
        propose: gives more sequences to start from, such as what was done in the logs where it looked like this: per
            action signal [W, P, K, *shape].
        tolerance: as in `Goal`.
        in_steps: as in `Goal`.
        costs: as in `Goal`; or what gives them for plans that set out at a step since the reset, such as a tariff of
            which the hours that are over are cut off.
        constraints: as in `World.plan`.
        budget_s: seconds for the plans of all W worlds together, as in `World.plan`; None for no limit but that of
            the situation.
    """

    world: World
    horizon: int
    warm_start: bool = True
    propose: Callable[[Situation], Arrays] | None = None
    tolerance: Mapping[str, float] = field(default_factory=dict)
    in_steps: bool = False
    costs: Sequence[Cost] | Callable[[int], Sequence[Cost]] = ()
    constraints: Sequence[Constraint] = ()
    budget_s: float | None = None

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """The plans, K = `horizon`.

        Raises:
            InputError: more steps are wanted than are planned, the forecast is too short, or the world refused; gives
                its reason.
        """
        if num_steps > self.horizon:
            raise InputError(f"{num_steps} steps of a plan of {self.horizon} cannot be taken. Replan more often.")
        schema, past = self.world.describe().schema, now.history
        seen = {s.name: past.observations[s.name] for s in schema.observations if s.name in past.observations}
        plan = self.world.plan(
            History(
                observations=seen,
                actions={s.name: past.actions[s.name] for s in schema.actions},
                exogenous={s.name: past.exogenous[s.name] for s in schema.exogenous if s.name in past.exogenous},
            ),
            Goal(
                targets=now.goals,
                tolerance=self.tolerance,
                in_steps=self.in_steps,
                costs=self.costs(now.step) if callable(self.costs) else self.costs,
            ),
            constraints=self.constraints,
            horizon=self.horizon,
            exogenous=self._ahead(now, schema),
            proposals=self._proposals(now),
            pending=None if now.pending is None else {s.name: now.pending[s.name] for s in schema.actions},
            budget_s=min((each for each in (self.budget_s, now.budget_s) if each is not None), default=None),
            seed=seed,
        )
        if plan.status is PlanStatus.REFUSED:
            raise InputError(f"the world refused to plan: {plan.reason}")
        return dict(plan.actions)

    def _proposals(self, now: Situation) -> Arrays | None:
        """What is left of the last plan, then what else there is."""
        found = [_prolonged(now.remaining, self.horizon)] if self.warm_start and now.remaining else []
        found += [dict(self.propose(now))] if self.propose else []
        return {name: np.concatenate([one[name] for one in found], 1) for name in found[0]} if found else None

    def _ahead(self, now: Situation, schema: Schema) -> Arrays | None:
        """As much of the forecast as a plan needs."""
        if now.forecast is None:
            return None
        steps = self.horizon + (0 if now.pending is None else next(iter(now.pending.values())).shape[1])
        known = {s.name: now.forecast[s.name] for s in schema.exogenous if s.name in now.forecast}
        for name, value in known.items():
            if value.shape[1] < steps:
                raise InputError(
                    f"the forecast of {name!r} reaches {value.shape[1]} steps ahead, and a plan needs {steps}. Give a "
                    "longer one, or plan a shorter horizon."
                )
        return {name: value[:, :steps] for name, value in known.items()}


@final
@dataclass(frozen=True, kw_only=True)
class RandomActor(Actor):
    """Acts uniformly at random within the bounds of the action signals: the floor.

    Args:
        schema: its vector actions must be bounded.
    """

    schema: Schema

    def __post_init__(self) -> None:
        for signal in self.schema.actions:
            if signal.kind is Kind.VECTOR and not np.isfinite(_bounds(signal)).all():
                raise ConfigError(f"action {signal.name!r} has no finite bounds to draw from. Give it low and high.")

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """Draws, K = `num_steps`."""
        generator, actions = np.random.default_rng(seed), {}
        for signal in self.schema.actions:
            shape = (_num_worlds(now), num_steps, *signal.shape)
            drawn = (
                generator.uniform(*_bounds(signal), shape)
                if signal.num_values is None
                else generator.integers(signal.num_values, size=shape)
            )
            actions[signal.name] = drawn.astype(signal.dtype)
        return actions


@final
@dataclass(frozen=True, kw_only=True)
class NoMoveActor(Actor):
    """Takes the action 0 all along, or what the bounds allow that is nearest to it: solved by doing nothing.

    Args:
        schema: of the actions.
    """

    schema: Schema

    def act(self, now: Situation, *, num_steps: int, seed: int) -> dict[str, NDArray[np.generic]]:
        """Zeros, K = `num_steps`."""
        del seed
        return _idle(self.schema, _num_worlds(now), num_steps)


@dataclass(frozen=True, kw_only=True)
class ControlRound:
    """One call of an actor.

    Args:
        num_worlds: W.
        elapsed_s: how long it took for all of them.
        late: whether that was longer than the answer was waited for, so that what was left of the answer before took
            its place.
    """

    num_worlds: int
    elapsed_s: float
    late: bool = False


@final
class ReplanningController:
    """Acts in W worlds at once, step by step: keeps their histories, and asks its actor anew every few steps.

    Args:
        actor: says what to do.
        schema: of the environments.
        context: H, the most observations that the actor is shown; at least 1.
        replan_every: steps that are taken of each answer; at least 1.
        repeat: how often each action is taken, at least 1: the actor's step is so many of the environment's, and it
            is shown every so many-th observation.
        delay: steps of the actor after which an action takes effect, at least 0. The actor is told which are on their
            way, at first those of no move; in the history an action stands where it took effect.
        seed: of every draw.
        clock: gives seconds that only go forward.

    Attributes:
        rounds: the last calls of the actor since the last reset.
        fresh: whether the last action is part of an answer to what was shown last.
    """

    def __init__(
        self,
        actor: Actor,
        schema: Schema,
        *,
        context: int,
        replan_every: int,
        repeat: int = 1,
        delay: int = 0,
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if context < 1 or replan_every < 1 or repeat < 1 or delay < 0:
            raise ConfigError(
                f"context {context}, replan_every {replan_every} and repeat {repeat} must be at least 1, delay {delay} "
                "at least 0."
            )
        self.actor, self.schema, self.seed = actor, schema, seed
        self.context, self.replan_every, self.repeat, self.delay = context, replan_every, repeat, delay
        self.rounds: deque[ControlRound] = deque(maxlen=NUM_ROUNDS)
        self.fresh, self._clock, self._num_asked = False, clock, 0
        self._goals: Arrays = {}
        self._observations: deque[Arrays] = deque(maxlen=context)
        self._actions: deque[Arrays] = deque(maxlen=context - 1)
        self._exogenous: deque[Arrays] = deque(maxlen=context - 1)
        self._pending: deque[Arrays] = deque(maxlen=delay)
        self._answer: Arrays | None = None
        self._num_taken, self._num_sent = 0, 0

    def reset(self, goals: Arrays, past: History | None = None) -> None:
        """Starts anew.

        Args:
            goals: per observation signal the wanted value [W, *shape].
            past: what is known of the time before the first `act`: as many actions as observations, the last of
                which leads to what `act` is shown first. None for nothing.
        """
        self._goals, self._answer, self.fresh = goals, None, False
        self._num_taken, self._num_sent, self._num_asked = 0, 0, 0
        self.rounds = deque(maxlen=NUM_ROUNDS)  # another one: whoever holds the last keeps it as it was
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
        budget_s: float | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, NDArray[np.generic]]:
        """The next action [W, *shape] of each action signal.

        Args:
            observations: what is seen now, per observation signal [W, *shape].
            exogenous: what acted from outside since the observation that was shown before, per exogenous signal
                [W, *shape]; left out at the first one, where `context` is 1, and where the schema has none.
            forecast: as in `Situation`.
            budget_s: seconds in which the actor should answer; None for no limit.
            deadline_s: seconds after which its answer is of no use: then the steps that are left of the answer before
                are taken, where there are as many as it takes, and `fresh` is False. None to wait for it.

        Raises:
            InputError: an exogenous signal is missing.
        """
        called_s, self.fresh = self._clock(), False
        if self._answer is not None and self._num_sent < self.repeat:
            self._num_sent += 1
            return _at(self._answer, self._num_taken - 1)
        if self._answer is not None and self.context > 1:
            acted = exogenous or {}
            for signal in self.schema.exogenous:
                if signal.name not in acted:
                    raise InputError(f"{signal.name!r} is missing: say what it was since the last observation.")
            self._exogenous.append({signal.name: acted[signal.name] for signal in self.schema.exogenous})
        self._observations.append(observations)
        while len(self._pending) < self.delay:
            self._pending.append(_at(_idle(self.schema, len(next(iter(observations.values()))), 1), 0))
        if self._answer is None or self._num_taken == self.replan_every:
            ends_s = None if deadline_s is None else called_s + deadline_s
            self._answer, self._num_taken = self._ask(forecast, budget_s, ends_s), 0
        action = _at(self._answer, self._num_taken)
        self._num_taken, self._num_sent = self._num_taken + 1, 1
        self._actions.append(self._pending[0] if self.delay else action)
        self._pending.append(action)
        return action

    def keep(self, worlds: NDArray[np.integer]) -> None:
        """Goes on with these of the W worlds only, in this order."""
        self._goals = _select(self._goals, worlds)
        self._observations = deque((_select(each, worlds) for each in self._observations), self.context)
        self._actions = deque((_select(each, worlds) for each in self._actions), self.context - 1)
        self._exogenous = deque((_select(each, worlds) for each in self._exogenous), self.context - 1)
        self._pending = deque((_select(each, worlds) for each in self._pending), self.delay)
        self._answer = None if self._answer is None else _select(self._answer, worlds)

    def _ask(self, forecast: Arrays | None, budget_s: float | None, ends_s: float | None) -> Arrays:
        left = None if self._answer is None else {k: v[:, self._num_taken :] for k, v in self._answer.items()}
        now = Situation(
            history=self._history(),
            goals=self._goals,
            remaining=left if left and all(value.shape[1] for value in left.values()) else None,
            pending=_stacked(self._pending) if self._pending else None,
            forecast=forecast,
            step=self._num_asked * self.replan_every,
            budget_s=budget_s,
        )
        seed = int(np.random.SeedSequence([self.seed, self._num_asked]).generate_state(1)[0])
        started_s = self._clock()
        answer = self.actor.act(now, num_steps=self.replan_every, seed=seed)
        ended_s, self._num_asked = self._clock(), self._num_asked + 1
        enough = left is not None and all(value.shape[1] >= self.replan_every for value in left.values())
        late = enough and ends_s is not None and ended_s > ends_s
        self.rounds.append(ControlRound(num_worlds=_num_worlds(now), elapsed_s=ended_s - started_s, late=late))
        self.fresh = not late
        return left if late and left is not None else answer

    def _history(self) -> History:
        observations = _stacked(self._observations)
        num_worlds = len(next(iter(observations.values())))

        def inputs(signals: Sequence[Signal], steps: deque[Arrays]) -> dict[str, NDArray[np.generic]]:
            # Before the first step a signal has no values yet, but the history still has to name it.
            return _stacked(steps) if steps else {s.name: np.zeros((num_worlds, 0, *s.shape), s.dtype) for s in signals}

        return History(
            observations=observations,
            actions=inputs(self.schema.actions, self._actions),
            exogenous=inputs(self.schema.exogenous, self._exogenous),
        )


def _at(arrays: Arrays, step: int) -> dict[str, NDArray[np.generic]]:
    """[W, *shape] of [W, T, *shape]."""
    return {name: value[:, step] for name, value in arrays.items()}


def _stacked(steps: deque[Arrays]) -> dict[str, NDArray[np.generic]]:
    """[W, T, *shape] of T arrays [W, *shape]."""
    return {name: np.stack([each[name] for each in steps], 1) for name in steps[0]}


def _idle(schema: Schema, num_worlds: int, num_steps: int) -> dict[str, NDArray[np.generic]]:
    """[W, T, *shape]: 0 all along, or what the bounds allow that is nearest to it."""
    return {
        signal.name: np.zeros((num_worlds, num_steps, *signal.shape), signal.dtype).clip(
            *_bounds(signal), dtype=signal.dtype, casting="unsafe"
        )
        for signal in schema.actions
    }


def _select(arrays: Arrays, worlds: NDArray[np.integer]) -> dict[str, NDArray[np.generic]]:
    return {name: value[worlds] for name, value in arrays.items()}


def _prolonged(remaining: Arrays, horizon: int) -> dict[str, NDArray[np.generic]]:
    """One proposal [W, 1, T, *shape]: `remaining` [W, R, *shape], its last step repeated as often as it takes."""
    step = {name: np.minimum(np.arange(horizon), value.shape[1] - 1) for name, value in remaining.items()}
    return {name: value[:, step[name]][:, None] for name, value in remaining.items()}


def _num_worlds(now: Situation) -> int:
    return len(next(iter(now.history.observations.values())))


def _bounds(signal: Signal) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Low and high, each [*shape]; infinite where there is none, 0 and the last value for a discrete signal."""
    if signal.num_values is not None:
        return np.zeros(()), np.full((), signal.num_values - 1.0)
    low, high = signal.low or (-np.inf,) * signal.size, signal.high or (np.inf,) * signal.size
    return np.array(low).reshape(signal.shape), np.array(high).reshape(signal.shape)
