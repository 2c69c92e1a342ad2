"""The termination head: the probability that a latent belongs to a terminal state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from worldline.config import BoundedConfig, Size
from worldline.models.layers.mlp import mlp
from worldline.models.layers.normaliser import Normaliser
from worldline.training.batches import to_tensor
from worldline.training.heads.base import Fit, Head, HeadData, descend
from worldline.training.stored_latents import Paths


@dataclass(frozen=True, kw_only=True)
class TerminationConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: of the two hidden layers.
    """

    latent_size: Size
    width: Size = 256


class Termination(Head):
    """The probability that a latent belongs to a terminal state. Predicts the base rate until it is trained."""

    name = "termination"
    updates = "outcome_updates"
    Config = TerminationConfig
    config: TerminationConfig

    def __init__(self, config: TerminationConfig) -> None:
        super().__init__(config)
        self.inputs = Normaliser(config.latent_size)
        self.layers = mlp([config.latent_size, config.width, config.width, 1])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_rate(self, latents: Float[Tensor, "M D"], terminal: Bool[Tensor, " M"]) -> None:
        """Fits means, standard deviations and the rate of terminal states on M latents."""
        self.inputs.fit(latents)
        _, bias = self.layers[-1].parameters()
        bias.fill_((terminal.double().mean().clamp(1e-6, 1 - 1e-6)).logit())

    def logits(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """The log-odds."""
        return torch.as_tensor(self.layers(self.inputs(latents))[..., 0])

    def forward(self, latents: Float[Tensor, "... D"]) -> Float[Tensor, "..."]:
        """The probability."""
        return self.logits(latents).sigmoid()

    @classmethod
    def can_fit(cls, data: HeadData) -> bool:
        """Whether there are updates, and a training episode ends in a terminal state."""
        return bool(data.config.outcome_updates and _terminal(data).any())

    @classmethod
    def fit_to(cls, data: HeadData, fit: Fit, heads: Mapping[str, Head]) -> Termination:
        """The head for terminal states."""
        table, imagination, terminal = data.table, data.imagination, _terminal(data)
        held_out = table.held_out
        if not (terminal & held_out).any() or not (terminal & ~held_out).any():
            held_out = torch.zeros_like(held_out)  # both parts need a terminal state
        head = cls(TerminationConfig(latent_size=table.features.shape[1], width=fit.width)).to(table.device)
        head.fit_rate(table.features.cpu(), terminal.cpu())

        def error(paths: Paths) -> Tensor:
            """The cross entropy along the paths, for predicted and for encoded latents."""
            inside = paths.inside.float()
            both = torch.stack([paths.features, table.features[paths.rows]])
            target = terminal[paths.rows].float().expand(2, -1, -1)
            entropy = binary_cross_entropy_with_logits(head.logits(both), target, reduction="none").mean(0)
            return (entropy * inside).sum() / inside.sum()

        validation = imagination.exam(table, held_out, fit.unroll)
        for optimizer in fit.optimise(head, None if validation is None else lambda: float(error(validation))):
            descend(optimizer, error(imagination.draw(table, ~held_out, fit.batch_size, fit.unroll)))
        return head


def _terminal(data: HeadData) -> Bool[Tensor, " M"]:
    """Whether each row is a terminal state."""
    ends = to_tensor(data.store.terminated[data.table.episode.cpu().numpy()], data.table.device)
    return torch.as_tensor(ends & (data.table.steps_after == 0))
