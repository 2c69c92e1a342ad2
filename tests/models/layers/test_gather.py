"""Means and draws over a batch that several processes share; two real ones, with unequal gaps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from worldline.models.layers.gather import gather, share_draw, share_mean, whole_mean
from worldline.training.distributed import processes

VALUES = torch.arange(12.0).reshape(4, 3).square()
WEIGHT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 1.0, 0.0], [1.0, 1.0, 0.0]])  # the last one has no value


def uniform(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def loss(values: Tensor, weight: Tensor) -> Tensor:
    """Means of every kind: of all, of each column, and relative to a scale."""
    scale = 1 + whole_mean(values, weight, 0)
    spread = gather(values).var(0).sum()
    return share_mean(values, weight) + (share_mean(values.sin(), weight, 0) / scale).sum() + spread


def by_hand() -> tuple[Tensor, Tensor]:
    """The loss and its gradient, written out for the whole batch."""
    values, count = VALUES.clone().requires_grad_(), WEIGHT.sum(0).clamp(min=1)
    scale = 1 + ((values * WEIGHT).sum(0) / count).detach()
    columns = (values.sin() * WEIGHT).sum(0) / count
    whole = (values * WEIGHT).sum() / WEIGHT.sum() + (columns / scale).sum() + values.var(0).sum()
    whole.backward()
    assert values.grad is not None
    return whole.detach(), values.grad


def test_in_one_process_they_are_plain_means_and_draws() -> None:
    values, (due, gradient) = VALUES.clone().requires_grad_(), by_hand()
    found = loss(values, WEIGHT)
    found.backward()
    torch.testing.assert_close(found.detach(), due)
    torch.testing.assert_close(values.grad, gradient)
    assert torch.equal(share_draw(uniform, (4, 3)), uniform((4, 3)))
    assert not whole_mean(values, WEIGHT, 0).requires_grad


def test_without_any_weight_a_mean_is_zero() -> None:
    none = torch.zeros_like(WEIGHT)
    assert share_mean(VALUES, none) == 0
    assert torch.equal(whole_mean(VALUES, none, 0), torch.zeros(3))


def share(rank: int, folder: str) -> None:
    """What one of two processes computes on its half; it writes down what came of it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    values = VALUES[half].clone().requires_grad_()
    with processes():
        found = loss(values, WEIGHT[half])
        found.backward()
        assert values.grad is not None
        kept = found.detach(), values.grad, whole_mean(VALUES[half], WEIGHT[half], 0), share_draw(uniform, (2, 3))
    torch.save(kept, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_of_their_halves_what_one_makes_of_the_whole(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(share, (str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    losses, gradients, means, draws = zip(*halves, strict=True)
    due, gradient = by_hand()
    torch.testing.assert_close(torch.stack(losses).mean(), due)
    torch.testing.assert_close(torch.cat(gradients) / 2, gradient)  # as `average_gradients` does
    for mean in means:
        torch.testing.assert_close(mean, whole_mean(VALUES, WEIGHT, 0))
    assert torch.equal(torch.cat(draws), uniform((4, 3)))
