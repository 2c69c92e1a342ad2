"""Predictors of the change of a latent in one step, and their memories.

Sources: LeWM (arXiv 2603.19312) for a causal transformer over latents, conditioned on the inputs; eb_jepa for a
recurrent cell; LeWM and DINO-WM (2411.04983) for one prediction over all actions of a block of steps.
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
    """The current block of steps of a predictor with frameskip k.

    Args:
        base: the latent at the start of the block.
        inputs: of the steps in the block; 0 for future ones.
        count: steps so far. After k steps the next one starts a new block from the present latent.
    """

    base: Float[Tensor, "B D"]
    inputs: Float[Tensor, "B k I"]
    count: Int[Tensor, " B"]

    def select(self, index: Tensor) -> PredictorContext:
        """The blocks of the batch entries in `index`."""
        return PredictorContext(base=self.base[index], inputs=self.inputs[index], count=self.count[index])

    def take(self, latent: Float[Tensor, "B D"], known: Float[Tensor, "B I"]) -> PredictorContext:
        """The block with one more step; a full block is replaced by a new one that starts at `latent`."""
        size = self.inputs.shape[1]
        full = self.count == size
        count = self.count.masked_fill(full, 0)
        position = one_hot(count, size).bool()[..., None]
        return PredictorContext(
            base=torch.where(full[:, None], latent, self.base),
            inputs=torch.where(position, known[:, None], self.inputs.masked_fill(full[:, None, None], 0.0)),
            count=count + 1,
        )

    def end(self, where: Bool[Tensor, " B"]) -> PredictorContext:
        """The block, marked as full in the entries `where`, so that the next step starts a new one."""
        return replace(self, count=self.count.masked_fill(where, self.inputs.shape[1]))


class AttentivePredictor(nn.Module):
    """Predicts the change of a latent from it and the latents before; every layer is conditioned on the inputs.

    Args:
        latent_size: D.
        num_inputs: inputs per step.
        width: of the layers, a multiple of `2 * num_heads`.
        depth: number of layers.
        num_heads: attention heads.
        span: steps that attention covers, including the present one.
        out: size of the predicted change.
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
        """The change, and the cache including this step; a cache of None is an empty past."""
        # A slice of one step is strided; torch would compute its product row by row, with copies of the weights.
        steer = known.contiguous()[:, None] if self.num_inputs else None
        tokens, kept = self.layers(self.enter(latent)[:, None], steer, cache)
        return self.leave(tokens[:, 0]), kept


class RecurrentPredictor(nn.Module):
    """Predicts the change of a latent from it and a recurrent state.

    Args:
        latent_size: D.
        num_inputs: inputs per step.
        width: units of the hidden layer after the recurrent cell.
        memory_size: of the recurrent state.
        out: size of the predicted change.
    """

    def __init__(self, *, latent_size: int, num_inputs: int, width: int, memory_size: int, out: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(latent_size + num_inputs, memory_size)
        self.layers = mlp([latent_size + memory_size, width, out])

    def forward(
        self, latent: Float[Tensor, "B D"], known: Float[Tensor, "B I"], hidden: Hidden
    ) -> tuple[Float[Tensor, "B out"], Hidden]:
        """The change, and the state after the step."""
        with torch.autocast(latent.device.type, enabled=False):  # rounding errors would add up over many steps
            state = self.cell(torch.cat([latent, known], -1).float(), hidden.state.float())
        return self.layers(torch.cat([latent, state.to(latent.dtype)], -1)), Hidden(state=state)
