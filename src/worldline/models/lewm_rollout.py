"""LeWM's rollout for many candidates: the same numbers as its predictor gives step by step, with less work.

What is spared: keys and values of earlier steps while the window grows (once it slides, the learned positions shift
and they are made anew); all but the newest token in the last layer; queries, and products with values, of the first
position, which can attend to itself alone; steps that all candidates share; the modulations of a step in each later
window; and affine maps of normalisations, which are folded into the products that follow.
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
"""Candidates that are imagined together. On a processor: with more, what lies between two products leaves the cache;
with fewer, the weights are read too often."""
MAX_ROWS: Final = 8192
"""On any other device, which bounds its memory."""


@dataclass(frozen=True, kw_only=True)
class FoldedBlock:
    """A block's weights [in, out]. Those that follow a normalisation hold a bias, see `_carrying`."""

    query: Float[Tensor, "D inner"]
    key: Float[Tensor, "D inner"]
    value: Float[Tensor, "D inner"]
    only: Float[Tensor, "D D"]
    """From a token that attends to itself alone to what it finds."""
    out: Float[Tensor, "inner D"]
    out_bias: Float[Tensor, "D"]
    up: Float[Tensor, "D wide"]
    down: Float[Tensor, "wide D"]
    down_bias: Float[Tensor, "D"]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """A predictor and the projection after it, made ready to imagine. Made by `fold`."""

    blocks: tuple[FoldedBlock, ...]
    num_heads: int
    position: Float[Tensor, "H D"]
    steer: Float[Tensor, "parts D D"]
    """Six for each block, in its order: shift, scale + 1 and gate of attention, then of the network."""
    steer_bias: Float[Tensor, "parts 1 D"]
    wide: Float[Tensor, "D wide"]
    narrow: Float[Tensor, "wide D"]
    narrow_bias: Float[Tensor, "D"]


@torch.no_grad()
def fold(predictor: LewmPredictor, projection: nn.Sequential, kind: torch.dtype) -> Folded:
    """The weights as they are now, in evaluation mode, for products in `kind`."""
    blocks = [block for block in predictor.blocks if isinstance(block, PredictorBlock)]
    first, norm, _, last = projection
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    assert isinstance(norm, BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    wide = first.weight * gain[:, None]
    wide_bias = (first.bias - norm.running_mean) * gain + norm.bias
    width = predictor.position.shape[1]
    parts = torch.zeros(6, width).to(predictor.position)
    parts[1] = parts[4] = 1.0
    steer = torch.cat([block.steer.weight for block in blocks]).unflatten(0, (-1, width))
    steer_bias = torch.cat([block.steer.bias + parts.flatten() for block in blocks]).unflatten(0, (-1, 1, width))
    return Folded(
        blocks=tuple(_fold(block, kind) for block in blocks),
        num_heads=blocks[0].num_heads,
        position=predictor.position.detach().clone(),
        steer=steer.transpose(1, 2).contiguous().to(kind),
        steer_bias=steer_bias.to(kind),
        wide=_carrying(wide * predictor.norm.weight, wide_bias + wide @ predictor.norm.bias).to(kind),
        narrow=last.weight.t().contiguous().to(kind),
        narrow_bias=last.bias.to(kind, copy=True),
    )


def _fold(block: PredictorBlock, kind: torch.dtype) -> FoldedBlock:
    gain, shift = block.before_attention.weight, block.before_attention.bias
    scale = (len(block.joined.weight) // 3 // block.num_heads) ** -0.5
    query, key, value = block.joined.weight.chunk(3)
    found, after = block.out.weight @ value, block.before_mlp
    return FoldedBlock(
        query=_carrying(scale * query * gain, scale * query @ shift).to(kind),
        key=_carrying(key * gain, torch.zeros_like(key[:, 0])).to(kind),  # its bias would add the same to all scores
        value=_carrying(value * gain, torch.zeros_like(value[:, 0])).to(kind),  # its own is in that of `out`
        only=_carrying(found * gain, torch.zeros_like(block.out.bias)).to(kind),
        out=block.out.weight.t().contiguous().to(kind),
        out_bias=(block.out.bias + found @ shift).to(kind),
        up=_carrying(block.up.weight * after.weight, block.up.bias + block.up.weight @ after.bias).to(kind),
        down=block.down.weight.t().contiguous().to(kind),
        down_bias=block.down.bias.to(kind, copy=True),
    )


def _carrying(weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]) -> Float[Tensor, "in out"]:
    """Weights W with (x + 1) W = weight x + bias for every x whose numbers sum to 0, as those of a normalised token do.

    So a bias costs nothing: the normalisation adds the 1, see `_normalised`.
    """
    spare = (bias - weight.sum(1)) / weight.shape[1]
    return (weight + spare[:, None]).t().contiguous()


def _normalised(tokens: Tensor) -> Tensor:
    """Tokens of mean 1 and deviation 1."""
    width = tokens.shape[-1:]
    return layer_norm(tokens, width, bias=tokens.new_ones(width), eps=1e-5)


def _steered(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _normalised(torch.addcmul(shift, layer_norm(tokens, tokens.shape[-1:], eps=1e-6), scale))


@torch.no_grad()
def imagine(
    folded: Folded,
    latents: Float[Tensor, "B K D"],
    shared: Float[Tensor, "B K-1 D"],
    codes: Float[Tensor, "B N T D"],
) -> Float[Tensor, "B N T D"]:
    """The latents after each of T steps of N candidates.

    Args:
        folded: from `fold`; products are taken in its kind.
        latents: of the last observations, at most as many as the predictor sees.
        shared: codes of the inputs between them.
        codes: of the inputs to come.
    """
    (batch, versions, steps), past = codes.shape[:3], latents.shape[1] - 1
    history = len(folded.position)
    by_step = codes.flatten(0, 1).transpose(0, 1)
    problems = torch.arange(batch, device=codes.device).repeat_interleave(versions)
    prefixes = _prefixes(folded, latents[:, :past], shared)
    num_parts = max(1, -(-len(problems) // ROWS_AT_ONCE.get(codes.device.type, MAX_ROWS)))
    found, rows = list[Tensor](), None
    with torch.autocast(codes.device.type, enabled=False):  # the folded weights say what is half
        for some in torch.arange(len(problems), device=codes.device).tensor_split(num_parts):
            if rows is None or rows.size != len(some):
                rows = _CandidateRows(folded, len(some), steps)
            path, known = [latents[problems[some], past]], 0
            steering = rows.steer(by_step[:, some])
            for now in range(steps):
                first = max(0, past + now + 1 - history)
                if now == 0 or first > 0:  # what was known stood at other positions
                    known = rows.load(prefixes[first], problems[some]) if first < past else 0
                new = slice(first + known - past, now + 1)
                tokens = torch.stack(path[new]) + folded.position[known : known + len(path[new]), None]
                path.append(rows.project(rows.advance(tokens, steering[:, :, new], known)))
                known = past + now + 1 - first
            found.append(torch.stack(path[1:], 1))
    return torch.as_tensor(torch.cat(found).unflatten(0, (batch, versions)))


@dataclass(frozen=True, kw_only=True)
class _Prefix:
    """What all candidates of a problem share: keys and values of the first C positions, in each block."""

    keys: Float[Tensor, "blocks C B inner"]
    values: Float[Tensor, "blocks C B inner"]


def _prefixes(folded: Folded, latents: Float[Tensor, "B P D"], codes: Float[Tensor, "B P D"]) -> list[_Prefix]:
    """Of the P steps before the present, from each of them on: the window leaves one after another behind."""
    found = []
    for first in range(latents.shape[1]):
        tokens = latents[:, first:].transpose(0, 1)
        count, batch = tokens.shape[:2]
        rows = _CandidateRows(folded, batch, count)
        with torch.autocast(tokens.device.type, enabled=False):
            steering = rows.steer(codes[:, first:].transpose(0, 1))
            rows.advance(tokens + folded.position[:count, None], steering, 0)
        found.append(_Prefix(keys=rows.keys[:, :count].flatten(3), values=rows.values[:, :count].flatten(3)))
    return found


class _CandidateRows:
    """M candidates, and room for what lies between the products, each of which writes to where the next one reads.

    Memory that is asked for anew has to be cleared by the system first, which shows beside products this small.
    """

    def __init__(self, folded: Folded, size: int, steps: int) -> None:
        self.folded, self.size = folded, size
        history, width = folded.position.shape
        block = folded.blocks[0]
        inner = (folded.num_heads, block.key.shape[1] // folded.num_heads)
        self.keys = block.key.new_empty(len(folded.blocks), history, size, *inner)
        self.values = torch.empty_like(self.keys)
        self.queries, self.found = block.key.new_empty(2, history, size, *inner)
        self.wide = block.key.new_empty(history * size, block.up.shape[1])
        self.projected = block.key.new_empty(size, folded.wide.shape[1])
        self.out = block.key.new_empty(history, size, width)
        self.steering = block.key.new_empty(len(folded.steer), steps * size, width)

    def steer(self, codes: Float[Tensor, "T M D"]) -> Float[Tensor, "blocks 6 T M D"]:
        """How the inputs steer each block, all in one product."""
        steps = len(codes)
        each = silu(codes).flatten(0, 1).to(self.steering.dtype).expand(len(self.steering), -1, -1)
        torch.baddbmm(self.folded.steer_bias, each, self.folded.steer, out=self.steering)
        return torch.as_tensor(self.steering.unflatten(1, (steps, -1)).unflatten(0, (-1, 6)))

    def load(self, prefix: _Prefix, problems: Tensor) -> int:
        """Takes over what the candidates' problems know; how many positions that is."""
        count = prefix.keys.shape[1]
        self.keys[:, :count].flatten(3).copy_(prefix.keys[:, :, problems])
        self.values[:, :count].flatten(3).copy_(prefix.values[:, :, problems])
        return count

    def advance(
        self, tokens: Float[Tensor, "n M D"], steering: Float[Tensor, "blocks 6 n M D"], known: int
    ) -> Float[Tensor, "M D"]:
        """The newest of the tokens after all blocks.

        Args:
            tokens: those whose keys and values are not known, in the order of their positions.
            steering: from `steer`, theirs.
            known: positions before them, whose keys and values are.
        """
        for number, block in enumerate(self.folded.blocks):
            newest_only = number == len(self.folded.blocks) - 1
            kept = self.keys[number], self.values[number]
            tokens = self._block(block, tokens, steering[number], kept, known, newest_only=newest_only)
        return tokens[-1]

    def project(self, newest: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """The latents that the last tokens stand for."""
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
        """The tokens one block up, or the newest of them alone."""
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
        """What the tokens find among themselves and those before them; the first of them stands at position `first`."""
        out = self.out[: len(seen)]
        alone = int(first == 0)
        if alone:
            torch.addmm(block.out_bias, seen[0], block.only, out=out[0])
        if len(seen) == alone:
            return out
        keys, values = kept
        queries, found = (room[: len(seen) - alone] for room in (self.queries, self.found))
        torch.mm(seen[alone:].flatten(0, 1), block.query, out=queries.flatten(2).flatten(0, 1))
        for position, (query, mix) in enumerate(zip(queries, found, strict=True), first + alone):
            weights = torch.linalg.vecdot(query, keys[: position + 1]).softmax(0)[..., None]
            torch.mul(weights[0], values[0], out=mix)
            for number in range(1, position + 1):
                mix.addcmul_(weights[number], values[number])
        torch.addmm(block.out_bias, found.flatten(2).flatten(0, 1), block.out, out=out[alone:].flatten(0, 1))
        return out
