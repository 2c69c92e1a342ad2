"""Base class of reference engines: deterministic, with one sample for each version of the future."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines import Card, EngineBelief, Noise, NumpyEngine, Samples, check_future, check_observations
from worldline.episode import Arrays, Future, History
from worldline.schema import Kind, Schema


class ReferenceEngine(NumpyEngine):
    """Answers with one sample, S = 1. The belief is the last observation unless a subclass has another one."""

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Any:
        """The last observation of each input signal [W, *shape]."""
        del belief, seed
        card = self.describe()
        check_observations(steps, [card.schema[name] for name in card.inputs])
        return {name: steps.observations[name][:, -1] for name in card.inputs}

    @abstractmethod
    def predict(self, belief: EngineBelief, actions: Arrays) -> Arrays:
        """Predictions [W, N, T, *shape] or [W * N, T, *shape] per signal.

        Args:
            belief: from `observe`.
            actions: per signal [W, N, T, *shape].

        Raises:
            InputError: the belief is of another engine.
        """

    @final
    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The prediction of each version as its only sample."""
        del num_samples, noise, seed  # deterministic
        schema = self.describe().schema
        size = check_future(future, schema)
        lead = (size.num_worlds, size.num_versions, 1, size.horizon)
        predicted = self.predict(belief, future.actions)
        return Samples(signals={n: v.reshape(lead + schema[n].shape).astype(np.float32) for n, v in predicted.items()})


def reference_card(
    name: str,
    schema: Schema,
    signals: Sequence[str] | None = None,
    *,
    inputs: Sequence[str] | None = None,
    context: int = 1,
    action_conditioned: bool = True,
) -> Card:
    """The card of a reference.

    Args:
        name: of the reference.
        schema: of the lab.
        signals: predicted signals; None for all vector observations.
        inputs: signals that it reads; None for those that it predicts.
        context: see `Card`.
        action_conditioned: see `Card`.
    """
    predicts = vectors_of(schema) if signals is None else tuple(signals)
    return Card(
        name=name,
        engine=name.replace(" ", "_"),
        schema=schema,
        inputs=predicts if inputs is None else tuple(inputs),
        predicts=predicts,
        context=context,
        deterministic=True,
        action_conditioned=action_conditioned,
    )


def vectors_of(schema: Schema) -> tuple[str, ...]:
    """Names of the vector observations."""
    return tuple(signal.name for signal in schema.observations if signal.kind is Kind.VECTOR)


def each_version(values: Arrays, actions: Arrays) -> dict[str, NDArray[np.generic]]:
    """Values [W, ...] repeated for the N versions of each world [W * N, ...]."""
    num_versions = next(iter(actions.values())).shape[1]
    return {name: np.repeat(value, num_versions, 0) for name, value in values.items()}


def flat(actions: Arrays) -> dict[str, NDArray[np.generic]]:
    """Actions [W, N, T, *shape] as [W * N, T, *shape]."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in actions.items()}
