"""A model for tests that need a part of one."""

from __future__ import annotations

import torch
from torch import Tensor

from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel


class PartialModel(WorldModel):
    """Answers nothing, so that a toy defines what its test calls, and any other call of the code under test fails."""

    def fit_normaliser(self, window: Window) -> None:
        raise NotImplementedError

    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        raise NotImplementedError

    def update(self, belief: Belief, step: Window, *, generator: torch.Generator) -> Belief:
        raise NotImplementedError

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        raise NotImplementedError

    def belief(self, features: Tensor) -> Belief:
        raise NotImplementedError

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        raise NotImplementedError
