"""How a latent changes in one step, and what is kept of the steps before it.

Sources: LeWM (arXiv 2603.19312) for a causal transformer over latents that the inputs steer; eb_jepa for a recurrent
cell; LeWM and DINO-WM (2411.04983) for all the actions of a block of steps at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from worldline.models.layers.mlp import mlp
from worldline.models.layers.transformer import Cache, CausalTransformer


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """The state of a recurrent predictor."""

    state: Float[Tensor, "B size"]

    def select(self, index: Tensor) -> Hidden:
        """The states of the batch entries in `index`."""
        return Hidden(state=self.state[index])


@dataclass(frozen=True, kw_only=True)
class PredictorContext:
    """The steps since the predictor last set out.

    Args:
        base: the latent that it set out from.
        inputs: of the steps since then, 0 for those to come.
        count: how many there were. After k of them the next one sets out anew, from the latent of that moment.
    """

    base: Float[Tensor, "B D"]
    inputs: Float[Tensor, "B k I"]
    count: Int[Tensor, " B"]

    def select(self, index: Tensor) -> PredictorContext:
        """The blocks of the batch entries in `index`."""
        return PredictorContext(base=self.base[index], inputs=self.inputs[index], count=self.count[index])

    def take(self, latent: Float[Tensor, "B D"], known: Float[Tensor, "B I"]) -> PredictorContext:
        """The block with one step more, from `latent` on where it was full."""
        size = self.inputs.shape[1]
        full = self.count == size
        count = self.count.masked_fill(full, 0)
        here = one_hot(count, size).bool()[..., None]
        return PredictorContext(
            base=torch.where(full[:, None], latent, self.base),
            inputs=torch.where(here, known[:, None], self.inputs.masked_fill(full[:, None, None], 0.0)),
            count=count + 1,
        )

    def end(self, where: Bool[Tensor, " B"]) -> PredictorContext:
        """The block, to be left where it is true."""
        return replace(self, count=self.count.masked_fill(where, self.inputs.shape[1]))


class AttentivePredictor(nn.Module):
    """How a latent changes in a step, from this one and those before it; the inputs steer every layer.

    Args:
        latent_size: D.
        num_inputs: of a step.
        width: of the layers, a multiple of `2 * num_heads`.
        depth: layers.
        num_heads: of attention.
        span: steps that attention reaches, this one among them.
        out: numbers of the change.
    """

    def __init__(
        self, *, latent_size: int, num_inputs: int, width: int, depth: int, num_heads: int, span: int, out: int
    ) -> None:
        super().__init__()
        self.num_inputs = num_inputs
        self.enter = nn.Linear(latent_size, width)
        self.layers = CausalTransformer(width=width, depth=depth, num_heads=num_heads, span=span, condition=num_inputs)
        self.leave = nn.Linear(width, out)

    def forward(
        self, latent: Float[Tensor, "B D"], known: Float[Tensor, "B I"], cache: Cache | None
    ) -> tuple[Float[Tensor, "B out"], Cache]:
        """The change, and the cache with this step in it; None stands for no past."""
        # One step of many is strided, and a product with it would be taken row by row, with copies of the weights.
        steer = known.contiguous()[:, None] if self.num_inputs else None
        tokens, kept = self.layers(self.enter(latent)[:, None], steer, cache)
        return self.leave(tokens[:, 0]), kept


class RecurrentPredictor(nn.Module):
    """How a latent changes in a step, from this one and a state that has seen those before it.

    Args:
        latent_size: D.
        num_inputs: of a step.
        width: of the hidden layer that reads the state.
        memory_size: of the state.
        out: numbers of the change.
    """

    def __init__(self, *, latent_size: int, num_inputs: int, width: int, memory_size: int, out: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(latent_size + num_inputs, memory_size)
        self.layers = mlp([latent_size + memory_size, width, out])

    def forward(
        self, latent: Float[Tensor, "B D"], known: Float[Tensor, "B I"], hidden: Hidden
    ) -> tuple[Float[Tensor, "B out"], Hidden]:
        """The change, and the state after the step."""
        with torch.autocast(latent.device.type, enabled=False):  # what adds up over many steps needs its digits
            state = self.cell(torch.cat([latent, known], -1).float(), hidden.state.float())
        return self.layers(torch.cat([latent, state.to(latent.dtype)], -1)), Hidden(state=state)
