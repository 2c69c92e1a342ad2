"""Auxiliary targets: signals that a model does not receive as inputs, and that the loss predicts from its latents."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.layers.gather import share_mean
from worldline.models.layers.standardizer import Standardizer
from worldline.schema import Kind, Signal


class AuxiliaryTargets(nn.Module):
    """Predicts auxiliary signals from latents by a linear map; its error is a term of the loss.

    Args:
        signals: vector or discrete, at least one.
        latent_size: D.

    Raises:
        ConfigError: one of the signals is an image.
    """

    def __init__(self, signals: tuple[Signal, ...], latent_size: int) -> None:
        super().__init__()
        if any(signal.kind is Kind.IMAGE for signal in signals):
            names = ", ".join(signal.name for signal in signals)
            raise ConfigError(f"targets {names} contain an image. Name vector or discrete signals only.")
        self.scores = Standardizer(signals)
        self.read = nn.Linear(latent_size, len(self.scores.owner))

    def fit(self, window: Window) -> None:
        """Fits the scale of each signal on its observed values."""
        self.scores.fit(window.observations, window.observed)

    def error(self, latents: Float[Tensor, "B T D"], window: Window) -> Float[Tensor, ""]:
        """Mean squared error of the z-scores at the last T observations of `window`; missing ones do not count."""
        steps = slice(-latents.shape[1], None)
        scores = self.scores(window.observations, window.observed)[:, steps]
        observed = torch.stack([window.observed[one.name] for one in self.scores.signals], -1)
        known = observed[:, steps, self.scores.owner].float()
        return share_mean((self.read(latents).float() - scores).square(), known)
