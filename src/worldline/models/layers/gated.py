"""Gated linear responses: a layer for contacts, where dynamics switch between linear laws."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

BOUND: Final = 4.0
"""Inputs of the responses are clipped at this many standard deviations, so that no rollout diverges linearly."""


class Gated(nn.Module):
    """Linear responses to the inputs, each times a gate in (0, 1), and the residual network that sets the gates.

    A jump, such as that of a velocity at a wall, is the product of a linear function and a step. A network without
    products approximates it by many smooth functions and blurs it. Smooth functions are left to the residual network.

    Args:
        size: of the inputs, which are z-scores.
        width: units of the network, and number of responses.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.begin, self.hidden, self.add = nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width, width)
        self.gates, self.responses = nn.Linear(width, width), nn.Linear(size, width)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)

    def forward(self, inputs: Float[Tensor, "M size"]) -> Float[Tensor, "M twice"]:
        """The gated responses, then the output of the residual network."""
        known = gelu(self.begin(inputs))
        known = known + self.add(gelu(self.hidden(known)))
        return torch.cat([self.responses(inputs.clamp(-BOUND, BOUND)) * torch.sigmoid(self.gates(known)), known], -1)
