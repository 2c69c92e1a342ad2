"""What a joint-embedding world model believes: one latent, and what it remembers of the steps before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.contracts.world_model import Belief
from worldline.nn.correction import Correction
from worldline.nn.linear_forecast import Past
from worldline.nn.predictors import Block, Hidden
from worldline.nn.transformer import Cache


@dataclass(frozen=True, kw_only=True)
class Latent(Belief):
    """A belief: one latent, and what the predictor remembers.

    Args:
        latent: of the present.
        memory: of the steps before.
        correction: of the predictor in W worlds; B / W entries on end share that of each. None for none.
    """

    latent: Float[Tensor, "B D"]
    memory: Cache | Hidden | Block | Past | None = None
    correction: Correction | None = None

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The latent, beside the recurrent state or the vectors of the steps before where there are any; S is 1."""
        if isinstance(self.memory, Past):
            return torch.cat([self.latent, self.memory.flat().to(self.latent.dtype)], -1)[:, None]
        if isinstance(self.memory, Hidden):
            return torch.cat([self.latent, self.memory.state.to(self.latent.dtype)], -1)[:, None]
        return self.latent[:, None]

    def select(self, index: Tensor) -> Latent:
        """The latents and memories of the batch entries in `index`."""
        memory, correction = self.memory, self.correction
        if correction is not None:
            correction = correction.select(index // (len(self.latent) // len(correction.hidden)))
        memory = None if memory is None else memory.select(index)
        return Latent(latent=self.latent[index], memory=memory, correction=correction)

    def repeat(self, count: int) -> Latent:
        """Each entry `count` times in a row; a correction, which is large, is shared by them."""
        index = torch.arange(len(self.latent), device=self.latent.device).repeat_interleave(count)
        return replace(replace(self, correction=None).select(index), correction=self.correction)
