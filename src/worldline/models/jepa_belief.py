"""The belief of the model family `jepa`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.models.base import Belief
from worldline.models.layers.correction import Correction
from worldline.models.layers.linear_forecast import Past
from worldline.models.layers.predictors import Hidden, PredictorContext
from worldline.models.layers.transformer import Cache


@dataclass(frozen=True, kw_only=True)
class Latent(Belief):
    """One latent and the memory of the predictor.

    Args:
        latent: of the present.
        memory: of earlier steps.
        correction: of the predictor, for W worlds; B / W consecutive entries share one correction. None for none.
    """

    latent: Float[Tensor, "B D"]
    memory: Cache | Hidden | PredictorContext | Past | None = None
    correction: Correction | None = None

    def features(self) -> Float[Tensor, "B 1 D"]:
        """The latent, then the recurrent state or the past steps if the predictor has them; S is 1."""
        if isinstance(self.memory, Past):
            return torch.cat([self.latent, self.memory.flat().to(self.latent.dtype)], -1)[:, None]
        if isinstance(self.memory, Hidden):
            return torch.cat([self.latent, self.memory.state.to(self.latent.dtype)], -1)[:, None]
        return self.latent[:, None]

    def detach(self) -> Latent:
        """The belief without gradient history; for a memory of type `Past`, or none."""
        past = self.memory
        memory = replace(past, steps=past.steps.detach()) if isinstance(past, Past) else past
        return replace(self, latent=self.latent.detach(), memory=memory)

    def select(self, index: Tensor) -> Latent:
        """The latents and memories of the batch entries in `index`."""
        memory, correction = self.memory, self.correction
        if correction is not None:
            correction = correction.select(index // (len(self.latent) // len(correction.hidden)))
        memory = None if memory is None else memory.select(index)
        return Latent(latent=self.latent[index], memory=memory, correction=correction)

    def repeat(self, count: int) -> Latent:
        """Each entry `count` times in a row. The correction is shared, because it is large."""
        index = torch.arange(len(self.latent), device=self.latent.device).repeat_interleave(count)
        return replace(replace(self, correction=None).select(index), correction=self.correction)
