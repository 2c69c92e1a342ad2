"""A causal transformer that can go on from where it stopped, and forgets what lies further back than its span.

Positions are relative (rotary) and attention reaches `span` steps back, so that stepping with a cache gives what
one pass over the whole sequence gives, however long it grows. Sources: RoFormer (2104.09864); AdaLN-zero from DiT
(2212.09748); sliding-window attention from Longformer (2004.05150).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Cache:
    """What the transformer keeps of the steps so far: of each layer the last keys and values.

    Args:
        kept: per layer keys and values [B, heads, C, size], C below the span.
        position: steps so far.
    """

    kept: tuple[tuple[Tensor, Tensor], ...] = ()
    position: int = 0

    def select(self, index: Tensor) -> Cache:
        """The cache of the batch entries in `index`."""
        return Cache(kept=tuple((keys[index], values[index]) for keys, values in self.kept), position=self.position)


class Block(nn.Module):
    """Attention and a two-layer network, each added to what comes in; steered by a condition where there is one."""

    def __init__(self, *, width: int, num_heads: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.before_attention = nn.LayerNorm(width, elementwise_affine=condition == 0)
        self.before_mlp = nn.LayerNorm(width, elementwise_affine=condition == 0)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)
        self.steer = nn.Linear(condition, 6 * width) if condition else None
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(
        self, tokens: Tensor, condition: Tensor | None, kept: tuple[Tensor, Tensor] | None, turn: Tensor, span: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The tokens one layer up, and the keys and values to keep."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
        if self.steer is not None:
            assert condition is not None
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.steer(condition).chunk(6, -1)
        attended, keep = self._attend(self.before_attention(tokens) * (1 + scale) + shift, kept, turn, span)
        tokens = tokens + gate * self.drop(attended)
        inner = self.mlp(self.before_mlp(tokens) * (1 + scale_mlp) + shift_mlp)
        return tokens + gate_mlp * self.drop(inner), keep

    def _attend(
        self, tokens: Tensor, kept: tuple[Tensor, Tensor] | None, turn: Tensor, span: int
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        steps = tokens.shape[1]
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = _rotate(query, turn), _rotate(key, turn)
        if kept is not None:
            key = torch.cat([kept[0].to(key.dtype), key], 2)
            value = torch.cat([kept[1].to(value.dtype), value], 2)
        ahead = torch.arange(key.shape[2]) - torch.arange(key.shape[2] - steps, key.shape[2])[:, None]
        seen = ((ahead <= 0) & (ahead > -span)).to(tokens.device)
        found = scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=self.dropout if self.training else 0.0
        )
        first = max(0, key.shape[2] - (span - 1))
        return self.out(found.transpose(1, 2).flatten(2)), (key[:, :, first:], value[:, :, first:])


class CausalTransformer(nn.Module):
    """Tokens to tokens; output i depends on inputs i - depth * (span - 1) to i.

    Args:
        width: of tokens and layers, a multiple of `2 * num_heads`.
        depth: layers.
        num_heads: of attention.
        span: steps that attention reaches, this one among them, at least 1.
        condition: size of the condition that steers each step, 0 for none.
        dropout: share that is dropped in training; drawn from torch's global generator.
    """

    def __init__(
        self, *, width: int, depth: int, num_heads: int, span: int, condition: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ConfigError(f"width {width} must be a multiple of twice the number of heads, {2 * num_heads}.")
        self.span, self.size = span, width // num_heads
        self.blocks = nn.ModuleList(
            Block(width=width, num_heads=num_heads, condition=condition, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "B T width"],
        condition: Float[Tensor, "B T condition"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "B T width"], Cache]:
        """The tokens after all layers, and the cache to go on from.

        Args:
            tokens: the next T of a sequence.
            condition: of each; None exactly where there is none.
            cache: of the steps before; None at the start.
        """
        before = cache if cache is not None else Cache()
        turn = _angles(before.position, tokens.shape[1], self.size).to(tokens.device)
        kept = []
        for number, block in enumerate(self.blocks):
            last = before.kept[number] if before.kept else None
            tokens, keep = block(tokens, condition, last, turn, self.span)
            kept.append(keep)
        return self.norm(tokens), Cache(kept=tuple(kept), position=before.position + tokens.shape[1])


def _angles(first: int, steps: int, size: int) -> Float[Tensor, "T half"]:
    speed = 1000.0 ** -(torch.arange(size // 2) / (size // 2))
    return torch.arange(first, first + steps)[:, None] * speed


def _rotate(vectors: Tensor, turn: Tensor) -> Tensor:
    """Pairs of numbers of [B, heads, T, size], each pair turned by an angle that grows with its position."""
    left, right = vectors.chunk(2, -1)
    sine, cosine = turn.sin().to(vectors.dtype), turn.cos().to(vectors.dtype)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)
