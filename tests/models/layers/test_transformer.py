from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

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


@pytest.mark.parametrize(
    "chosen",
    [[[0, 0, 1, 1], [0, 1, 2, 3]], [[1, 1, 0, 0], [0, 1, 1, 2]], [[0, 1], [0, 0, 0, 1, 1, 1]], [[2, 0, 0], [1, 1]]],
    ids=["groups", "then unequal", "then groups", "unequal"],
)
@pytest.mark.parametrize("condition", [0, 3])
def test_entries_that_are_chosen_more_than_once_go_on_each_by_itself(chosen: list[list[int]], condition: int) -> None:
    """What they have in common is held once, and none can tell; spans of 6 lose some of it and then all."""
    made, steer = network(condition=condition, span=6), partial(torch.randn, generator=torch.Generator().manual_seed(1))

    def told(cache: Cache | None, story: Tensor, tokens: Tensor) -> tuple[Tensor, Cache, Tensor]:
        """Goes on by some tokens; the last also from the whole story, without a cache."""
        story = torch.cat([story, tokens], 1)
        read, cache = made(*_split(tokens, condition), cache)
        torch.testing.assert_close(
            read, made(*_split(story, condition))[0][:, -tokens.shape[1] :], rtol=1e-4, atol=1e-5
        )
        return read, cache, story

    story = steer(3, 0, 16 + condition)
    _, cache, story = told(None, story, steer(3, 4, 16 + condition))
    for index in map(torch.tensor, chosen):
        cache, story = cache.select(index), story[index]
        for steps in (1, 2, 1):
            _, cache, story = told(cache, story, steer(len(story), steps, 16 + condition))


def test_what_futures_have_in_common_is_held_once() -> None:
    made = network(span=8)
    _, cache = made(torch.randn(3, 5, 16))
    many = cache.select(torch.arange(3).repeat_interleave(100))
    assert sum(keys.numel() for keys, _ in (*many.past, *many.kept)) == sum(keys.numel() for keys, _ in cache.kept)


def test_half_precision_is_not_that_of_what_is_held_nor_of_attention() -> None:
    made, tokens = network(), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        _, cache = made(tokens)
        index, later = torch.tensor([0, 0, 1, 1]), torch.randn(4, 1, 16)
        shared = cache.select(index)
        apart = Cache(kept=tuple((keys[index], values[index]) for keys, values in cache.kept), position=cache.position)
        assert {one.dtype for pair in (*shared.past, *shared.kept) for one in pair} == {torch.float32}
        torch.testing.assert_close(made(later, None, shared)[0], made(later, None, apart)[0], rtol=0, atol=1e-5)


def test_nothing_is_selected_from_what_is_shared() -> None:
    made = network()
    none = made(torch.randn(2, 3, 16))[1].select(torch.tensor([0, 0, 1, 1])).select(torch.zeros(0, dtype=torch.long))
    read, after = made(torch.randn(0, 1, 16), None, none)
    assert (read.shape, after.position) == ((0, 1, 16), 4)
    assert after.select(torch.zeros(0, dtype=torch.long)).position == 4


def test_a_network_in_half_precision_stays_one() -> None:
    assert network().bfloat16()(torch.randn(1, 3, 16).bfloat16())[0].dtype == torch.bfloat16


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


def _split(both: Tensor, condition: int) -> tuple[Tensor, Tensor | None]:
    return both[..., :16], both[..., 16:] if condition else None
