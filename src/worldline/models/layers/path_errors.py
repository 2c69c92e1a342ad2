"""Loss terms of paths: the relative error of predicted signals, and the curvature of latent paths.

Source: 2603.12231 for straightening.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldline.models.layers.gather import gather, share_mean

MIN_CHANGE_NORM: Final = 1e-3
"""Norm of a change of the latent below which its direction is undefined."""


def signal_error(
    scores: Float[Tensor, "B H size"],
    imagined: Float[Tensor, "B T size"],
    known: Bool[Tensor, "B H size"],
    shown: Bool[Tensor, "B H"],
    change: Float[Tensor, " size"],
    warm: int,
) -> Float[Tensor, ""]:
    """Squared error of each component and step, relative to persistence, so that slow and fast signals count alike.

    If a component was not observed at the start of the prediction, the baseline is its mean, whose expected squared
    error is 1 in z-scores. The error in this batch is not used: at most steps few components appear for the first time,
    and these may happen to be near their mean.
    """
    scores, imagined = gather(scores), gather(imagined)
    known, shown = gather(known.float()).bool(), gather(shown.float()).bool()
    base = torch.arange(imagined.shape[1], device=scores.device).clamp(max=warm - 1)

    def mean(squared: Float[Tensor, "B T size"], where: Bool[Tensor, "B T size"]) -> Float[Tensor, "T size"]:
        counted = known[:, 1:] & where
        return (squared * counted).sum(0) / counted.sum(0).clamp(min=1)

    error, persistence = (imagined - scores[:, 1:]).square(), (scores[:, base] - scores[:, 1:]).square()
    observed, unobserved = known[:, base], ~known[:, base] & shown[:, base, None]
    # One usual step squared in the denominator bounds the weight of signals that hardly change in this batch.
    relative = mean(error, observed) / (mean(persistence, observed) + change.square())
    return (relative + mean(error, unobserved)).mean()


def bend(latents: Float[Tensor, "B H L"], both: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine between successive changes; changes shorter than `MIN_CHANGE_NORM` do not count."""
    change = latents.diff(dim=1)
    goes = both * (change.detach().norm(dim=-1) > MIN_CHANGE_NORM)
    bend = 1 - cosine_similarity(change[:, :-1], change[:, 1:], dim=-1, eps=MIN_CHANGE_NORM)
    return share_mean(bend, goes[:, :-1] * goes[:, 1:])
