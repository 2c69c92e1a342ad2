"""A model for tests that need a part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldline.models.base import Belief, Inputs, LatentRollout, Losses, Window, WorldModel

Seen = Mapping[str, Tensor]
"""Values or masks of one observation, per signal."""


class PartialModel(WorldModel):
    """Answers nothing, so that a toy defines what its test calls, and any other call of the code under test fails."""

    def fit_normaliser(self, window: Window) -> None:
        raise NotImplementedError

    def encode(self, window: Window, *, generator: torch.Generator) -> Belief:
        raise NotImplementedError

    def update(self, belief: Belief, inputs: Inputs, observation: Seen, observed: Seen, *, generator: Any) -> Belief:
        raise NotImplementedError

    def rollout(self, belief: Belief, inputs: Inputs, *, generator: torch.Generator) -> LatentRollout:
        raise NotImplementedError

    def belief(self, features: Tensor) -> Belief:
        raise NotImplementedError

    def loss(self, window: Window, *, generator: torch.Generator) -> Losses:
        raise NotImplementedError
