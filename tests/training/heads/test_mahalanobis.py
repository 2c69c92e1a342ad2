from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(latents: torch.Tensor) -> MahalanobisScore:
    head = MahalanobisScore(MahalanobisConfig(latent_size=latents.shape[1]))
    head.fit(latents)
    return head


@given(st.integers(0, 1000), st.integers(1, 5))
def test_it_is_the_mahalanobis_distance(seed: int, size: int) -> None:
    mixing = normal(seed, size, size) + 2 * torch.eye(size)
    latents = normal(seed + 1, 300, size) @ mixing + 3
    centred = (latents - latents.mean(0)).double().numpy()
    covariance = centred.T @ centred / 300
    assume(np.linalg.cond(covariance) < 1e3)
    others = normal(seed + 2, 20, size) * 5
    gap = others.double().numpy() - latents.double().numpy().mean(0)
    due = np.sqrt(np.einsum("ni,ij,nj->n", gap, np.linalg.inv(covariance), gap))
    np.testing.assert_allclose(fitted(latents)(others).numpy(), due, rtol=1e-3, atol=1e-3)


def test_a_direction_without_variance_still_tells_the_new() -> None:
    """Latents on a line: off the line is strange, and never infinitely so."""
    line = torch.cat([normal(0, 500, 1), torch.zeros(500, 1)], 1)
    head = fitted(line)
    on, off = head(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert 50 < off / on < 1000
    assert fitted(torch.ones(50, 3))(torch.ones(50, 3)).isfinite().all()
