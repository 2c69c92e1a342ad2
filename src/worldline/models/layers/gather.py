"""Means and draws over a whole batch that several processes share, so that they learn what one process would.

Data parallelism averages gradients over processes, which is right for a loss that is a plain mean over windows. What
else a loss takes from its batch comes from here: a masked mean (`share_mean`), a statistic that a regulariser needs
with gradient (`gather`) or a scale without (`whole_mean`), and random numbers (`share_draw`). In one process these
functions are the plain mean, the identity and the plain draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def num_processes() -> int:
    """How many processes train together; 1 where none were set up."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather(tensor: Tensor, dim: int = 0) -> Tensor:
    """The tensors of all processes, equal in shape, one after another along `dim`."""
    if num_processes() == 1:
        return tensor
    return torch.as_tensor(_Gather.apply(tensor, dim))  # type: ignore[no-untyped-call] # torch leaves it untyped


def share_mean(
    values: Float[Tensor, "*any"], weight: Float[Tensor, "*#any"], dim: int | tuple[int, ...] | None = None
) -> Float[Tensor, "*rest"]:
    """The mean of `values` over all processes, each counted with its `weight`; 0 where all weights are 0.

    Its value is this process's share, so that the average over processes is the mean over the whole batch. A loss may
    therefore add such means and scale them, but do nothing else with them.

    Args:
        values: of this process.
        weight: at least 0, without gradient.
        dim: over which the mean is taken, the batch among them; None for all.
    """
    total = _over_processes(weight.sum(dim)) / num_processes()
    return (values * weight).sum(dim) / torch.where(total > 0, total, 1.0)


@torch.no_grad()
def whole_mean(
    values: Float[Tensor, "*any"], weight: Float[Tensor, "*#any"], dim: int | tuple[int, ...]
) -> Float[Tensor, "*rest"]:
    """As `share_mean`, but the mean itself, the same in every process; without gradient, to scale a loss by."""
    total = _over_processes(weight.sum(dim))
    return _over_processes((values * weight).sum(dim)) / torch.where(total > 0, total, 1.0)


def share_draw(draw: Callable[[tuple[int, ...]], Tensor], shape: Sequence[int]) -> Tensor:
    """This process's rows of what one process would have drawn for the whole batch.

    Every process draws for all, from generators in the same state, which stay so. For training only: where every
    process looks at the same windows, all are to draw the same.

    Args:
        draw: random numbers of the shape that it is given.
        shape: what this process needs; as many rows in every process.
    """
    rows, *rest = shape
    whole = draw((rows * num_processes(), *rest))
    return whole if num_processes() == 1 else whole.narrow(0, distributed.get_rank() * rows, rows)


@torch.no_grad()
def _over_processes(values: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    if num_processes() == 1:
        return values.detach()
    whole = values.detach().contiguous().clone()
    distributed.all_reduce(whole)
    return whole


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, tensor.shape[dim]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(num_processes())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        distributed.all_reduce(whole)
        return whole.narrow(ctx.dim, distributed.get_rank() * ctx.size, ctx.size), None
