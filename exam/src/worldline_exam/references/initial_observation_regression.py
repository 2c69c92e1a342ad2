"""An engine for exams: remembers the first observation, regresses the logs on it, and follows nothing since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, final

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from worldline.engines import Card, Engine, EngineBelief, Noise, Samples, own_belief
from worldline.episode import Arrays, Episode, Future, History
from worldline.schema import Schema

Floats = NDArray[np.floating]
Terms = Literal["linear", "products", "kernel"]
When = Literal["any", "late", "each"]

RIDGE: Final = 1e-3
"""For each row that is fitted, beside standardised inputs."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InitialObservationRegression(Engine):
    """Says what the logs hold, on average, where the first observation was such; whatever was done and seen since.

    Args:
        schema: of the logs.
        inputs: names of the signals that it looks at, vectors.
        terms: of the regression: "linear"; "products", with those of each two inputs; or "kernel", Gaussian ones
            around each logged first observation, which fit any smooth function.
        centre: [F] of the inputs side by side.
        scale: [F], above 0.
        kernels: [M, F] standardised, where the kernels are.
        weights: per signal [N, K, D]: of the K terms, for each frame of an episode from the first on, the last for all
            that follow; N is 1 where the answer is one for all frames.
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
        """Fits one answer to what was observed at any time, or from frame `late` on, or one answer to each frame.

        Args:
            episodes: of one length.
            schema: of them.
            inputs: see the class.
            predicts: names of the vector signals that are regressed.
            terms: see the class.
            when: of what the answers are.
            late: frame from which on "late" ones are fitted.
        """
        first = np.stack([np.concatenate([one.observations[name][0] for name in inputs]) for one in episodes])
        first = first.astype(float)
        spread = first.std(0)
        scale, centre = np.where(spread > 0, spread, 1.0), first.mean(0)
        kernels = (first - centre) / scale if terms == "kernel" else np.zeros((0, first.shape[1]))
        engine = cls(
            schema=schema, inputs=tuple(inputs), terms=terms, centre=centre, scale=scale, kernels=kernels, weights={}
        )
        design, weights = engine._design(first), dict[str, NDArray[np.generic]]()
        for name in predicts:
            value = np.stack([one.observations[name] for one in episodes]).astype(float)
            seen = np.stack([one.observed.get(name, np.ones(len(one.observations[name]), bool)) for one in episodes])
            frames = [slice(frame, frame + 1) for frame in range(value.shape[1])]
            asked = {"any": [slice(None)], "late": [slice(late, None)], "each": frames}[when]
            weights[name] = np.stack([_ridge(design, value[:, rows], seen[:, rows].astype(bool)) for rows in asked])
        return replace(engine, weights=weights)

    def describe(self) -> Card:
        """What this engine is."""
        return Card(
            name="first sight",
            engine="first_sight",
            schema=self.schema,
            inputs=self.inputs,
            predicts=tuple(self.weights),
            context=1,
            deterministic=True,
            action_conditioned=False,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Floats:
        """The first observation and how many there were [W, F + 1]; see `Engine`."""
        del seed  # nothing is drawn
        shown = [steps.observations[name] for name in self.inputs]
        if isinstance(belief, np.ndarray):
            return np.concatenate([belief[:, :-1], belief[:, -1:] + shown[0].shape[1]], 1)
        first = np.concatenate([value[:, 0].astype(float) for value in shown], -1)
        return np.concatenate([first, np.full((len(first), 1), shown[0].shape[1])], 1)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """One sample, S = 1, alike for all actions; see `Engine`.

        Raises:
            InputError: the belief is none of this engine's.
        """
        del num_samples, noise, seed
        belief = own_belief(belief, np.ndarray)
        versions, steps = next(iter(future.actions.values())).shape[1:3]
        design, frames = self._design(belief[:, :-1]), belief[:, -1:].astype(int) + np.arange(steps)
        signals = {}
        for name, weights in self.weights.items():
            every = np.einsum("wk,nkd->wnd", design, weights.astype(float))
            path = np.take_along_axis(every, np.minimum(frames, len(weights) - 1)[..., None], 1)
            signals[name] = np.repeat(path[:, None, None], versions, 1).astype(np.float32)
        return Samples(signals=signals)

    def _design(self, first: Float[np.ndarray, "M F"]) -> Float[np.ndarray, "M K"]:
        inputs = (first - self.centre) / self.scale
        one = np.ones((len(inputs), 1))
        if self.terms == "linear":
            return np.concatenate([inputs, one], 1)
        if self.terms == "products":
            left, right = np.triu_indices(inputs.shape[1])
            return np.concatenate([inputs[:, left] * inputs[:, right], inputs, one], 1)
        apart = (inputs**2).sum(1)[:, None] + (self.kernels**2).sum(1) - 2 * inputs @ self.kernels.T
        return np.concatenate([np.exp(-apart / inputs.shape[1]), one], 1)


def _ridge(
    design: Float[np.ndarray, "M K"], value: Float[np.ndarray, "M T D"], seen: Bool[np.ndarray, "M T"]
) -> Float[np.ndarray, "K D"]:
    """The weights that fit every value that was seen; zeros where none was."""
    often = seen.sum(1).astype(float)
    total = np.where(seen[..., None], value, 0.0).sum(1)
    square = (design * often[:, None]).T @ design + RIDGE * max(often.sum(), 1.0) * np.eye(design.shape[1])
    return np.asarray(np.linalg.solve(square, design.T @ total))
