from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldline.training.heads.distance import Distance, DistanceConfig

SEEDS, SIZES = st.integers(0, 10_000), st.sampled_from([2, 6, 16])
FLOOR = 1e-3
"""From a latent to itself: the root is kept off 0, where its slope is infinite."""


def head(seed: int, size: int = 16) -> Distance:
    torch.manual_seed(seed)
    return Distance(DistanceConfig(latent_size=3, width=8, size=size))


def latents(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, SIZES)
def test_it_is_a_quasimetric(seed: int, size: int) -> None:
    distance, (x, y, z) = head(seed, size), latents(seed, 3, 50)
    assert (distance(x, y) > 0).all()
    torch.testing.assert_close(distance(x, x), torch.full((50,), FLOOR))
    assert (distance(x, z) <= distance(x, y) + distance(y, z) + 1e-5).all()


def test_it_is_a_norm_and_the_largest_rise() -> None:
    """With an embedding of four: the first two count as a norm, of the last two only what rises, the most."""
    distance = head(0, size=4)
    start, goal = torch.tensor([0.0, 0, 5, 1]), torch.tensor([3.0, 4, 2, 3])
    assert float(distance.between(start, goal)) == pytest.approx(5 + 2)
    assert float(distance.between(goal, start)) == pytest.approx(5 + 3)


def test_the_gradient_is_finite_from_a_latent_to_itself() -> None:
    x = latents(0, 5).requires_grad_()
    head(0)(x, x.detach().clone()).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
