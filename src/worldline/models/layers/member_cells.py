"""Gated recurrent units of an ensemble, computed together: they replace the hidden layers of `MemberNetworks`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from worldline.models.layers.member_networks import MemberLinear, MemberNetworks


class MemberCells(MemberNetworks):
    """One gated recurrent unit per member, and a linear layer from its state to a change.

    Layer 0 gives the gates' inputs from the taken values, layer 1 those from the state, layer 2 the change.

    Args:
        num_members: M.
        lagged: number of lagged values of the linear forecast.
        taken: number of values that a cell takes in each step.
        width: size of the state.
        size: number of values.

    Source: Cho et al. 2014 (arXiv 1406.1078), with the reset gate after the product.
    """

    def __init__(self, *, num_members: int, lagged: int, taken: int, width: int, size: int) -> None:
        nn.ModuleList.__init__(
            self,
            [MemberLinear(num_members, *sizes) for sizes in ((taken, 3 * width), (width, 3 * width), (width, size))],
        )
        self.num_members, self.lagged, self.size, self.width = num_members, lagged, size, width

    @torch.no_grad()
    def start_at_zero(self, ages: slice) -> None:
        """Makes the first changes 0; cells take no ages."""
        _, last = self._ends()
        last.weight.zero_()
        last.bias.zero_()

    def step(self, taken: Float[Tensor, "M R gates"], state: Float[Tensor, "M R width"]) -> Float[Tensor, "M R width"]:
        """The next state."""
        kept, width = self[1](state), self.width
        reset, update = torch.sigmoid(taken[..., : 2 * width] + kept[..., : 2 * width]).split(width, -1)
        found = torch.tanh(taken[..., 2 * width :] + reset * kept[..., 2 * width :])
        return torch.as_tensor(found + update * (state - found))
