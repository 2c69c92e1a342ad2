"""A lab as an engine, with its true dynamics, distance and expert: the upper bound for learned engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines.base import Card, EngineBelief, Noise, Samples
from worldline.engines.numpy_engine import NumpyEngine, NumpyGoalDistance
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Future, History
from worldline.errors import UnsupportedError
from worldline.labs.base import SolvedLab
from worldline.schema import Kind, Signal


@dataclass(frozen=True, kw_only=True, eq=False)
class LabState:
    """The belief: the state of W worlds.

    Args:
        state: per vector observation signal [W, *shape].
        known: [W], whether the observations determine the state.
    """

    state: Arrays
    known: NDArray[np.bool_]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OracleEngine(NumpyEngine, NumpyGoalDistance):
    """Simulates a batch of worlds by `SolvedLab.simulate`; predicts vector signals, no images.

    Args:
        lab: a lab whose vector observation signals are its complete state.
    """

    lab: SolvedLab

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The vector observation signals, which are the state."""
        return tuple(signal for signal in self.lab.schema.observations if signal.kind is Kind.VECTOR)

    def describe(self) -> Card:
        """The signals and abilities of this engine."""
        return Card(
            name="oracle",
            engine="oracle",
            schema=self.lab.schema,
            inputs=tuple(signal.name for signal in self.signals),
            predicts=tuple(signal.name for signal in self.signals),
            context=1,
            deterministic=True,
            abilities=("reaches",),
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> LabState:
        """The last state; missing values are simulated from earlier observations."""
        num_worlds, length = check_observations(steps, self.signals)
        observed = {signal.name: steps.mask(signal.name) for signal in self.signals}
        if all(mask[:, -1].all() for mask in observed.values()):
            state = {signal.name: steps.observations[signal.name][:, -1] for signal in self.signals}
            return LabState(state=state, known=np.ones(num_worlds, bool))
        check_inputs(steps, self.lab.schema, length - 1 if belief is None else length)
        if belief is None:
            zeros = {s.name: np.zeros((num_worlds, *s.shape), np.float32) for s in self.signals}
            return self._fold(LabState(state=zeros, known=np.zeros(num_worlds, bool)), steps, observed, first_input=-1)
        return self._fold(own_belief(belief, LabState), steps, observed, first_input=0)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The simulated states: one sample, S = 1.

        Raises:
            UnsupportedError: the state of a world was never observed.
        """
        state = self._state(belief)
        size = check_future(future, self.lab.schema)
        actions = {name: value.reshape(-1, *value.shape[2:]) for name, value in future.actions.items()}
        start = {name: np.repeat(value, size.num_versions, 0) for name, value in state.items()}
        path = self.lab.simulate(start, actions)
        shape = (size.num_worlds, size.num_versions, 1, size.horizon)
        return Samples(signals={s.name: path[s.name].reshape(shape + s.shape) for s in self.signals})

    def distance(self, belief: EngineBelief, future: Future, goal: Arrays, *, seed: int) -> Float[np.ndarray, "W N T"]:
        """True steps from each state to `goal`; state signals that the goal leaves out keep their present value.

        Raises:
            UnsupportedError: the goal names no state signal.
        """
        predicted = self.imagine(belief, future, num_samples=1, seed=seed).signals
        shape = next(iter(predicted.values())).shape[:4]
        target = self._complete_goal(belief, goal)
        states = {s.name: predicted[s.name].reshape(-1, *s.shape) for s in self.signals}
        goals = {s.name: np.repeat(target[s.name], shape[1] * shape[3], 0) for s in self.signals}
        steps = self.lab.steps_to_goal(states, goals)
        return np.asarray(steps, dtype=np.float32).reshape(shape[0], shape[1], shape[3])

    def propose(
        self,
        belief: EngineBelief,
        goal: Arrays,
        horizon: int,
        *,
        num_proposals: int,
        pending: Arrays | None = None,
        budget_s: float | None = None,
        seed: int,
    ) -> Mapping[str, NDArray[np.generic]]:
        """The expert's actions, P = 1. They are fast enough to ignore `budget_s`."""
        state = self._state(belief)
        if pending is not None:
            state = {name: path[:, -1] for name, path in self.lab.simulate(state, pending).items()}
        actions = self.lab.expert(state, self._complete_goal(belief, goal), horizon)
        return {name: value[:, None] for name, value in actions.items()}

    def _state(self, belief: EngineBelief) -> Arrays:
        present = own_belief(belief, LabState)
        if not present.known.all():
            world = int(np.flatnonzero(~present.known)[0])
            raise UnsupportedError(f"world {world}: its state was never observed completely. Give a longer history.")
        return present.state

    def _complete_goal(self, belief: EngineBelief, goal: Arrays) -> Arrays:
        """`goal`, with missing signals filled from the present state."""
        state = self._state(belief)
        if not any(name in state for name in goal):
            raise UnsupportedError(f"the oracle has no distance to a goal of {sorted(goal)}. Add {' or '.join(state)}.")
        return {name: goal.get(name, value) for name, value in state.items()}

    def _fold(self, present: LabState, steps: History, observed: Arrays, *, first_input: int) -> LabState:
        """The state after the last observation; missing values are simulated step by step."""
        state, known = present.state, present.known
        for step in range(next(iter(observed.values())).shape[1]):
            if first_input + step >= 0:
                inputs = {name: value[:, first_input + step][:, None] for name, value in steps.actions.items()}
                state = {name: value[:, 0] for name, value in self.lab.simulate(state, inputs).items()}
            masks = {name: mask[:, step].astype(bool) for name, mask in observed.items()}
            seen = {signal.name: steps.observations[signal.name][:, step] for signal in self.signals}
            state = {name: np.where(masks[name][:, None], value, state[name]) for name, value in seen.items()}
            known = known | np.logical_and.reduce(list(masks.values()))
        return LabState(state=state, known=known)
