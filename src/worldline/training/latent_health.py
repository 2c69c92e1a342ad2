"""Health of latents (effective rank, standard deviation, straightness), and the guard against collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import CollapseError


@dataclass(frozen=True, kw_only=True)
class Health:
    """Measures of the diversity of latents.

    Args:
        effective_rank: exponential of the entropy of the normalised singular values, 1 to D.
            Source: Roy and Vetterli, "The effective rank" (2007).
        deviation: standard deviation, averaged over dimensions.
        straightness: mean cosine between successive changes, -1 to 1.
    """

    effective_rank: float
    deviation: float
    straightness: float


def measure_health(features: Float[Tensor, "B H D"]) -> Health:
    """The health of B sequences of H latents, H at least 3."""
    features = features.cpu()  # for double precision
    flat = features.flatten(0, 1).double()
    values = torch.linalg.svdvals(flat - flat.mean(0))
    share = values / values.sum().clamp(min=1e-12)
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    change = features.diff(dim=1)
    cosine = torch.cosine_similarity(change[:, :-1], change[:, 1:], dim=-1)
    return Health(
        effective_rank=float(entropy.exp()),
        deviation=float(flat.std(0).mean()),
        straightness=float(cosine.mean()),
    )


def guard(health: Health, *, step: int, min_rank: float, min_deviation: float) -> None:
    """Raises if the latents have collapsed.

    Args:
        health: of validation latents.
        step: number of updates before the measurement.
        min_rank: smallest accepted effective rank.
        min_deviation: smallest accepted standard deviation.

    Raises:
        CollapseError: the effective rank or the standard deviation is too small.
    """
    if not health.deviation >= min_deviation:
        raise CollapseError(
            f"after {step} updates the standard deviation of the latents is {health.deviation:.2g}, "
            f"below {min_deviation:g}: all observations look the same to the model. "
            "Raise the weight of SIGReg, lower the learning rate, or check that the observations change."
        )
    if not health.effective_rank >= min_rank:
        raise CollapseError(
            f"after {step} updates the latents fill {health.effective_rank:.2g} dimensions, "
            f"fewer than {min_rank:g}: the model encodes a single quantity, often the slowest. "
            "Raise the weight of SIGReg or constant_size, or log more diverse episodes."
        )
