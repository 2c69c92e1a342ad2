from __future__ import annotations

import pytest
import torch

from worldline.models.layers.transformer import Cache, CausalTransformer


def network(*, condition: int = 0, span: int = 4, depth: int = 2) -> CausalTransformer:
    torch.manual_seed(0)
    made = CausalTransformer(width=16, depth=depth, num_heads=2, span=span, condition=condition)
    for block in made.blocks:
        if block.steer is not None:
            torch.nn.init.normal_(block.steer.weight, std=0.3)
    return made.eval()


@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 5], [2, 1, 6]])
def test_stepping_with_a_cache_gives_what_one_pass_gives(condition: int, pieces: list[int]) -> None:
    made, tokens = network(condition=condition), torch.randn(3, 9, 16)
    steer = torch.randn(3, 9, condition) if condition else None
    whole, _ = made(tokens, steer)
    cache, parts, first = None, [], 0
    for size in pieces:
        here = slice(first, first + size)
        part, cache = made(tokens[:, here], None if steer is None else steer[:, here], cache)
        parts.append(part)
        first += size
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)


def test_half_precision_is_not_that_of_what_is_held_nor_of_attention() -> None:
    made, tokens = network(), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        _, cache = made(tokens)
        index, later = torch.tensor([0, 0, 1, 1]), torch.randn(4, 1, 16)
        shared = cache.select(index)
        apart = Cache(kept=tuple((keys[index], values[index]) for keys, values in cache.kept), position=cache.position)
        assert {one.dtype for pair in (*shared.past, *shared.kept) for one in pair} == {torch.float32}
        torch.testing.assert_close(made(later, None, shared)[0], made(later, None, apart)[0], rtol=0, atol=1e-5)


def test_it_sees_its_span_and_nothing_ahead() -> None:
    made, tokens = network(span=3, depth=1), torch.randn(1, 8, 16)
    before, _ = made(tokens)
    for changed in range(8):
        other = tokens.clone()
        other[:, changed] += torch.randn(16)
        after, _ = made(other)
        moved = (after - before).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [changed <= step < changed + 3 for step in range(8)]


def test_positions_are_relative() -> None:
    made, tokens = network(span=3, depth=1), torch.randn(1, 6, 16)
    late, _ = made(torch.cat([torch.randn(1, 50, 16), tokens], 1))
    alone, _ = made(tokens)
    torch.testing.assert_close(late[:, -4:], alone[:, -4:], rtol=1e-4, atol=1e-4)
