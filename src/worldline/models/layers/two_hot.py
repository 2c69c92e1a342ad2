"""Two-hot encoding: a number as a distribution over bins, for sparse, heavy-tailed or bimodal quantities like rewards.

Bins are narrow near 0 and wider for larger numbers, so that errors on large numbers do not give larger gradients.
Source: DreamerV3 (arXiv 2301.04104), "Robust predictions".
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def symexp_bins(num_bins: int, *, limit: float, device: torch.device | None = None) -> Float[Tensor, " K"]:
    """Bins in increasing order, symmetric about an exact 0, evenly spaced after symlog, sign(x) ln(|x| + 1).

    Args:
        num_bins: K, odd and at least 3.
        limit: symlog of the largest bin, above 0.
        device: of the result.
    """
    positive = torch.linspace(0.0, limit, num_bins // 2 + 1, device=device).expm1()
    return torch.cat([-positive[1:].flip(0), positive])


def two_hot(values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]) -> Float[Tensor, "*lead K"]:
    """Weights on the two bins around each value, with the value as mean; values are clipped to the outer bins."""
    inside = values.clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, inside.contiguous()).clamp(min=1)
    low, high = bins[above - 1], bins[above]
    share = ((inside - low) / (high - low))[..., None]
    weights = torch.zeros(*values.shape, len(bins), dtype=values.dtype, device=values.device)
    return weights.scatter(-1, above[..., None] - 1, 1 - share).scatter(-1, above[..., None], share)


def two_hot_loss(
    logits: Float[Tensor, "*lead K"], values: Float[Tensor, "*lead"], bins: Float[Tensor, " K"]
) -> Float[Tensor, "*lead"]:
    """Cross-entropy between the predicted distribution and the two-hot encoding of `values`."""
    return -(two_hot(values, bins) * logits.log_softmax(-1)).sum(-1)
