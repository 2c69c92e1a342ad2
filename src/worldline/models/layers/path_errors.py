"""How far an imagined path is from the seen one, and how bent a path is.

Source: 2603.12231 for straightening.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldline.models.layers.gather import gather, share_mean

PAUSE: Final = 1e-3
"""Length of a change of the latent below which it has no direction."""


def signal_error(
    scores: Float[Tensor, "B H size"],
    imagined: Float[Tensor, "B T size"],
    known: Bool[Tensor, "B H size"],
    shown: Bool[Tensor, "B H"],
    change: Float[Tensor, " size"],
    warm: int,
) -> Float[Tensor, ""]:
    """Squared error of each component and step over that of standing still: slow signals count like fast ones.

    Where a component was not known when the prediction set out, standing still is its mean, which is off by 1 on
    average, and what it scores is how well the others tell it, pictures too. Not by how much in this batch: at most
    steps only few come into sight, and those may happen to be near their mean.
    """
    scores, imagined = gather(scores), gather(imagined)
    known, shown = gather(known.float()).bool(), gather(shown.float()).bool()
    base = torch.arange(imagined.shape[1], device=scores.device).clamp(max=warm - 1)

    def mean(squared: Float[Tensor, "B T size"], told: Bool[Tensor, "B T size"]) -> Float[Tensor, "T size"]:
        counted = known[:, 1:] & told
        return (squared * counted).sum(0) / counted.sum(0).clamp(min=1)

    error, standing_still = (imagined - scores[:, 1:]).square(), (scores[:, base] - scores[:, 1:]).square()
    told, untold = known[:, base], ~known[:, base] & shown[:, base, None]
    relative = mean(error, told) / (mean(standing_still, told) + change.square())
    return (relative + mean(error, untold)).mean()


def bend(latents: Float[Tensor, "B H L"], both: Float[Tensor, "B T"]) -> Float[Tensor, ""]:
    """1 - cosine between successive changes, on average; a change of next to nothing has no direction."""
    change = latents.diff(dim=1)
    goes = both * (change.detach().norm(dim=-1) > PAUSE)
    bend = 1 - cosine_similarity(change[:, :-1], change[:, 1:], dim=-1, eps=PAUSE)
    return share_mean(bend, goes[:, :-1] * goes[:, 1:])
