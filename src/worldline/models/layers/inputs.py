"""The inputs of a step as concatenated z-scores: actions, exogenous signals and, optionally, the step's duration."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.models.base import Inputs
from worldline.models.layers.normaliser import Normaliser
from worldline.schema import Schema


class InputNormaliser(nn.Module):
    """Concatenated z-scores of the inputs of a step.

    Args:
        schema: actions and exogenous signals are used in its order.
        timed: whether the duration of the step is an input.
    """

    def __init__(self, schema: Schema, *, timed: bool = False) -> None:
        super().__init__()
        self.signals = (*schema.actions, *schema.exogenous)
        self.actions = Normaliser(sum(signal.size for signal in schema.actions))
        self.exogenous = Normaliser(sum(signal.size for signal in schema.exogenous))
        self.step_s = Normaliser(1) if timed else None
        self.num_actions = len(self.actions.mean)
        self.size = self.num_actions + len(self.exogenous.mean) + int(timed)

    def fit(self, past: Inputs) -> None:
        """Fits means and standard deviations on the inputs of a window, N = 1."""
        self.actions.fit(past.actions.flatten(0, 2))
        if past.exogenous is not None:
            self.exogenous.fit(past.exogenous.flatten(0, 1))
        if self.step_s is not None:
            self.step_s.fit(past.step_s.flatten()[:, None])

    def forward(self, inputs: Inputs) -> Float[Tensor, "B N T I"]:
        """z-scores of actions, exogenous signals and duration."""
        parts = [self.actions(inputs.actions)]
        versions = parts[0].shape[1]
        if inputs.exogenous is not None:
            parts.append(self.exogenous(inputs.exogenous)[:, None].expand(-1, versions, -1, -1))
        if self.step_s is not None:
            parts.append(self.step_s(inputs.step_s[..., None])[:, None].expand(-1, versions, -1, -1))
        return torch.cat(parts, -1)

    def inverse(self, scores: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead inputs"]:
        """Actions and exogenous signals in physical units, without the duration."""
        actions, others = scores[..., : self.num_actions], scores[..., self.num_actions :]
        exogenous = others[..., : len(self.exogenous.mean)]
        return torch.cat([self.actions.inverse(actions), self.exogenous.inverse(exogenous)], -1)
