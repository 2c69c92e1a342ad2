"""A small network that predicts how all inputs change in one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldline.config import Size
from worldline.models import (
    Belief,
    InputNormaliser,
    Inputs,
    LatentRollout,
    Losses,
    ModelConfig,
    Standardizer,
    Window,
    WorldModel,
    vector_signals,
)
from worldline.schema import Schema


@dataclass(frozen=True, kw_only=True)
class DriftConfig(ModelConfig):
    """Size of the model.

    Args:
        width: units of the hidden layer.
    """

    width: Size = 64


@dataclass(frozen=True, kw_only=True)
class DriftBelief(Belief):
    """The present values [B, D], as z-scores."""

    values: Tensor

    def features(self) -> Tensor:
        """The latent [B, S, D]; S is 1."""
        return self.values[:, None]


class Drift(WorldModel):
    """Predicts the next values from the present ones and the inputs of the step."""

    Config = DriftConfig

    def __init__(self, *, schema: Schema, config: DriftConfig) -> None:
        super().__init__()
        self.config = config
        self.values = Standardizer(vector_signals(schema, config.inputs, family="drift"))
        self.inputs = InputNormaliser(schema)
        size, width = len(self.values.owner), config.width
        self.network = nn.Sequential(nn.Linear(size + self.inputs.size, width), nn.GELU(), nn.Linear(width, size))

    def fit_normaliser(self, window: Window) -> None:
        """Fits means and standard deviations."""
        self.values.fit(window.observations, window.observed)
        self.inputs.fit(window.past)

    def encode(self, window: Window, *, generator: torch.Generator) -> DriftBelief:
        """The last values; a missing value is replaced by its prediction, and the first one by the mean."""
        seen, known = self.values(window.observations, window.observed), self.known(window.observed)
        inputs = self.inputs(window.past)[:, 0]
        values = seen[:, 0].where(known[:, 0], torch.zeros_like(seen[:, 0]))
        for step in range(inputs.shape[1]):
            values = seen[:, step + 1].where(known[:, step + 1], self.next(values, inputs[:, step]))
        return DriftBelief(values=values)

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> DriftBelief:
        """One step of `encode`."""
        predicted = self.next(belief.features()[:, 0], self.inputs(step.past)[:, 0, 0])
        seen, known = self.values(step.observations, step.observed)[:, 0], self.known(step.observed)[:, 0]
        return DriftBelief(values=seen.where(known, predicted))

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        """Repeated predictions for each of N candidates."""
        batch, candidates, horizon, _ = inputs.actions.shape
        steps = self.inputs(inputs).flatten(0, 1)
        values, path = belief.features()[:, 0].repeat_interleave(candidates, 0), []
        for step in range(horizon):
            values = self.next(values, steps[:, step])
            path.append(values)
        features = torch.stack(path, 1).unflatten(0, (batch, candidates))[:, :, None]
        return LatentRollout(features=features, final=DriftBelief(values=values))

    def belief(self, features: Tensor) -> DriftBelief:
        """The belief of stored features [B, D]."""
        return DriftBelief(values=features)

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        """Mean squared error of the rollout from the first observation, over observed values."""
        start = self.encode(window.first(1), generator=generator)
        path = self.rollout(start, window.past, generator=generator).features[:, 0, 0]
        known = self.known(window.observed)[:, 1:]
        squared = (path - self.values(window.observations, window.observed)[:, 1:]).square() * known
        return Losses(terms={"error": squared.sum() / known.sum().clamp(min=1)}, weights={"error": 1.0})

    def next(self, values: Tensor, inputs: Tensor) -> Tensor:
        """The values one step later."""
        return torch.as_tensor(values + self.network(torch.cat([values, inputs], -1)))

    def known(self, observed: Mapping[str, Tensor]) -> Tensor:
        """Whether each value was observed."""
        return torch.stack([observed[self.config.inputs[owner]] for owner in self.values.owner], -1)
