"""The inverse-dynamics head: the next action towards a goal, given the number of remaining steps.

It minimises the distance over the remaining steps, by gradients through the model.

Source: goal-conditioned inverse model with the number of remaining steps as input (arXiv 2605.08732).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size
from worldline.device import autocast
from worldline.models.layers.mlp import mlp
from worldline.training.heads.base import Fit, Head, HeadData, descend
from worldline.training.heads.distance import Distance, ignore_inputs

LAST_STEP_WEIGHT: Final = 1.0
"""Additional weight of the distance after the last remaining step; all steps have weight 1."""


@dataclass(frozen=True, kw_only=True)
class InverseConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        low: smallest value of each action component, physical units.
        high: largest value of each action component, physical units.
        width: units of the three hidden layers.
        longest: maximum number of remaining steps; larger numbers are clipped to it.
    """

    latent_size: Size
    low: tuple[float, ...]
    high: tuple[float, ...]
    width: Size = 512
    longest: Size = 12


class Inverse(Head):
    """Predicts the next action towards a goal, always within the action bounds."""

    name = "inverse"
    updates = "inverse_updates"
    Config = InverseConfig
    config: InverseConfig
    low: Tensor
    high: Tensor

    def __init__(self, config: InverseConfig) -> None:
        super().__init__(config)
        self.register_buffer("low", torch.tensor(config.low))
        self.register_buffer("high", torch.tensor(config.high))
        width = config.width
        self.layers = mlp([2 * config.latent_size, width, width, width, len(config.low)], norm=True)
        self.haste = nn.Linear(2, width, bias=False)
        nn.init.zeros_(self.haste.weight)  # the remaining steps have no effect at initialisation

    def forward(
        self, latent: Float[Tensor, "... D"], goal: Float[Tensor, "... D"], steps_left: Int[Tensor, "..."]
    ) -> Float[Tensor, "... A"]:
        """The action, physical units.

        Args:
            latent: of the present.
            goal: latent of the goal.
            steps_left: number of remaining steps, including this one, at least 1.
        """
        steps = steps_left.clamp(1, self.config.longest).to(latent.dtype)
        first = self.layers[0](torch.cat([latent, goal], -1))
        hidden = first + self.haste(torch.stack([steps.log(), 1 / steps], -1))
        squashed = torch.tanh(self.layers[1:](hidden))
        return self.low + (squashed + 1) / 2 * (self.high - self.low)

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether goals are wanted."""
        return data.config.goals

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Inverse:
        """The policy with the smallest predicted distances to the goal over the remaining steps.

        The number of remaining steps is drawn from 1 to twice the length of a rollout. Steps after them do not count,
        and the last of them counts twice. With more remaining steps than the rollout has, all steps of the rollout
        count.
        """
        table, imagination, distance = data.table, data.imagination, heads[Distance.name]
        assert isinstance(distance, Distance)
        now, device, generator = imagination.present, table.device, imagination.generator
        kept = table.changing[now]
        low, high = tuple(imagination.low.tolist()), tuple(imagination.high.tolist())
        sizes = {"latent_size": len(kept), "width": fit.width, "longest": 2 * fit.unroll}
        config = InverseConfig(low=low, high=high, **sizes)
        head = cls(config).to(device)
        elapsed = torch.arange(1, fit.unroll + 1, device=device)[:, None]
        for optimizer in fit.optimise(head):
            # Random states and goals, with a random number of remaining steps.
            rows, goal = table.pairs(fit.batch_size, generator)
            num_steps = torch.randint(1, config.longest + 1, (fit.batch_size,), generator=generator, device=device)
            latent, wanted = table.features[rows], table.features[goal][:, now]
            there = distance.embed(wanted)
            if table.pictures is not None:  # every second goal is image-only, if its images were observed
                some = table.pictures.taken[goal] & (torch.arange(len(goal), device=device) % 2 == 0)
                wanted[some] = table.pictures.latents[goal[some]]
                there[some] = distance.embed_pictures(wanted[some])
            # The policy acts in the model, and the gradient of the distances passes through all steps.
            path = []
            with autocast(device):
                for step in range(fit.unroll):
                    action = head(latent[:, now] * kept, wanted * kept, num_steps - step)
                    latent = imagination.step(latent, action)
                    path.append(latent[:, now])
                left = distance.between(distance.embed(torch.stack(path)).float(), there)
            weight = (elapsed <= num_steps).float() + LAST_STEP_WEIGHT * (elapsed == num_steps)
            descend(optimizer, (weight * left).sum() / weight.sum())
        ignore_inputs(head.layers, ~kept.repeat(2))
        return head
