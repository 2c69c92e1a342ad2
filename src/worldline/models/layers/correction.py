"""A correction of the predictor's last layer, fitted on the prediction errors of the most recent steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True, eq=False)
class Correction:
    """A ridge regression of the errors of a predictor's last layer on its inputs, one for each of W worlds.

    Args:
        hidden: inputs of the layer at recent steps, and a 1; 0 for steps that were not completely observed.
        lacks: prediction errors at these steps (observed - predicted); 0 likewise.
        whole: whether the present was completely observed.
        trust: the ridge penalty, relative to the mean squared length of `hidden`.
        num_steps: maximum number of steps that are kept.
    """

    hidden: Float[Tensor, "W n width1"]
    lacks: Float[Tensor, "W n out"]
    whole: Bool[Tensor, " W"]
    trust: float
    num_steps: int

    @cached_property
    def weights(self) -> Float[Tensor, "W width1 out"]:
        """Added to the weights of the layer; the last row is added to its bias."""
        # The first caller may run under autocast; in half precision rounding would be as large as the penalty.
        with torch.autocast(self.hidden.device.type, enabled=False):
            alike = self.hidden @ self.hidden.mT
            length = alike.diagonal(dim1=1, dim2=2).sum(-1) / self.hidden[..., -1].sum(-1).clamp(min=1)
            penalty = self.trust * length.clamp(min=1)[:, None, None] * torch.eye(alike.shape[1], device=alike.device)
            found: Tensor = torch.linalg.solve(alike + penalty, self.lacks)
            return self.hidden.mT @ found

    def __call__(self, hidden: Float[Tensor, "B width"]) -> Float[Tensor, "B out"]:
        """Added to the layer's output; B / W consecutive rows belong to each world."""
        by_world = hidden.unflatten(0, (len(self.hidden), -1)).float()
        return torch.baddbmm(self.weights[:, -1:], by_world, self.weights[:, :-1]).flatten(0, 1)

    def add(
        self, hidden: Float[Tensor, "W width"], lacks: Float[Tensor, "W out"], whole: Bool[Tensor, " W"]
    ) -> Correction:
        """The correction with one more step; `whole` says whether the observation after it was complete."""
        counts = (self.whole & whole)[:, None]
        now = pad(hidden.float(), (0, 1), value=1.0), lacks.float()
        rows, wanted = (torch.where(counts, each, 0.0)[:, None] for each in now)
        if self.hidden.shape[1]:
            rows, wanted = torch.cat([self.hidden, rows], 1), torch.cat([self.lacks, wanted], 1)
        last = slice(-self.num_steps, None)
        return replace(self, hidden=rows[:, last], lacks=wanted[:, last], whole=whole)

    def select(self, index: Tensor) -> Correction:
        """The correction of the worlds in `index`."""
        return replace(self, hidden=self.hidden[index], lacks=self.lacks[index], whole=self.whole[index])
