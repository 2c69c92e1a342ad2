"""The predictor of LeWM: the next latents from latents and inputs of a few steps.

Source: LeWM (arXiv 2603.19312); its blocks are those of DiT (arXiv 2212.09748).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, silu

from worldline.models.layers.gather import share_draw


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Dropout with an explicit generator; torch's own draws from the global generator."""

    rate: float
    generator: torch.Generator

    def __call__(self, values: Tensor) -> Tensor:
        """`values` after dropout."""
        if not self.rate:
            return values

        def keep(shape: tuple[int, ...]) -> Tensor:
            kept = torch.empty(shape, dtype=values.dtype, device=self.generator.device)
            return kept.bernoulli_(1 - self.rate, generator=self.generator).to(values.device)

        return values * share_draw(keep, values.shape).div_(1 - self.rate)


class PredictorBlock(nn.Module):
    """Causal attention and a two-layer network; the inputs scale, shift and gate both (AdaLN-zero)."""

    def __init__(self, *, width: int, num_heads: int, head_size: int, hidden: int) -> None:
        super().__init__()
        inner, self.num_heads = num_heads * head_size, num_heads
        self.steer = nn.Linear(width, 6 * width)
        self.before_attention = nn.LayerNorm(width)
        self.joined = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.before_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        nn.init.zeros_(self.steer.weight)
        nn.init.zeros_(self.steer.bias)

    def forward(self, tokens: Tensor, codes: Tensor, *, kept: slice, drop: Dropout) -> Float[Tensor, "M K D"]:
        """The output tokens at the positions `kept`."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.steer(silu(codes)).chunk(6, -1)
        seen = self.before_attention(_modulated(tokens, shift, scale))
        query, key, value = self.joined(seen).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        ahead = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=tokens.device).triu(1)
        scores = query[:, :, kept] @ key.transpose(2, 3) * key.shape[-1] ** -0.5
        weights = scores.masked_fill(ahead[kept], -torch.inf).softmax(-1)
        mixed = drop(weights).to(value.dtype) @ value
        tokens = tokens[:, kept] + gate[:, kept] * drop(self.out(mixed.transpose(1, 2).flatten(2)))
        seen = self.before_mlp(_modulated(tokens, shift_mlp[:, kept], scale_mlp[:, kept]))
        return torch.as_tensor(tokens + gate_mlp[:, kept] * drop(self.down(drop(gelu(self.up(seen))))))


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.as_tensor(layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class LewmPredictor(nn.Module):
    """Predicts the next latents, before projection, from latents and inputs of up to `history` steps.

    Args:
        history: maximum number of steps.
        width: D, of latents and codes.
        depth: number of blocks.
        num_heads: attention heads of each block.
        head_size: of each head.
        hidden: units of the hidden layer in each block.
    """

    def __init__(self, *, history: int, width: int, depth: int, num_heads: int, head_size: int, hidden: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(history, width))
        self.blocks = nn.ModuleList(
            PredictorBlock(width=width, num_heads=num_heads, head_size=head_size, hidden=hidden) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self, latents: Float[Tensor, "M T D"], codes: Float[Tensor, "M T D"], *, drop: Dropout, last_only: bool
    ) -> Float[Tensor, "M K D"]:
        """The output of each step, or only of the last (K = 1), which saves most of the last block."""
        tokens = latents + self.position[: latents.shape[1]]
        for number, block in enumerate(self.blocks, 1):
            is_last = last_only and number == len(self.blocks)
            tokens = block(tokens, codes, kept=slice(-1 if is_last else 0, None), drop=drop)
        return torch.as_tensor(self.norm(tokens))
