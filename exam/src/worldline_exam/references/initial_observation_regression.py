"""Engine that regresses the logs on the first observation and ignores everything since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, own_belief
from worldline.episode import Arrays, Episode, History
from worldline.schema import Schema
from worldline_exam.references.base import ReferenceEngine, reference_card

Floats = NDArray[np.floating]
Terms = Literal["linear", "products", "kernel"]
When = Literal["any", "late", "each"]

RIDGE: Final = 1e-3
"""Ridge penalty per fitted row, for standardised inputs."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InitialObservationRegression(ReferenceEngine):
    """Predicts the mean of the logs given the first observation, independent of later actions and observations.

    Args:
        schema: schema of the logs.
        inputs: names of the input signals, vectors.
        terms: terms of the regression: "linear"; "products", with products of input pairs; or "kernel", Gaussian
            kernels around each logged first observation, which fit any smooth function.
        centre: [F], mean of the concatenated inputs.
        scale: [F], their scale, above 0.
        kernels: [M, F], standardised centres of the kernels.
        weights: per signal [N, K, D], weights of the K terms for each frame of an episode; the last frame also
            serves all later ones. N is 1 if one answer serves all frames.
    """

    schema: Schema
    inputs: tuple[str, ...]
    terms: Terms
    centre: Floats
    scale: Floats
    kernels: Floats
    weights: Arrays

    @classmethod
    def fit(
        cls,
        episodes: Sequence[Episode],
        schema: Schema,
        *,
        inputs: Sequence[str],
        predicts: Sequence[str],
        terms: Terms,
        when: When,
        late: int = 0,
    ) -> InitialObservationRegression:
        """Fits one answer to all frames, one to the frames from `late` on, or one to each frame.

        Args:
            episodes: episodes of equal length.
            schema: their schema.
            inputs: see the class.
            predicts: names of the predicted vector signals.
            terms: see the class.
            when: "any" for all frames, "late" for frames from `late` on, "each" for one answer per frame.
            late: first fitted frame for "late".
        """
        first = np.stack([np.concatenate([episode.observations[name][0] for name in inputs]) for episode in episodes])
        first = first.astype(float)
        spread = first.std(0)
        scale, centre = np.where(spread > 0, spread, 1.0), first.mean(0)
        kernels = (first - centre) / scale if terms == "kernel" else np.zeros((0, first.shape[1]))
        engine = cls(
            schema=schema, inputs=tuple(inputs), terms=terms, centre=centre, scale=scale, kernels=kernels, weights={}
        )
        design, weights = engine._design(first), dict[str, NDArray[np.generic]]()
        for name in predicts:
            value = np.stack([episode.observations[name] for episode in episodes]).astype(float)
            seen = np.stack([episode.mask(name) for episode in episodes])
            frames = [slice(frame, frame + 1) for frame in range(value.shape[1])]
            fitted = {"any": [slice(None)], "late": [slice(late, None)], "each": frames}[when]
            weights[name] = np.stack([_ridge(design, value[:, rows], seen[:, rows]) for rows in fitted])
        return replace(engine, weights=weights)

    def describe(self) -> Card:
        """The card of this engine."""
        name = "initial observation regression"
        return reference_card(name, self.schema, tuple(self.weights), inputs=self.inputs, action_conditioned=False)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Floats:
        """The first observation and the number of observations [W, F + 1]."""
        del seed  # nothing is drawn
        values = [steps.observations[name] for name in self.inputs]
        if isinstance(belief, np.ndarray):
            return np.concatenate([belief[:, :-1], belief[:, -1:] + values[0].shape[1]], 1)
        first = np.concatenate([value[:, 0].astype(float) for value in values], -1)
        return np.concatenate([first, np.full((len(first), 1), values[0].shape[1])], 1)

    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """The same answer for all actions."""
        belief = own_belief(belief, np.ndarray)
        versions, steps = next(iter(actions.values())).shape[1:3]
        design, frames = self._design(belief[:, :-1]), belief[:, -1:].astype(int) + np.arange(steps)
        predicted = {}
        for name, weights in self.weights.items():
            every = np.einsum("wk,nkd->wnd", design, weights.astype(float))
            path = np.take_along_axis(every, np.minimum(frames, len(weights) - 1)[..., None], 1)
            predicted[name] = np.repeat(path[:, None], versions, 1)
        return predicted

    def _design(self, first: Float[np.ndarray, "M F"]) -> Float[np.ndarray, "M K"]:
        inputs = (first - self.centre) / self.scale
        ones = np.ones((len(inputs), 1))
        if self.terms == "linear":
            return np.concatenate([inputs, ones], 1)
        if self.terms == "products":
            left, right = np.triu_indices(inputs.shape[1])
            return np.concatenate([inputs[:, left] * inputs[:, right], inputs, ones], 1)
        apart = (inputs**2).sum(1)[:, None] + (self.kernels**2).sum(1) - 2 * inputs @ self.kernels.T
        return np.concatenate([np.exp(-apart / inputs.shape[1]), ones], 1)


def _ridge(
    design: Float[np.ndarray, "M K"], value: Float[np.ndarray, "M T D"], seen: Bool[np.ndarray, "M T"]
) -> Float[np.ndarray, "K D"]:
    """Ridge weights for all observed values; zeros if there are none."""
    often = seen.sum(1).astype(float)
    total = np.where(seen[..., None], value, 0.0).sum(1)
    square = (design * often[:, None]).T @ design + RIDGE * max(often.sum(), 1.0) * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(square, design.T @ total))
