"""Means, statistics and random draws over a batch that several processes share, so that they learn as one process.

Data parallelism averages gradients over processes, which is correct for plain means over windows only. Losses use these
functions for everything else: masked means (`share_mean`), statistics of regularisers with gradient (`gather`), scales
without gradient (`whole_mean`), and random numbers (`share_draw`). In one process they are the plain mean, the identity
and the plain draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


class Joined:
    """The process group of the training.

    It is not the default group: a launcher may create that one for the whole script, of which parts run in a single
    process.
    """

    group: distributed.ProcessGroup | None = None
    """None outside of `worldline.training.distributed.processes`."""


def num_processes() -> int:
    """Number of processes that train together; 1 outside of a training."""
    return 1 if Joined.group is None else distributed.get_world_size(Joined.group)


def group_rank() -> int:
    """The rank of this process among those that train together; 0 outside of a training."""
    return 0 if Joined.group is None else distributed.get_rank(Joined.group)


def gather(tensor: Tensor, dim: int = 0) -> Tensor:
    """The tensors of all processes, of equal shape, concatenated along `dim`; differentiable."""
    if num_processes() == 1:
        return tensor
    return torch.as_tensor(_Gather.apply(tensor, dim))  # type: ignore[no-untyped-call] # torch leaves it untyped


def share_mean(
    values: Float[Tensor, "*any"], weight: Float[Tensor, "*#any"], dim: int | tuple[int, ...] | None = None
) -> Float[Tensor, "*rest"]:
    """The weighted mean of `values` over all processes; 0 where all weights are 0.

    Each process returns its share, so that the average over processes is the mean over the whole batch. A loss may
    therefore add and scale such means, but must not apply nonlinear functions to them.

    Args:
        values: of this process.
        weight: at least 0, without gradient.
        dim: of the mean, including the batch dimension; None for all.
    """
    total = _over_processes(weight.sum(dim)) / num_processes()
    return (values * weight).sum(dim) / torch.where(total > 0, total, 1.0)


@torch.no_grad()
def whole_mean(
    values: Float[Tensor, "*any"], weight: Float[Tensor, "*#any"], dim: int | tuple[int, ...]
) -> Float[Tensor, "*rest"]:
    """Like `share_mean`, but every process returns the full mean; without gradient, to scale a loss."""
    total = _over_processes(weight.sum(dim))
    return _over_processes((values * weight).sum(dim)) / torch.where(total > 0, total, 1.0)


def share_draw(draw: Callable[[tuple[int, ...]], Tensor], shape: Sequence[int]) -> Tensor:
    """This process's rows of the numbers that a single process would draw for the whole batch.

    Every process draws the numbers of all, so that generators stay in the same state. For training only: when all
    processes evaluate the same windows, they must draw the same numbers.

    Args:
        draw: returns random numbers of a given shape.
        shape: of this process's numbers; the number of rows must be equal in all processes.
    """
    rows, *rest = shape
    drawn = draw((rows * num_processes(), *rest))
    return drawn if num_processes() == 1 else drawn.narrow(0, group_rank() * rows, rows)


@torch.no_grad()
def _over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    if num_processes() == 1:
        return values.detach()
    total = values.detach().contiguous().clone()
    distributed.all_reduce(total, group=Joined.group)
    return total


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, tensor.shape[dim]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(num_processes())]
        distributed.all_gather(parts, tensor.contiguous(), group=Joined.group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total, group=Joined.group)
        return total.narrow(ctx.dim, group_rank() * ctx.size, ctx.size), None
