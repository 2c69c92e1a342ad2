"""Auxiliary losses on successive latents: similarity, decoded actions, straight paths, and auxiliary targets.

Sources: PLDM (arXiv 2502.14819) and eb_jepa for similarity and inverse dynamics; 2606.31232 for decoding actions from
the change of a latent; 2603.12231 for straightening.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldline.config import BoundedConfig, Size, Weight
from worldline.errors import ConfigError
from worldline.models.base import Window
from worldline.models.layers.changes import bend
from worldline.models.layers.gather import share_mean
from worldline.models.layers.mlp import mlp
from worldline.models.layers.observation_encoder import LatentLayout
from worldline.models.layers.regularizers import Terms
from worldline.models.layers.standardizer import Standardizer
from worldline.schema import Kind, Schema, Signal


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig(BoundedConfig):
    """Weights of the auxiliary losses; a weight of 0 leaves a loss out.

    Args:
        similarity_weight: of the squared change of the latent in one step.
        inverse_weight: of the error of the action, decoded from the latents before and after it.
        delta_weight: of the error of `delta_steps` actions, decoded from the change of the latent over them. Keeps
            moving objects in the latent if walls or backgrounds differ between episodes. Published values: 10 alone, 1
            together with SIGReg.
        delta_steps: number of decoded actions, at most the steps of a window.
        width: units of the networks that decode actions.
        straightening_weight: of 1 - cosine between successive changes of the latent; published value 0.1. Gradient
            planning is easier along straight paths.
        targets: auxiliary targets: vector or discrete observation signals that are not inputs. A linear map reads them
            from encoded and predicted latents. They are needed in training only, such as the pose from motion capture.
        target_weight: of the error of the auxiliary targets.
    """

    similarity_weight: Weight = 0.0
    inverse_weight: Weight = 0.0
    delta_weight: Weight = 0.0
    delta_steps: Size = 5
    width: Size = 256
    straightening_weight: Weight = 0.0
    targets: tuple[str, ...] = ()
    target_weight: Weight = 1.0


class AuxiliaryLosses(nn.Module):
    """The losses and the networks that they train.

    Args:
        config: weights.
        schema: of the signals.
        layout: of the latents.

    Raises:
        UnknownNameError: the schema lacks a target.
        ConfigError: a target is an image, or actions are to be decoded but the schema has none.
    """

    def __init__(self, config: AuxiliaryConfig, *, schema: Schema, layout: LatentLayout) -> None:
        super().__init__()
        self.config, self.moving = config, slice(layout.num_exact, layout.num_outputs)
        self.learned, num_actions = slice(layout.num_exact, layout.size), layout.inputs.num_actions
        if (config.inverse_weight or config.delta_weight) and not num_actions:
            raise ConfigError("inverse_weight and delta_weight decode actions, but the schema has none. Set both to 0.")
        size, width = layout.num_outputs - layout.num_exact, config.width
        self.inverse = mlp([2 * size, width, num_actions]) if config.inverse_weight else None
        self.delta = mlp([size, width, config.delta_steps * num_actions]) if config.delta_weight else None
        signals = tuple(schema[name] for name in config.targets)
        self.targets = AuxiliaryTargets(signals, layout.size) if signals else None

    def fit(self, window: Window) -> None:
        """Fits the scales of the targets."""
        if self.targets is not None:
            self.targets.fit(window)

    def forward(
        self,
        latents: Float[Tensor, "B H D"],
        imagined: Float[Tensor, "B T D"],
        window: Window,
        *,
        shown: Bool[Tensor, "B H"],
        actions: Float[Tensor, "B T A"],
    ) -> Terms:
        """The loss terms.

        Args:
            latents: encoded from observations.
            imagined: predicted latents of all observations but the first.
            window: holds the targets.
            shown: whether anything was observed.
            actions: z-scores.
        """
        config, moving, parts = self.config, latents[..., self.moving], dict[str, tuple[float, Tensor]]()
        both = (shown[:, 1:] & shown[:, :-1]).float()
        if config.similarity_weight:
            change = latents[..., self.learned].diff(dim=1).square().mean(-1)
            parts["similarity"] = config.similarity_weight, share_mean(change, both)
        if self.inverse is not None:
            error = self.inverse(torch.cat([moving[:, :-1], moving[:, 1:]], -1)).float() - actions
            parts["inverse"] = config.inverse_weight, share_mean(error.square().mean(-1), both)
        if self.delta is not None:
            count = min(config.delta_steps, actions.shape[1])
            # Near the end of an episode a window has fewer actions than the head decodes.
            decoded = self.delta(moving[:, count:] - moving[:, :-count]).float()
            error = decoded[..., : count * actions.shape[-1]] - actions.unfold(1, count, 1).mT.flatten(2)
            apart = (shown[:, count:] & shown[:, :-count]).float()
            parts["delta"] = config.delta_weight, share_mean(error.square().mean(-1), apart)
        if config.straightening_weight:
            parts["straightening"] = config.straightening_weight, bend(moving, both)
        # Read from encoded and predicted latents alike, so that both hold the targets.
        if self.targets is not None:
            error = self.targets.error(latents, window) + self.targets.error(imagined, window)
            parts["targets"] = config.target_weight, error / 2
        return parts


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
        observed = torch.stack([window.observed[signal.name] for signal in self.scores.signals], -1)
        known = observed[:, steps, self.scores.owner].float()
        return share_mean((self.read(latents).float() - scores).square(), known)
