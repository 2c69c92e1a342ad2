"""A causal transformer with sliding-window attention and a cache of keys and values.

Positions are relative (rotary) and attention covers the last `span` steps. So stepping with a cache gives the same
result as one pass over a sequence of any length. Sources: RoFormer (2104.09864); AdaLN-zero from DiT (2212.09748);
sliding-window attention from Longformer (2004.05150).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from worldline.errors import ConfigError
from worldline.models.layers.memory import Memory

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


@dataclass(frozen=True, kw_only=True)
class Cache(Memory):
    """The last keys and values of each layer.

    Entries with the same past, such as the futures of one world, share it: R consecutive entries have a common past,
    and each has its own keys and values since then.

    Args:
        past: per layer [B / R, heads, P, size], the common past; empty if there is none.
        kept: per layer [B, heads, C, size], the steps since then; P + C is below the span.
        position: number of steps so far.
    """

    past: tuple[Pair, ...] = ()
    kept: tuple[Pair, ...] = ()
    position: int = 0

    @property
    def length(self) -> int:
        """P + C."""
        return self._num_past + (self.kept[0][0].shape[2] if self.kept else 0)

    def within(self, reach: int) -> Cache:
        """The cache of the last `reach` steps."""
        old = max(0, self.length - reach)
        past = _each(self.past, lambda values: values[:, :, old:]) if old < self._num_past else ()
        own = max(0, old - self._num_past)
        return replace(self, past=past, kept=_each(self.kept, lambda values: values[:, :, own:]))

    def select(self, index: Tensor) -> Cache:
        """The cache of the batch entries in `index`."""
        if not self.kept:
            return self
        groups, counts = torch.unique_consecutive(index // self._repeats, return_counts=True)
        if not len(index) or (counts * len(groups) != len(index)).any():  # no entries, or groups of different sizes
            return Cache(kept=_pick(self._expanded(), index), position=self.position)
        if self.past or len(groups) == len(index):
            return replace(self, past=_pick(self.past, groups), kept=_pick(self.kept, index))
        none = _each(self.kept, lambda values: values[:, :, :0])
        return replace(self, past=_pick(self.kept, groups), kept=_pick(none, index))

    def detach(self) -> Cache:
        """The cache without gradient history."""
        return replace(self, past=_each(self.past, Tensor.detach), kept=_each(self.kept, Tensor.detach))

    @property
    def _num_past(self) -> int:
        return self.past[0][0].shape[2] if self.past else 0

    @property
    def _repeats(self) -> int:
        return len(self.kept[0][0]) // len(self.past[0][0]) if self.past else 1

    def _expanded(self) -> tuple[Pair, ...]:
        """Keys and values per layer, with the common past repeated for each entry."""
        if not self.past:
            return self.kept
        past = _each(self.past, lambda values: values.repeat_interleave(self._repeats, 0))
        pairs = zip(past, self.kept, strict=True)
        return tuple((torch.cat([old[0], new[0]], 2), torch.cat([old[1], new[1]], 2)) for old, new in pairs)


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Positions and attention mask of T tokens."""

    turn: Tensor  # [T, size / 2], rotary angles
    seen: Tensor  # [T, P + C + T], keys to which each token attends


class TransformerBlock(nn.Module):
    """Attention and a two-layer network with residual connections; with a condition, modulated by AdaLN-zero."""

    def __init__(self, *, width: int, num_heads: int, condition: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.before_attention = nn.LayerNorm(width, elementwise_affine=condition == 0)
        self.before_mlp = nn.LayerNorm(width, elementwise_affine=condition == 0)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.steer = nn.Linear(condition, 6 * width) if condition else None
        if self.steer is not None:
            nn.init.zeros_(self.steer.weight)
            nn.init.zeros_(self.steer.bias)

    def forward(
        self, tokens: Tensor, condition: Tensor | None, past: Pair | None, kept: Pair | None, places: _Places
    ) -> tuple[Tensor, Pair]:
        """The output tokens, and the keys and values including theirs."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (0.0, 0.0, 1.0, 0.0, 0.0, 1.0)
        if self.steer is not None:
            assert condition is not None
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.steer(condition).chunk(6, -1)
        steered = self.before_attention(tokens) * (1 + scale) + shift
        attended, kept = self._attend(steered, past, kept, places)
        tokens = tokens + gate * attended
        inner = self.mlp(self.before_mlp(tokens) * (1 + scale_mlp) + shift_mlp)
        return tokens + gate_mlp * inner, kept

    def _attend(self, tokens: Tensor, past: Pair | None, kept: Pair | None, places: _Places) -> tuple[Tensor, Pair]:
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = _rotate(_precise(query), places.turn), _rotate(_precise(key), places.turn), _precise(value)
        if kept is not None:
            key, value = torch.cat([kept[0], key], 2), torch.cat([kept[1], value], 2)
        kept = key, value
        with torch.autocast(tokens.device.type, enabled=False):
            if past is None:
                mixed = scaled_dot_product_attention(query, *kept, attn_mask=places.seen)
            else:
                mixed = _attend_in_common(query, past, kept, places.seen)
        return self.out(mixed.to(tokens.dtype).transpose(1, 2).flatten(2)), kept


class CausalTransformer(nn.Module):
    """Maps tokens to tokens; output i depends on inputs i - depth * (span - 1) to i.

    Args:
        width: of tokens and layers, a multiple of `2 * num_heads`.
        depth: number of layers.
        num_heads: attention heads.
        span: steps that attention covers, including the present one, at least 1.
        condition: size of the condition of each step; 0 for none.
    """

    def __init__(self, *, width: int, depth: int, num_heads: int, span: int, condition: int = 0) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ConfigError(f"width is {width}. It must be a multiple of twice the number of heads, {2 * num_heads}.")
        self.span, self.size = span, width // num_heads
        self.blocks = nn.ModuleList(
            TransformerBlock(width=width, num_heads=num_heads, condition=condition) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Float[Tensor, "B T width"],
        condition: Float[Tensor, "B T condition"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "B T width"], Cache]:
        """The tokens after all layers, and the cache after the last one.

        Args:
            tokens: the next T tokens of a sequence.
            condition: of each token; None if and only if the layer has no condition.
            cache: of the steps before; None at the start.
        """
        # Positions and mask are the same in all layers.
        before = cache if cache is not None else Cache()
        now = torch.arange(before.position, before.position + tokens.shape[1], device=tokens.device)
        keys = torch.arange(before.position - before.length, before.position + len(now), device=tokens.device)
        places = _Places(turn=_angles(now, self.size), seen=(keys <= now[:, None]) & (keys > now[:, None] - self.span))
        kepts = []
        for number, block in enumerate(self.blocks):
            past = before.past[number] if before.past else None
            kept = before.kept[number] if before.kept else None
            tokens, kept = block(tokens, condition, past, kept, places)
            kepts.append(kept)
        after = replace(before, kept=tuple(kepts), position=before.position + tokens.shape[1])
        return self.norm(tokens), after.within(self.span - 1)


def _angles(steps: Int[Tensor, "T"], size: int) -> Float[Tensor, "T half"]:
    speed = 1000.0 ** -(torch.arange(size // 2, device=steps.device) / (size // 2))
    return steps[:, None] * speed


def _rotate(vectors: Tensor, turn: Tensor) -> Tensor:
    left, right = vectors.chunk(2, -1)
    sine, cosine = turn.sin().to(vectors.dtype), turn.cos().to(vectors.dtype)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], -1)


def _precise(values: Tensor) -> Tensor:
    """At least float32: on CPU, training with torch's attention in bfloat16 takes up to six times as long."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _attend_in_common(query: Tensor, past: Pair, own: Pair, seen: Tensor) -> Tensor:
    """Attention of [B, heads, T, size] to the common past, with one product for all entries, and to own keys."""
    groups, (keys, values) = len(past[0]), own
    query = query * query.shape[-1] ** -0.5

    def gather(each: Tensor) -> Tensor:
        """[B, heads, T, n] to [B / R, heads, R * T, n]."""
        return torch.as_tensor(each.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2, 3))

    def spread(together: Tensor) -> Tensor:
        """The inverse of `gather`."""
        return torch.as_tensor(together.unflatten(2, (-1, query.shape[2])).transpose(1, 2).flatten(0, 1))

    common = spread(gather(query) @ past[0].transpose(-1, -2))
    scores = torch.cat([common, query @ keys.transpose(-1, -2)], -1)
    shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    first, rest = shares.split([common.shape[-1], keys.shape[2]], -1)
    return torch.as_tensor(spread(gather(first) @ past[1]) + rest @ values)


def _each(pairs: tuple[Pair, ...], change: Callable[[Tensor], Tensor]) -> tuple[Pair, ...]:
    return tuple((change(keys), change(values)) for keys, values in pairs)


def _pick(pairs: tuple[Pair, ...], index: Tensor) -> tuple[Pair, ...]:
    return _each(pairs, lambda values: values[index])
