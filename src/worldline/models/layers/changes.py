"""Changes along paths with gaps: values interpolated, errors relative to changes, and the curvature of latent paths.

Source: 2603.12231 for straightening.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity

from worldline.models.layers.gather import gather, share_mean

MIN_CHANGE_NORM: Final = 1e-3
"""Norm of a change of the latent below which its direction is undefined."""
Values = Float[Tensor, "B H size"]
"""Z-scores of observed values."""
Seen = Bool[Tensor, "B H size"]
"""Whether each value was observed."""


def changes(values: Values, seen: Seen) -> tuple[Float[Tensor, "B T size"], Int[Tensor, "B T size"]]:
    """The change since a value was last observed, and the steps since then; 0 and 0 if it is missing now or before."""
    last, age = values[:, 0], torch.zeros_like(seen[:, 0], dtype=torch.long)
    begun, differences, gaps = seen[:, 0], list[Tensor](), list[Tensor]()
    for step in range(1, values.shape[1]):
        age, now = age + 1, seen[:, step]
        valid = now & begun
        differences.append(torch.where(valid, values[:, step] - last, 0.0))
        gaps.append(torch.where(valid, age, 0))
        last, age, begun = torch.where(now, values[:, step], last), age.masked_fill(now, 0), begun | now
    return torch.stack(differences, 1), torch.stack(gaps, 1)


def interpolated(values: Values, seen: Seen) -> Values:
    """The values with gaps filled linearly from the observations around them; 0 if there is none in the window.

    Gaps before the first observation and after the last one get its value.
    """
    if seen.all():
        return values
    steps = values.shape[1]
    at = torch.arange(steps, device=values.device)[None, :, None].expand_as(seen)
    before = torch.where(seen, at, -1).cummax(1).values
    after = torch.where(seen, at, steps).flip(1).cummin(1).values.flip(1)
    before, after = before.where(before >= 0, after), after.where(after < steps, before)
    known = values.where(seen, 0.0)
    first, last = (known.gather(1, place.clamp(0, steps - 1)) for place in (before, after))
    return first + (last - first) * ((at - before) / (after - before).clamp(min=1))


def signal_error(
    scores: Values,
    imagined: Float[Tensor, "B T size"],
    known: Seen,
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
