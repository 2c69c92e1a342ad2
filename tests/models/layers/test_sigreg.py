from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.windows import seeded

from worldline.models.layers.regularizers import sigreg


def misfit(latents: torch.Tensor, num_slices: int = 64, seed: int = 0) -> float:
    return float(sigreg(latents, num_slices=num_slices, generator=seeded(seed)))


def along(slices: np.ndarray, latents: np.ndarray) -> float:
    """The statistic (Epps-Pulley over random slices, without the factor B), written out term by term."""
    points = np.linspace(0, 3, 17)
    total = 0.0
    for group in latents:
        for direction in slices.T:
            s = group @ direction
            for k, t in enumerate(points):
                weight = 2 * (3 / 16) * np.exp(-(t**2) / 2) * (0.5 if k in (0, 16) else 1.0)
                total += weight * ((np.cos(t * s).mean() - np.exp(-(t**2) / 2)) ** 2 + np.sin(t * s).mean() ** 2)
    return total / (len(latents) * slices.shape[1])


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_it_is_the_published_formula(groups: int, batch: int, size: int, seed: int) -> None:
    latents = 3 * torch.randn(groups, batch, size, generator=seeded(seed + 1))
    directions = torch.randn(size, 5, generator=seeded(seed))
    unit = (directions / directions.norm(dim=0)).double().numpy()
    assert misfit(latents, 5, seed) == pytest.approx(along(unit, latents.double().numpy()), rel=1e-4)


def test_half_precision_latents_are_judged_in_full() -> None:
    latents = torch.randn(2, 30, 8, generator=seeded(1)).bfloat16()
    whole = misfit(latents.float())
    assert misfit(latents) == whole
    with torch.autocast("cpu", torch.bfloat16):
        assert misfit(latents.float()) == whole


def test_what_does_not_count_might_as_well_not_be_there() -> None:
    latents = torch.randn(2, 30, 4, generator=seeded(1))
    counted = torch.ones(2, 30, dtype=torch.bool)
    counted[:, 20:] = False
    latents[:, 20:] = 9.0
    found = sigreg(latents, num_slices=8, generator=seeded(), counted=counted)
    assert float(found) == pytest.approx(misfit(latents[:, :20], 8), rel=1e-5)
    counted[1] = False  # a time at which nothing counts
    found = sigreg(latents, num_slices=8, generator=seeded(), counted=counted)
    assert float(found) == pytest.approx(misfit(latents[:1, :20], 8), rel=1e-5)
    assert float(sigreg(latents, num_slices=8, generator=seeded(), counted=~torch.ones_like(counted))) == 0


def test_it_looks_at_the_latents_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(2, 30, 4, generator=seeded(1))
    elsewhere = {3: latents[:, 10:], 2: torch.ones(2, 20)}
    monkeypatch.setattr(
        "worldline.models.layers.regularizers.gather", lambda here, dim: torch.cat([here, elsewhere[here.ndim]], dim)
    )
    found = misfit(latents[:, :10])
    monkeypatch.undo()
    assert found == pytest.approx(misfit(latents), rel=1e-5)
