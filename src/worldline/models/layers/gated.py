"""Straight responses that a network switches on and off: what happens at a contact, and not beside it."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

BOUND: Final = 4.0
"""Deviations beyond which an input counts no more, so that no path runs away along a response."""


class Gated(nn.Module):
    """Linear responses to the inputs, each times a gate between 0 and 1, beside the residual network that sets these.

    A jump, such as that of a velocity at a wall, is the product of a straight line and a step. A network without
    products has to make it up of many smooth pieces, and blurs it. What is smooth, gates alone would blur.

    Args:
        size: of the inputs, in deviations.
        width: of the network, and the number of responses.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.begin, self.hidden, self.add = nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width, width)
        self.gates, self.responses = nn.Linear(width, width), nn.Linear(size, width)
        nn.init.zeros_(self.add.weight)
        nn.init.zeros_(self.add.bias)

    def forward(self, inputs: Float[Tensor, "M size"]) -> Float[Tensor, "M twice"]:
        """The responses, as far as their gates let them through, and what the network makes of the inputs."""
        known = gelu(self.begin(inputs))
        known = known + self.add(gelu(self.hidden(known)))
        return torch.cat([self.responses(inputs.clamp(-BOUND, BOUND)) * torch.sigmoid(self.gates(known)), known], -1)
