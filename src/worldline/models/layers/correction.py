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
        residuals: observed minus predicted outputs at these steps; 0 likewise.
        complete: whether the present was completely observed.
        trust: the ridge penalty, relative to the mean squared length of `hidden`.
        num_steps: maximum number of steps that are kept.
    """

    hidden: Float[Tensor, "W n width1"]
    residuals: Float[Tensor, "W n out"]
    complete: Bool[Tensor, " W"]
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
            coefficients: Tensor = torch.linalg.solve(alike + penalty, self.residuals)
            return self.hidden.mT @ coefficients

    def __call__(self, hidden: Float[Tensor, "B width"]) -> Float[Tensor, "B out"]:
        """Added to the layer's output; B / W consecutive rows belong to each world."""
        by_world = hidden.unflatten(0, (len(self.hidden), -1)).float()
        return torch.baddbmm(self.weights[:, -1:], by_world, self.weights[:, :-1]).flatten(0, 1)

    def add(
        self, hidden: Float[Tensor, "W width"], residuals: Float[Tensor, "W out"], complete: Bool[Tensor, " W"]
    ) -> Correction:
        """The correction with one more step; `complete` says whether the observation after it was complete."""
        counts = (self.complete & complete)[:, None]
        now = pad(hidden.float(), (0, 1), value=1.0), residuals.float()
        rows, wanted = (torch.where(counts, each, 0.0)[:, None] for each in now)
        if self.hidden.shape[1]:
            rows, wanted = torch.cat([self.hidden, rows], 1), torch.cat([self.residuals, wanted], 1)
        last = slice(-self.num_steps, None)
        return replace(self, hidden=rows[:, last], residuals=wanted[:, last], complete=complete)

    def select(self, index: Tensor) -> Correction:
        """The correction of the worlds in `index`."""
        return replace(self, hidden=self.hidden[index], residuals=self.residuals[index], complete=self.complete[index])
