"""The gusty puck for who knows its law: the friction is inferred from the history, gusts are not foretold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines import (
    Card,
    Engine,
    EngineBelief,
    Noise,
    Samples,
    check_future,
    check_inputs,
    check_observations,
    own_belief,
)
from worldline.episode import Arrays, Future, History
from worldline.errors import InputError
from worldline_exam.labs.gusty_puck import MAX_PUSH, GustyPuck
from worldline_exam.scenes.puck import SIGNALS

Floats = NDArray[np.floating]

NUM_FRICTIONS: Final = 41
"""Values of the friction that are weighed against each other, evenly over its range."""
BATCH: Final = 1000
"""Worlds weighed at once; bounds memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighed:
    """The belief about W pucks.

    Args:
        state: the last observation of each signal [W, 2].
        evidence: log likelihood [W, G] of each friction, up to a constant.
    """

    state: Arrays
    evidence: Floats


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PuckOracle(Engine):
    """Predicts the mean over the posterior of the friction; exact but for the grid.

    The likelihood is that of the velocities, which the gusts scatter. What the positions tell beside them is not used:
    gusts that last for a step make them a second equation for the same gust, and who solves both to all digits knows
    the friction after one step. That holds of this law to the last digit or not at all.

    Args:
        lab: whose settings are known.
        context: observations that it wants.
    """

    lab: GustyPuck
    context: int = 8

    @property
    def frictions(self) -> Float[np.ndarray, "G"]:
        """The grid, 1/s."""
        low, high = self.lab.friction
        return np.asarray(low + (high - low) * (np.arange(NUM_FRICTIONS) + 0.5) / NUM_FRICTIONS)

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="knows the law",
            engine="knowing_puck",
            schema=self.lab.schema,
            inputs=SIGNALS,
            predicts=SIGNALS,
            context=self.context,
            deterministic=True,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Weighed:
        """The frictions weighed by each step of the history; see `Engine`.

        Raises:
            InputError: something was not observed.
        """
        del seed  # nothing is drawn
        schema = self.lab.schema
        num_worlds, length = check_observations(steps, [schema[name] for name in SIGNALS])
        check_inputs(steps, schema, length - 1 if belief is None else length)
        if not all(mask.all() for mask in steps.observed.values()):
            raise InputError("an observation is missing, and this engine weighs complete histories only.")
        path = {name: steps.observations[name].astype(float) for name in SIGNALS}
        evidence: Floats = np.zeros((num_worlds, NUM_FRICTIONS))
        if belief is not None:
            before = own_belief(belief, Weighed)
            path = {name: np.concatenate([before.state[name][:, None], value], 1) for name, value in path.items()}
            evidence = before.evidence
        pushes = steps.actions["push"].astype(float)
        rows = [slice(first, first + BATCH) for first in range(0, num_worlds, BATCH)]
        found = [self._evidence({name: value[part] for name, value in path.items()}, pushes[part]) for part in rows]
        return Weighed(
            state={name: value[:, -1] for name, value in path.items()}, evidence=evidence + np.concatenate(found)
        )

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The posterior mean, S = 1; see `Engine`."""
        del num_samples, noise, seed  # deterministic
        known, size = own_belief(belief, Weighed), check_future(future, self.lab.schema)
        weights = np.exp(known.evidence - known.evidence.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        lead = (size.num_worlds, size.num_versions, NUM_FRICTIONS, 2)
        position, velocity = (np.broadcast_to(known.state[name][:, None, None].astype(float), lead) for name in SIGNALS)
        path: dict[str, list[Floats]] = {name: [] for name in SIGNALS}
        for step in range(size.horizon):
            force = self._force(future.actions["push"][:, :, step].astype(float))[:, :, None]
            position, velocity = self.lab.move(position, velocity, force, self.frictions)
            for name, value in zip(SIGNALS, (position, velocity), strict=True):
                path[name].append(np.einsum("wngc,wg->wnc", value, weights))
        return Samples(signals={n: np.stack(v, 2)[:, :, None].astype(np.float32) for n, v in path.items()})

    def _force(self, pushes: Floats) -> Floats:
        return np.clip(pushes, -MAX_PUSH, MAX_PUSH) + self.lab.tilt

    def _evidence(self, path: Arrays, pushes: Floats) -> Float[np.ndarray, "W G"]:
        """The log likelihood of the velocities [W, H, 2] under gusts of the lab's deviation."""
        position, velocity = (path[name][:, :-1, None].astype(float) for name in SIGNALS)
        due = self.lab.move(position, velocity, self._force(pushes)[:, :, None], self.frictions)[1]
        nothing = np.zeros((NUM_FRICTIONS, 2))
        by_one = self.lab.move(nothing, nothing, nothing + 1, self.frictions)[1]
        deviation = self.lab.gust * by_one
        off = (path["puck_velocity"][:, 1:, None].astype(float) - due) / deviation
        return np.asarray(-(0.5 * off**2 + np.log(deviation)).sum((1, 3)))
