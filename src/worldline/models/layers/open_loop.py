"""Open-loop predictions of member networks, with a gradient of its own.

Automatic differentiation records about 15 operations per step, each with a gradient of small matrices. Here one step
of the adjoint takes half of them, and the gradients of the weights are one product over all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, silu

from worldline.models.layers.member_networks import Slices, added_product


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What has no gradient in an open-loop prediction of T steps.

    Args:
        units: of the networks' changes in each step.
        weights: of the lagged values in the linear forecast of each step, see `LinearBase.parts`.
        low, high: limits of the lagged values that the networks see.
        change: unit of the lagged changes.
        offset: added to each change; None for none.
        unseen: values that were never observed; the first step does not change them.
    """

    units: Sequence[Float[Tensor, "#R size"]]
    weights: Sequence[Tensor]
    low: Float[Tensor, " lagged"]
    high: Float[Tensor, " lagged"]
    change: Float[Tensor, " size"]
    offset: Float[Tensor, "M R size"] | None
    unseen: Bool[Tensor, "M R size"]


class _OpenLoop(torch.autograd.Function):
    """See `open_loop`. There is no second derivative."""

    @staticmethod
    def forward(
        ctx: Any, fixed: Fixed, known: Tensor, contributions: Tensor, lagged: Tensor, present: Tensor, *weights: Tensor
    ) -> Tensor:
        """Computes the path, and keeps the lagged values and the layers before their activation."""
        first, last, bias, *hidden = weights
        size, path, kept = present.shape[-1], list[Tensor](), [list[Tensor]() for _ in range(2 + len(hidden) // 2)]
        for step, unit in enumerate(fixed.units):
            kept[0].append(lagged)
            layers = [torch.baddbmm(contributions[step], lagged.clamp(fixed.low, fixed.high), first)]
            for number in range(0, len(hidden), 2):
                layers.append(torch.baddbmm(hidden[number], silu(layers[-1]), hidden[number + 1]))
            change = torch.baddbmm(bias, silu(layers[-1]), last)
            change = torch.addcmul(added_product(known[step], lagged, fixed.weights[step]), change, unit)
            if fixed.offset is not None:
                change = change + fixed.offset
            if not step:
                change = change.masked_fill(fixed.unseen, 0.0)
            for values, layer in zip(kept[1:], layers, strict=True):
                values.append(layer)
            present = present + change
            path.append(present)
            moved = [change / fixed.change, lagged[..., size:-size]] if lagged.shape[-1] > size else []
            lagged = torch.cat([present, *moved], -1)
        ctx.fixed, ctx.size = fixed, size
        ctx.save_for_backward(first, last, *hidden[1::2], *map(torch.stack, kept))
        return torch.stack(path)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:
        """The gradients, by the adjoint of the recurrence."""
        fixed, size, saved = ctx.fixed, ctx.size, ctx.saved_tensors
        num_hidden = (len(saved) - 4) // 2
        first, last, *between = saved[: 2 + num_hidden]
        lagged, *layers = saved[2 + num_hidden :]
        inside = ((lagged >= fixed.low) & (lagged <= fixed.high)).to(slope.dtype)
        sigmoids = [layer.sigmoid() for layer in layers]
        bends = [s * (1 + layer * (1 - s)) for layer, s in zip(layers, sigmoids, strict=True)]
        carried, later = torch.zeros_like(slope[0]), torch.zeros_like(lagged[0])
        changes, outputs, into = list[Tensor](), list[Tensor](), [list[Tensor]() for _ in layers]
        for step in reversed(range(len(slope))):
            carried = carried + slope[step] + later[..., :size]
            change = carried
            if lagged.shape[-1] > size:
                change = torch.addcdiv(carried, later[..., size : 2 * size], fixed.change)
            if not step:
                change = change.masked_fill(fixed.unseen, 0.0)
            output = change * fixed.units[step]
            inner = torch.bmm(output, last.mT) * bends[-1][step]
            into[-1].append(inner)
            for number in reversed(range(num_hidden)):
                inner = torch.bmm(inner, between[number].mT) * bends[number][step]
                into[number].append(inner)
            later = pad(later[..., 2 * size :], (size, size)) if lagged.shape[-1] > size else torch.zeros_like(later)
            later = added_product(later, change, fixed.weights[step].mT)
            later = torch.addcmul(later, torch.bmm(inner, first.mT), inside[step])
            changes.append(change)
            outputs.append(output)
        back = [torch.stack(values[::-1]) for values in (changes, outputs, *into)]
        gradients: list[Tensor | None] = [None] * (3 + 2 * num_hidden)
        if any(ctx.needs_input_grad[5:]):
            active = [lagged.clamp(fixed.low, fixed.high), *(a * s for a, s in zip(layers, sigmoids, strict=True))]
            gradients[0], gradients[1] = _weights(active[0], back[2]), _weights(active[-1], back[1])
            gradients[2] = back[1].sum((0, 2))[:, None]
            for number in range(num_hidden):
                gradients[3 + 2 * number] = back[3 + number].sum((0, 2))[:, None]
                gradients[4 + 2 * number] = _weights(active[1 + number], back[3 + number])
        return None, back[0], back[2], later, carried, *gradients


def open_loop(
    fixed: Fixed,
    known: Float[Tensor, "T M R size"],
    contributions: Float[Tensor, "T M R width"],
    lagged: Float[Tensor, "M R lagged"],
    present: Float[Tensor, "M R size"],
    slices: Slices,
) -> Float[Tensor, "T M R size"]:
    """The values after each step.

    Args:
        fixed: has no gradient.
        known: what the covariates add to the linear forecast.
        contributions: of the covariates to the first layer.
        lagged: values and changes at the start.
        present: values at the start.
        slices: the weights of the networks.
    """
    weights = (slices.first, slices.last, slices.bias, *chain.from_iterable(slices.hidden))
    return torch.as_tensor(_OpenLoop.apply(fixed, known, contributions, lagged, present, *weights))  # type: ignore[no-untyped-call]


def _weights(
    values: Float[Tensor, "T M R wide"], slope: Float[Tensor, "T M R narrow"]
) -> Float[Tensor, "M wide narrow"]:
    """The gradient of the weights of a layer, over all steps."""
    return values.transpose(0, 1).flatten(1, 2).mT @ slope.transpose(0, 1).flatten(1, 2)
