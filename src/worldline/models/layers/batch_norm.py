"""Batch normalisation with statistics over all processes, on CPU and GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldline.models.layers.gather import gather, num_processes


class BatchNorm(nn.BatchNorm1d):
    """Like `nn.BatchNorm1d`; with several processes, mean and variance are those of the whole batch.

    `nn.SyncBatchNorm` does the same, but does not run on CPU.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalised `values` [M, C]; M must be equal in all processes."""
        if not self.training or num_processes() == 1:
            return super().forward(values)
        batch = gather(values)
        variance, mean = torch.var_mean(batch.float(), dim=0, correction=0)
        self._track(mean.detach(), variance.detach() * len(batch) / max(1, len(batch) - 1))
        scores = (values - mean) * torch.rsqrt(variance + self.eps)
        return torch.as_tensor(scores.to(values.dtype) * self.weight + self.bias)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
