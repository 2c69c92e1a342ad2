"""A number as a distribution over bins: for what is mostly 0, now and then large, and has two likely values at once.

The bins lie close together near 0 and ever wider beyond, so that errors on large numbers make no larger gradients.
Source: DreamerV3 (arXiv 2301.04104), "Robust predictions".
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.errors import ConfigError


def symexp(values: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """sign(x) (exp(|x|) - 1): the inverse of symlog, sign(x) ln(|x| + 1)."""
    return values.sign() * values.abs().expm1()


def symexp_bins(num_bins: int, *, limit: float, device: torch.device | None = None) -> Float[Tensor, " K"]:
    """Rising numbers, symmetric about an exact 0, that symlog makes evenly spaced.

    Args:
        num_bins: K, odd and at least 3.
        limit: symlog of the largest, above 0.
        device: of the result.

    Raises:
        ConfigError: there would be no bin at 0, or no others.
    """
    if num_bins < 3 or num_bins % 2 == 0 or limit <= 0:
        raise ConfigError(f"num_bins {num_bins} must be odd and at least 3, and limit {limit} above 0.")
    positive = symexp(torch.linspace(0.0, limit, num_bins // 2 + 1, device=device))
    return torch.cat([-positive[1:].flip(0), positive])


def two_hot(values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*lead K"]:
    """Weights on the two bins around each value, whose mean is the value; what lies beyond the last bin is on it."""
    inside = values.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, inside.contiguous()).clamp(min=1)
    low, high = bins[above - 1], bins[above]
    share = ((inside - low) / (high - low))[..., None]
    weights = torch.zeros(*values.shape, len(bins), dtype=values.dtype, device=values.device)
    return weights.scatter(-1, above[..., None] - 1, 1 - share).scatter(-1, above[..., None], share)


def two_hot_loss(
    logits: Float[Tensor, "*lead K"], values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]
) -> Float[Tensor, "*lead"]:
    """Cross-entropy of the predicted bins against those of `values`."""
    return -(two_hot(values, bins) * logits.log_softmax(-1)).sum(-1)


def expected(logits: Float[Tensor, "*lead K"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*lead"]:
    """The mean of the predicted distribution.

    Each bin is added to its mirror image first: the outer ones are so large that their rounding would drown the mean.
    """
    weighted = logits.softmax(-1) * bins
    return (weighted + weighted.flip(-1)).sum(-1) / 2
