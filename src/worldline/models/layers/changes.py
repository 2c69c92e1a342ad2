"""Changes of values between successive observations of each, and values interpolated across gaps."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def changes(
    values: Float[Tensor, "B H size"], seen: Bool[Tensor, "B H size"]
) -> tuple[Float[Tensor, "B T size"], Int[Tensor, "B T size"]]:
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


def interpolated(values: Float[Tensor, "B H size"], seen: Bool[Tensor, "B H size"]) -> Float[Tensor, "B H size"]:
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
