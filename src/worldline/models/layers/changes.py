"""Changes of values between successive observations of each, across gaps."""

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
