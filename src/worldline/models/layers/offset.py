"""An observer of constant disturbances, which a plant has that differs a little from a model.

The offset of a value is the mean of its recent one-step errors, with weights that fall by `gain` per step. It is added
to every predicted change. At rest the predicted change is then 0, so that plans have less steady error. The mean is
shrunk by its standard error. It stays 0 while errors cancel, because the noise of an offset would grow with every
predicted step.

Sources: Pannocchia and Rawlings 2003, "Disturbance models for offset-free model-predictive control", for disturbances
of the state; Efron and Morris 1973, "Stein's estimation rule and its competitors", for the shrinkage.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

GAIN: Final = 0.05
"""Gain of the recipes: half of the weight lies on the last 14 steps."""
THRESHOLD: Final = 2.0
"""Standard errors below which a mean error counts as 0."""
ROWS: Final = 5
"""Rows of the errors: sums of weights, of squared weights, of errors and of squared errors; and the offset."""
TINY: Final = 1e-12
"""Smallest variance of errors, z-scores squared."""
Errors = Float[Tensor, "*lead rows size"]
"""Recent one-step errors, see `ROWS`."""


def no_errors(values: Float[Tensor, "*lead size"], gain: float) -> Errors:
    """The errors before the first one; without rows if there is no gain, which saves their memory."""
    return values.new_zeros(*values.shape[:-1], ROWS if gain else 0, values.shape[-1])


def offset_of(errors: Errors) -> Float[Tensor, "*lead size"]:
    """The offset of each value."""
    return errors[..., -1, :]


def add_error(
    errors: Errors, error: Float[Tensor, "*lead size"], counts: Bool[Tensor, "*#lead size"], gain: float
) -> Errors:
    """The errors with those of one more step, observed minus predicted, of the values that count."""
    raw = error + offset_of(errors)  # of the prediction without the offset
    keep = errors.new_tensor([1 - gain, (1 - gain) ** 2, 1 - gain, 1 - gain])[:, None]
    following = keep * errors[..., :-1, :] + _moments(raw)
    return torch.where(counts[..., None, :], _with_offset(following), errors)


def all_errors(raw: Float[Tensor, "*lead steps size"], gain: float) -> Errors:
    """The errors of many steps, as `add_error` adds them in turn. The predictions of `raw` have no offset."""
    weights = (1 - gain) ** torch.arange(raw.shape[-2] - 1, -1, -1, device=raw.device)
    each = torch.stack([weights, weights.square(), weights, weights], -1)
    return _with_offset((each[..., None] * _moments(raw)).sum(-3))


def _moments(raw: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead four size"]:
    one = torch.ones_like(raw)
    return torch.stack([one, one, raw, raw.square()], -2)


def _with_offset(sums: Float[Tensor, "*lead four size"]) -> Errors:
    """The sums with the offset that follows from them; positive-part shrinkage of the mean."""
    weight, squared, first, second = sums.unbind(-2)
    mean = first / weight.clamp(min=TINY)
    variance = (second / weight.clamp(min=TINY) - mean.square()).clamp(min=TINY)
    num_errors = weight.square() / squared.clamp(min=TINY)  # as many with equal weights have the same standard error
    standard = variance / (num_errors - 3).clamp(min=0.0)  # squared, times the variance of Student's t
    shrinkage = (1 - THRESHOLD**2 * standard / mean.square().clamp(min=TINY)).clamp(min=0.0)
    return torch.cat([sums, (mean * shrinkage)[..., None, :]], -2)
