"""SIGReg: a loss that pulls the latents of a batch towards a standard Gaussian, which prevents collapse.

Source: LeJEPA (arXiv 2511.08544): the Epps-Pulley statistic on random one-dimensional slices.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.device import normal
from worldline.models.layers.gather import gather

NUM_POINTS, LAST_POINT = 17, 3.0
"""Number of quadrature points of the statistic, from 0 to the last point."""


def sigreg(
    latents: Float[Tensor, "T B D"],
    *,
    num_slices: int,
    generator: torch.Generator,
    counted: Bool[Tensor, "T B"] | None = None,
) -> Float[Tensor, ""]:
    """The distance of the B latents at each of T times from a standard Gaussian; 0 for the Gaussian itself.

    Unlike the published statistic it is not multiplied by B, so that its weight does not depend on the batch size. With
    several processes, B counts the latents of all.

    Args:
        latents: T groups, each compared separately.
        num_slices: M random directions, drawn anew at every call.
        generator: draws the directions.
        counted: whether each latent belongs to its group; None for all. Empty groups do not count.
    """
    if counted is None:
        counted = torch.ones_like(latents[..., 0], dtype=torch.bool)
    slices = normal((latents.shape[-1], num_slices), generator, latents.device)
    with torch.autocast(latents.device.type, enabled=False):  # half precision cannot resolve a misfit of 0.01
        projected = gather(latents.float(), dim=1) @ (slices / slices.norm(dim=0))
    member = gather(counted.float(), dim=1)
    share = (member / member.sum(1, keepdim=True).clamp(min=1))[..., None]
    points = torch.linspace(0, LAST_POINT, NUM_POINTS, device=latents.device)[1:]  # the misfit at 0 is always 0
    angle = projected * points[0]
    cosine, double = angle.cos() * share, 2 * angle.cos()
    mean_cosine = _multiples(cosine, share.expand_as(cosine), double)
    mean_sine = _multiples(angle.sin() * share, torch.zeros_like(angle), double)
    target = torch.exp(-points.square() / 2)[:, None, None]
    weights = 2 * target * points[0]
    weights[-1] /= 2
    misfit = ((mean_cosine - target).square() + mean_sine.square()) * weights
    groups = member.amax(1)
    return torch.as_tensor((misfit.mean(-1).sum(0) * groups).sum() / groups.sum().clamp(min=1))


def _multiples(now: Tensor, before: Tensor, double: Float[Tensor, "T B M"]) -> Float[Tensor, "K T M"]:
    """The weighted sums over B of cos(kx) or sin(kx), for k from 1 to 16.

    The points are equally spaced, so the Chebyshev recurrence needs two trigonometric functions instead of 32:
    cos(kx) = 2 cos(x) cos((k - 1) x) - cos((k - 2) x), and likewise for the sine.

    Args:
        now: weighted values for k = 1, [T, B, M].
        before: weighted values for k = 0, [T, B, M].
        double: 2 cos(x).
    """
    sums = [now.sum(1)]
    for _ in range(NUM_POINTS - 2):
        before, now = now, double * now - before
        sums.append(now.sum(1))
    return torch.stack(sums)
