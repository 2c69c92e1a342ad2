"""SIGReg: pulls the latents of a batch towards a standard Gaussian, so that they cannot collapse.

Source: LeJEPA (arXiv 2511.08544): the Epps-Pulley statistic on random one-dimensional slices.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.models.layers.gather import gather

NUM_POINTS = 17
LAST_POINT = 3.0


def sigreg(
    latents: Float[Tensor, "T B D"],
    *,
    num_slices: int,
    generator: torch.Generator,
    counted: Bool[Tensor, "T B"] | None = None,
) -> Float[Tensor, ""]:
    """How far the B latents at each of T times are from a standard Gaussian; 0 is the Gaussian itself.

    Unlike the published statistic this is not multiplied by B, so that its weight does not depend on the batch. Where
    several processes train together, B are the latents of all.

    Args:
        latents: T groups, each compared by itself.
        num_slices: M random directions, drawn anew at every call.
        generator: draws the directions.
        counted: latents that belong to their group; None for all. A group without any does not count.
    """
    if counted is None:
        counted = torch.ones_like(latents[..., 0], dtype=torch.bool)
    slices = torch.randn(latents.shape[-1], num_slices, generator=generator, device=latents.device)
    with torch.autocast(latents.device.type, enabled=False):  # a misfit of 0.01 drowns in half precision
        projected = gather(latents.float(), dim=1) @ (slices / slices.norm(dim=0))
    here = gather(counted.float(), dim=1)
    share = (here / here.sum(1, keepdim=True).clamp(min=1))[..., None]
    points = torch.linspace(0, LAST_POINT, NUM_POINTS, device=latents.device)[1:]  # at 0 there is no misfit
    angle = projected * points[0]
    cosine, double = angle.cos() * share, 2 * angle.cos()
    mean_cosine = _multiples(cosine, share.expand_as(cosine), double)
    mean_sine = _multiples(angle.sin() * share, torch.zeros_like(angle), double)
    target = torch.exp(-points.square() / 2)[:, None, None]
    weights = 2 * target * points[0]
    weights[-1] /= 2
    misfit = ((mean_cosine - target).square() + mean_sine.square()) * weights
    groups = here.amax(1)
    return torch.as_tensor((misfit.mean(-1).sum(0) * groups).sum() / groups.sum().clamp(min=1))


def _multiples(now: Tensor, before: Tensor, double: Float[Tensor, "T B M"]) -> Float[Tensor, "K T M"]:
    """The sums over B of cos(kx) or sin(kx), for k from 1 to 16, each times the share that is in `now` and `before`.

    The points are equally spaced, so each value follows from the two before it, and two trigonometric functions do the
    work of 32: cos(kx) = 2 cos(x) cos((k - 1) x) - cos((k - 2) x), and the same for the sine (Chebyshev).

    Args:
        now: for k = 1, [T, B, M].
        before: for k = 0, [T, B, M].
        double: 2 cos(x).
    """
    sums = [now.sum(1)]
    for _ in range(NUM_POINTS - 2):
        before, now = now, double * now - before
        sums.append(now.sum(1))
    return torch.stack(sums)
