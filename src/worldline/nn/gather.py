"""Statistics of a whole batch that several processes share: what a regulariser of batches needs, with gradient.

Every process then holds the loss of the whole batch. Averaging gradients over processes, as data parallelism does,
gives the gradient that one process would have computed: a gathered tensor's gradient is summed over the processes
that used it. In one process these functions are the identity and the plain mean.
"""

from __future__ import annotations

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


def share_mean(values: Float[Tensor, "*any"], weight: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """The mean of `values` over all processes, each counted with its `weight`; 0 where all weights are 0.

    Its value is this process's share, so that the average over processes is the mean over the whole batch.
    """
    total = weight.sum()
    if num_processes() > 1:
        total = total.detach().clone()
        distributed.all_reduce(total)
        total = total / num_processes()
    return (values * weight).sum() / torch.where(total > 0, total, 1.0)


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
