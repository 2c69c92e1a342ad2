"""A fast rollout of LeWM for many candidates, with the same results as its predictor (docs/design/lewm-rollout.md).

It reuses keys and values while the window grows; once it slides, learned positions shift and all are recomputed. It
shares steps and modulations between candidates and windows. It skips all tokens but the last in the last layer, and
the attention of the first position, which attends only to itself. Affine maps are folded into the next product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from worldline.models.layers.batch_norm import BatchNorm
from worldline.models.lewm_predictor import LewmPredictor, PredictorBlock

ROWS_AT_ONCE: Final = {"cpu": 150}
"""Candidates per pass. On CPU, more make activations leave the cache between products; fewer read the weights too
often."""
MAX_ROWS: Final = 8192
"""Candidates per pass on other devices, which bounds memory."""


@dataclass(frozen=True, kw_only=True)
class FoldedBlock:
    """Weights [in, out] of a block. Weights after a normalisation include a bias, see `_with_bias`."""

    query: Float[Tensor, "D inner"]
    key: Float[Tensor, "D inner"]
    value: Float[Tensor, "D inner"]
    only: Float[Tensor, "D D"]
    """Attention output of a token that attends only to itself."""
    out: Float[Tensor, "inner D"]
    out_bias: Float[Tensor, "D"]
    up: Float[Tensor, "D wide"]
    down: Float[Tensor, "wide D"]
    down_bias: Float[Tensor, "D"]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The folded weights of a predictor and of the projection after it; created by `fold`."""

    blocks: tuple[FoldedBlock, ...]
    num_heads: int
    position: Float[Tensor, "H D"]
    steer: Float[Tensor, "parts D D"]
    """Six parts per block, in order: shift, scale + 1 and gate of the attention, then of the network."""
    steer_bias: Float[Tensor, "parts 1 D"]
    wide: Float[Tensor, "D wide"]
    narrow: Float[Tensor, "wide D"]
    narrow_bias: Float[Tensor, "D"]


@torch.no_grad()
def fold(predictor: LewmPredictor, projection: nn.Sequential, kind: torch.dtype) -> Folded:
    """Folds the current weights, for evaluation mode and products in `kind`."""
    blocks = [block for block in predictor.blocks if isinstance(block, PredictorBlock)]
    first, norm, _, last = projection
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    # In evaluation mode batch normalisation is linear: it becomes part of the layer before it.
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    wide = first.weight * gain[:, None]
    wide_bias = (first.bias - norm.running_mean) * gain + norm.bias
    width = predictor.position.shape[1]
    # Modulation by 1 + scale: the 1 becomes part of the bias (parts are shift, scale and gate of both layers).
    parts = predictor.position.new_zeros(6, width)
    parts[1] = parts[4] = 1.0
    steer = torch.cat([block.steer.weight for block in blocks]).unflatten(0, (-1, width))
    steer_bias = torch.cat([block.steer.bias + parts.flatten() for block in blocks]).unflatten(0, (-1, 1, width))
    return Folded(
        blocks=tuple(_fold(block, kind) for block in blocks),
        num_heads=blocks[0].num_heads,
        position=predictor.position.detach().clone(),
        steer=steer.transpose(1, 2).contiguous().to(kind),
        steer_bias=steer_bias.to(kind),
        wide=_with_bias(wide * predictor.norm.weight, wide_bias + wide @ predictor.norm.bias).to(kind),
        narrow=last.weight.t().contiguous().to(kind),
        narrow_bias=last.bias.to(kind, copy=True),
    )


def _fold(block: PredictorBlock, kind: torch.dtype) -> FoldedBlock:
    gain, shift = block.before_attention.weight, block.before_attention.bias
    scale = (len(block.joined.weight) // 3 // block.num_heads) ** -0.5
    query, key, value = block.joined.weight.chunk(3)
    output, after = block.out.weight @ value, block.before_mlp
    return FoldedBlock(
        query=_with_bias(scale * query * gain, scale * query @ shift).to(kind),
        key=_with_bias(key * gain, torch.zeros_like(key[:, 0])).to(
            kind
        ),  # its bias adds the same to all scores, so softmax cancels it
        value=_with_bias(value * gain, torch.zeros_like(value[:, 0])).to(kind),  # its bias is in `out_bias`
        only=_with_bias(output * gain, torch.zeros_like(block.out.bias)).to(kind),
        out=block.out.weight.t().contiguous().to(kind),
        out_bias=(block.out.bias + output @ shift).to(kind),
        up=_with_bias(block.up.weight * after.weight, block.up.bias + block.up.weight @ after.bias).to(kind),
        down=block.down.weight.t().contiguous().to(kind),
        down_bias=block.down.bias.to(kind, copy=True),
    )


def _with_bias(weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]) -> Float[Tensor, "in out"]:
    """Weights W with (x + 1) W = weight x + bias, for every x with sum 0, such as a normalised token.

    The bias needs no extra operation, because the normalisation adds the 1 (see `_normalised`).
    """
    spare = (bias - weight.sum(1)) / weight.shape[1]
    return (weight + spare[:, None]).t().contiguous()


def _normalised(tokens: Tensor) -> Tensor:
    """Tokens with mean 1 and standard deviation 1."""
    width = tokens.shape[-1:]
    return layer_norm(tokens, width, bias=tokens.new_ones(width), eps=1e-5)


def _steered(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _normalised(torch.addcmul(shift, layer_norm(tokens, tokens.shape[-1:], eps=1e-6), scale))


@torch.no_grad()
def imagine(
    folded: Folded, latents: Float[Tensor, "B K D"], shared: Float[Tensor, "B K-1 D"], codes: Float[Tensor, "B N T D"]
) -> Float[Tensor, "B N T D"]:
    """The latents after each of T steps of N candidates.

    Args:
        folded: from `fold`; its dtype is that of the products.
        latents: of the last observations, at most `history`.
        shared: codes of the inputs between them.
        codes: of the future inputs.
    """
    (batch, versions, steps), past = codes.shape[:3], latents.shape[1] - 1
    history = len(folded.position)
    by_step = codes.flatten(0, 1).transpose(0, 1)
    problems = torch.arange(batch, device=codes.device).repeat_interleave(versions)
    prefixes = _prefixes(folded, latents[:, :past], shared)
    num_parts = max(1, -(-len(problems) // ROWS_AT_ONCE.get(codes.device.type, MAX_ROWS)))
    predicted, rows = list[Tensor](), None
    with torch.autocast(codes.device.type, enabled=False):  # the dtype of the folded weights decides
        for some in torch.arange(len(problems), device=codes.device).tensor_split(num_parts):
            if rows is None or rows.size != len(some):
                rows = _CandidateRows(folded, len(some), steps)
            path, known = [latents[problems[some], past]], 0
            steering = rows.steer(by_step[:, some])
            for now in range(steps):
                first = max(0, past + now + 1 - history)
                if now == 0 or first > 0:  # positions shifted, so cached keys are invalid
                    known = rows.load(prefixes[first], problems[some]) if first < past else 0
                new = slice(first + known - past, now + 1)
                tokens = torch.stack(path[new]) + folded.position[known : known + len(path[new]), None]
                path.append(rows.project(rows.advance(tokens, steering[:, :, new], known)))
                known = past + now + 1 - first
            predicted.append(torch.stack(path[1:], 1))
    return torch.as_tensor(torch.cat(predicted).unflatten(0, (batch, versions)))


@dataclass(frozen=True, kw_only=True)
class _Prefix:
    """Keys and values of the first C positions in each block, which all candidates of a problem share."""

    keys: Float[Tensor, "blocks C B inner"]
    values: Float[Tensor, "blocks C B inner"]


def _prefixes(folded: Folded, latents: Float[Tensor, "B P D"], codes: Float[Tensor, "B P D"]) -> list[_Prefix]:
    """The prefixes that start at each of the P steps before the present; a sliding window needs each of them."""
    prefixes = []
    for first in range(latents.shape[1]):
        tokens = latents[:, first:].transpose(0, 1)
        count, batch = tokens.shape[:2]
        rows = _CandidateRows(folded, batch, count)
        with torch.autocast(tokens.device.type, enabled=False):
            steering = rows.steer(codes[:, first:].transpose(0, 1))
            rows.advance(tokens + folded.position[:count, None], steering, 0)
        prefixes.append(_Prefix(keys=rows.keys[:, :count].flatten(3), values=rows.values[:, :count].flatten(3)))
    return prefixes


class _CandidateRows:
    """M candidates with preallocated buffers for all intermediate results.

    The products are so small that allocating memory anew would take a noticeable share of the time.
    """

    def __init__(self, folded: Folded, size: int, steps: int) -> None:
        self.folded, self.size = folded, size
        history, width = folded.position.shape
        block = folded.blocks[0]
        inner = (folded.num_heads, block.key.shape[1] // folded.num_heads)
        self.keys = block.key.new_empty(len(folded.blocks), history, size, *inner)
        self.values = torch.empty_like(self.keys)
        self.queries, self.mixed = block.key.new_empty(2, history, size, *inner)
        self.wide = block.key.new_empty(history * size, block.up.shape[1])
        self.projected = block.key.new_empty(size, folded.wide.shape[1])
        self.out = block.key.new_empty(history, size, width)
        self.steering = block.key.new_empty(len(folded.steer), steps * size, width)

    def steer(self, codes: Float[Tensor, "T M D"]) -> Float[Tensor, "blocks 6 T M D"]:
        """The modulation of every block by the inputs, in one product."""
        steps = len(codes)
        each = silu(codes).flatten(0, 1).to(self.steering.dtype).expand(len(self.steering), -1, -1)
        torch.baddbmm(self.folded.steer_bias, each, self.folded.steer, out=self.steering)
        return torch.as_tensor(self.steering.unflatten(1, (steps, -1)).unflatten(0, (-1, 6)))

    def load(self, prefix: _Prefix, problems: Tensor) -> int:
        """Copies the shared keys and values of the candidates' problems; returns the number of positions."""
        count = prefix.keys.shape[1]
        self.keys[:, :count].flatten(3).copy_(prefix.keys[:, :, problems])
        self.values[:, :count].flatten(3).copy_(prefix.values[:, :, problems])
        return count

    def advance(
        self, tokens: Float[Tensor, "n M D"], steering: Float[Tensor, "blocks 6 n M D"], known: int
    ) -> Float[Tensor, "M D"]:
        """The last token after all blocks.

        Args:
            tokens: tokens without cached keys and values, by position.
            steering: their modulation, from `steer`.
            known: number of positions before them, with cached keys and values.
        """
        for number, block in enumerate(self.folded.blocks):
            newest_only = number == len(self.folded.blocks) - 1
            kept = self.keys[number], self.values[number]
            tokens = self._block(block, tokens, steering[number], kept, known, newest_only=newest_only)
        return tokens[-1]

    def project(self, newest: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """The latents of the last tokens."""
        seen = _normalised(newest).to(self.projected.dtype)
        wide = torch.ops.aten.gelu_(torch.mm(seen, self.folded.wide, out=self.projected))
        return torch.addmm(self.folded.narrow_bias, wide, self.folded.narrow).to(newest.dtype)

    def _block(
        self,
        block: FoldedBlock,
        tokens: Float[Tensor, "n M D"],
        steering: Float[Tensor, "6 n M D"],
        kept: tuple[Tensor, Tensor],
        known: int,
        *,
        newest_only: bool,
    ) -> Float[Tensor, "K M D"]:
        """The output tokens of one block, or only the last."""
        end, kind = known + len(tokens), self.out.dtype
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = steering.unbind()
        seen = _steered(tokens, shift, scale).to(kind)
        for weight, where in zip((block.key, block.value), kept, strict=True):
            torch.mm(seen.flatten(0, 1), weight, out=where[known:end].flatten(2).flatten(0, 1))
        wanted = slice(-1 if newest_only else 0, None)
        first = end - 1 if newest_only else known
        attended = self._attend(block, seen[wanted], kept, first)
        tokens = torch.addcmul(tokens[wanted], gate[wanted], attended)
        seen = _steered(tokens, shift_mlp[wanted], scale_mlp[wanted]).to(kind).flatten(0, 1)
        wide = torch.ops.aten.gelu_(torch.mm(seen, block.up, out=self.wide[: len(seen)]))
        out = self.out[: len(tokens)]
        torch.addmm(block.down_bias, wide, block.down, out=out.flatten(0, 1))
        return torch.addcmul(tokens, gate_mlp[wanted], out)

    def _attend(
        self, block: FoldedBlock, seen: Float[Tensor, "n M D"], kept: tuple[Tensor, Tensor], first: int
    ) -> Float[Tensor, "n M D"]:
        """The attention output of tokens at positions from `first` on."""
        # The first token attends to itself only, so its output is one product.
        out = self.out[: len(seen)]
        alone = int(first == 0)
        if alone:
            torch.addmm(block.out_bias, seen[0], block.only, out=out[0])
        if len(seen) == alone:
            return out
        keys, values = kept
        queries, mixed = (buffer[: len(seen) - alone] for buffer in (self.queries, self.mixed))
        torch.mm(seen[alone:].flatten(0, 1), block.query, out=queries.flatten(2).flatten(0, 1))
        for position, (query, mix) in enumerate(zip(queries, mixed, strict=True), first + alone):
            weights = torch.linalg.vecdot(query, keys[: position + 1]).softmax(0)[..., None]
            torch.mul(weights[0], values[0], out=mix)
            for number in range(1, position + 1):
                mix.addcmul_(weights[number], values[number])
        torch.addmm(block.out_bias, mixed.flatten(2).flatten(0, 1), block.out, out=out[alone:].flatten(0, 1))
        return out
