from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldline.models.layers.regularizers import covariance, variance


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.integers(2, 8), st.integers(2, 5), st.integers(0, 1000))
def test_it_is_the_published_formula(times: int, batch: int, size: int, seed: int) -> None:
    latents = 2 * normal(times, batch, size, seed=seed)
    spread, pairs = [], []
    for group in latents.double().numpy():
        found = np.cov(group.T)
        spread.append(np.maximum(0, 1 - np.sqrt(np.diag(found) + 1e-4)).mean())
        pairs.append((found[~np.eye(size, dtype=bool)] ** 2).mean())
    assert float(variance(latents)) == pytest.approx(np.mean(spread), abs=1e-5)
    assert float(covariance(latents)) == pytest.approx(np.mean(pairs), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("term", [variance, covariance])
def test_a_collapse_gives_finite_gradients(term: Callable[[torch.Tensor], torch.Tensor]) -> None:
    latents = torch.ones(1, 4, 3, requires_grad=True)
    term(latents).backward()
    assert latents.grad is not None
    assert latents.grad.isfinite().all()


@pytest.mark.parametrize("term", [variance, covariance])
def test_what_does_not_count_might_as_well_not_be_there(term: Callable[..., torch.Tensor]) -> None:
    latents, counted = 0.5 * normal(2, 9, 3), torch.ones(2, 9, dtype=torch.bool)
    counted[:, 5:] = False
    due = term(latents[:, :5])
    torch.testing.assert_close(term(latents.masked_fill(~counted[..., None], 7.0), counted=counted), due)
    counted[1, 1:] = False  # one latent has no spread
    torch.testing.assert_close(term(latents, counted=counted), term(latents[:1, :5]))
    assert term(latents, counted=torch.zeros_like(counted)) == 0


@pytest.mark.parametrize("term", [variance, covariance])
def test_it_looks_at_the_latents_of_all_processes(
    term: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = 0.5 * normal(2, 9, 3)
    due = term(latents)
    elsewhere = {3: latents[:, 4:], 2: torch.ones(2, 5)}
    monkeypatch.setattr(
        "worldline.models.layers.regularizers.gather", lambda here, dim: torch.cat([here, elsewhere[here.ndim]], dim)
    )
    torch.testing.assert_close(term(latents[:, :4]), due)


def test_half_precision_latents_are_judged_in_full() -> None:
    latents = normal(2, 30, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert covariance(latents) == covariance(latents.float())
        found = covariance(latents.float())
    assert found == covariance(latents.float())
