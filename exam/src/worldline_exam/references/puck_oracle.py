"""Oracle of the gusty puck: infers the friction from the history and does not predict gusts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, History
from worldline.errors import InputError
from worldline_exam.labs.gusty_puck import MAX_PUSH, GustyPuck
from worldline_exam.references.base import ReferenceEngine, reference_card
from worldline_exam.scenes.puck import SIGNALS

Floats = NDArray[np.floating]

NUM_FRICTIONS: Final = 41
"""Number of grid points of the friction, evenly over its range."""
BATCH: Final = 1000
"""Worlds per batch; bounds memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrictionBelief:
    """The belief about W pucks.

    Args:
        state: the last observation of each signal [W, 2].
        evidence: log likelihood [W, G] of each friction, up to a constant.
    """

    state: Arrays
    evidence: Floats


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PuckOracle(ReferenceEngine):
    """Predicts the mean over the posterior of the friction, exact up to the grid.

    The likelihood uses only the velocities, which the gusts scatter. Positions would be a second equation for the same
    gust, which lasts for a step. Solving both gives the friction after one step, but only for this exact law.

    Args:
        lab: lab with known settings.
        context: number of observations on the card.
    """

    lab: GustyPuck
    context: int = 8

    @property
    def frictions(self) -> Float[np.ndarray, "G"]:
        """The grid of frictions, 1/s."""
        low, high = self.lab.friction
        return np.asarray(low + (high - low) * (np.arange(NUM_FRICTIONS) + 0.5) / NUM_FRICTIONS)

    def describe(self) -> Card:
        """The card of this engine."""
        return reference_card("puck oracle", self.lab.schema, SIGNALS, context=self.context)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> FrictionBelief:
        """Updates the likelihood of each friction by the steps of the history.

        Raises:
            InputError: an observation is missing.
        """
        del seed  # nothing is drawn
        schema = self.lab.schema
        num_worlds, length = check_observations(steps, [schema[name] for name in SIGNALS])
        check_inputs(steps, schema, length - 1 if belief is None else length)
        if not all(mask.all() for mask in steps.observed.values()):
            raise InputError("an observation is missing, and this engine needs complete histories.")
        path = {name: steps.observations[name].astype(float) for name in SIGNALS}
        evidence: Floats = np.zeros((num_worlds, NUM_FRICTIONS))
        if belief is not None:
            before = own_belief(belief, FrictionBelief)
            path = {name: np.concatenate([before.state[name][:, None], value], 1) for name, value in path.items()}
            evidence = before.evidence
        pushes = steps.actions["push"].astype(float)
        rows = [slice(first, first + BATCH) for first in range(0, num_worlds, BATCH)]
        parts = [self._evidence({name: value[part] for name, value in path.items()}, pushes[part]) for part in rows]
        return FrictionBelief(
            state={name: value[:, -1] for name, value in path.items()}, evidence=evidence + np.concatenate(parts)
        )

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The posterior mean."""
        known, pushes = own_belief(belief, FrictionBelief), actions["push"].astype(float)
        weights = np.exp(known.evidence - known.evidence.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        lead = (*pushes.shape[:2], NUM_FRICTIONS, 2)
        position, velocity = (np.broadcast_to(known.state[name][:, None, None].astype(float), lead) for name in SIGNALS)
        path: dict[str, list[Floats]] = {name: [] for name in SIGNALS}
        for step in range(pushes.shape[2]):
            force = self._force(pushes[:, :, step])[:, :, None]
            position, velocity = self.lab.move(position, velocity, force, self.frictions)
            for name, value in zip(SIGNALS, (position, velocity), strict=True):
                path[name].append(np.einsum("wngc,wg->wnc", value, weights))
        return {name: np.stack(value, 2) for name, value in path.items()}

    def _force(self, pushes: Floats) -> Floats:
        return np.clip(pushes, -MAX_PUSH, MAX_PUSH) + self.lab.tilt

    def _evidence(self, path: Arrays, pushes: Floats) -> Float[np.ndarray, "W G"]:
        """Log likelihood [W, G] of the velocities under gusts of the lab's standard deviation."""
        position, velocity = (path[name][:, :-1, None].astype(float) for name in SIGNALS)
        expected = self.lab.move(position, velocity, self._force(pushes)[:, :, None], self.frictions)[1]
        zeros = np.zeros((NUM_FRICTIONS, 2))
        unit_response = self.lab.move(zeros, zeros, zeros + 1, self.frictions)[1]
        deviation = self.lab.gust * unit_response
        z_scores = (path["puck_velocity"][:, 1:, None].astype(float) - expected) / deviation
        return np.asarray(-(0.5 * z_scores**2 + np.log(deviation)).sum((1, 3)))
