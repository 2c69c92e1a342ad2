"""The reward head and the termination head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size, SizeOrZero
from worldline.models.layers.mlp import mlp
from worldline.models.layers.normaliser import Normaliser


@dataclass(frozen=True, kw_only=True)
class RewardConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        action_size: A.
        width: of the two hidden layers.
    """

    latent_size: Size
    action_size: SizeOrZero
    width: Size = 256


class Reward(nn.Module):
    """The expected reward of a step, from its action and the latent after it. Predicts the mean until it is trained."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.config = config
        size = config.latent_size + config.action_size
        self.inputs, self.normaliser = Normaliser(size), Normaliser(1)
        self.layers = mlp([size, config.width, config.width, 1])
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def fit_normaliser(
        self, latents: Float[Tensor, "M D"], actions: Float[Tensor, "M A"], rewards: Float[Tensor, " M"]
    ) -> None:
        """Fits means and standard deviations on M steps."""
        self.inputs.fit(torch.cat([latents, actions], -1))
        self.normaliser.fit(rewards[:, None])

    def scores(self, latents: Float[Tensor, "... D"], actions: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """The z-score of the reward."""
        return torch.as_tensor(self.layers(self.inputs(torch.cat([latents, actions], -1)))[..., 0])

    def forward(self, latents: Float[Tensor, "... D"], actions: Float[Tensor, "... A"]) -> Float[Tensor, "..."]:
        """The reward, in logged units.

        Args:
            latents: after the step.
            actions: of the step, physical units; discrete ones as one-hot.
        """
        return self.normaliser.inverse(self.scores(latents, actions)[..., None])[..., 0]


@dataclass(frozen=True, kw_only=True)
class TerminationConfig(BoundedConfig):
    """Size of the head.

    Args:
        latent_size: D of the model.
        width: of the two hidden layers.
    """

    latent_size: Size
    width: Size = 256


class Termination(nn.Module):
    """The probability that a latent belongs to a terminal state. Predicts the base rate until it is trained."""

    def __init__(self, config: TerminationConfig) -> None:
        super().__init__()
        self.config = config
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
