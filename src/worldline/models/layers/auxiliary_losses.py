"""The auxiliary loss of `jepa`: signals that are read from latents in training only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Weight
from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.layers.gather import share_mean
from worldline.models.layers.standardizer import Standardizer
from worldline.schema import Kind, Signal


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig(BoundedConfig):
    """Signals that latents must predict in training, besides the inputs.

    Args:
        targets: vector or discrete observation signals that are not inputs. A linear map reads them from encoded and
            predicted latents. They are needed in training only, such as the pose from motion capture.
        target_weight: of their error.
    """

    targets: tuple[str, ...] = ()
    target_weight: Weight = 1.0


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

    def forward(self, latents: Float[Tensor, "B T D"], window: Window) -> Float[Tensor, ""]:
        """Mean squared error of the z-scores at the last T observations of `window`; missing ones do not count."""
        steps = slice(-latents.shape[1], None)
        scores = self.scores(window.observations, window.observed)[:, steps]
        observed = torch.stack([window.observed[signal.name] for signal in self.scores.signals], -1)
        known = observed[:, steps, self.scores.owner].float()
        return share_mean((self.read(latents).float() - scores).square(), known)
