from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.windows import seeded

from worldline.models.layers.sigreg import sigreg


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


def test_it_is_what_stable_worldmodel_computes_over_the_batch_size() -> None:
    """Latents -1, 0 and 1 of one number: any direction gives these, with mean cosine (1 + 2 cos t) / 3 and sine 0."""
    points, step = np.linspace(0, 3, 17), 3 / 16
    target = np.exp(-(points**2) / 2)
    trapezoid = np.full(17, 2 * step) * target
    trapezoid[[0, -1]] = step * target[[0, -1]]
    published = 3 * float((trapezoid * ((1 + 2 * np.cos(points)) / 3 - target) ** 2).sum())
    latents = torch.tensor([[[-1.0], [0.0], [1.0]]])
    assert 3 * misfit(latents, 7) == pytest.approx(published, abs=1e-6)


@given(st.floats(0.1, 3), st.integers(0, 1000))
def test_it_is_exact_to_a_millionth(spread: float, seed: int) -> None:
    latents = spread * torch.randn(2, 64, 6, generator=seeded(seed + 1))
    directions = torch.randn(6, 4, generator=seeded(seed))
    unit = directions.double() / directions.double().norm(dim=0)
    assert misfit(latents, 4, seed) == pytest.approx(along(unit.numpy(), latents.double().numpy()), abs=1e-6)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_it_is_the_published_formula(groups: int, batch: int, size: int, seed: int) -> None:
    latents = 3 * torch.randn(groups, batch, size, generator=seeded(seed + 1))
    directions = torch.randn(size, 5, generator=seeded(seed))
    unit = (directions / directions.norm(dim=0)).double().numpy()
    assert misfit(latents, 5, seed) == pytest.approx(along(unit, latents.double().numpy()), rel=1e-4)


def test_one_latent_at_the_origin_by_hand() -> None:
    """Every cosine is 1 and every sine 0, whatever the direction: the trapezoid of 2 exp(-t²/2) (1 - exp(-t²/2))²."""
    points = np.linspace(0, 3, 17)
    gauss = np.exp(-(points**2) / 2)
    due = np.trapezoid(2 * gauss * (1 - gauss) ** 2, points)
    assert misfit(torch.zeros(1, 1, 4)) == pytest.approx(due, rel=1e-5)
    assert misfit(torch.zeros(3, 50, 7)) == pytest.approx(due, rel=1e-5)


def test_it_vanishes_for_a_gaussian_as_the_batch_grows() -> None:
    """Its expectation falls as 1 / B."""
    small, large = (misfit(torch.randn(200_000 // size, size, 4, generator=seeded(1)), 16) for size in (100, 2000))
    assert small == pytest.approx(20 * large, rel=0.2)
    assert large < 1e-3


@pytest.mark.parametrize(
    "change",
    [
        lambda z: 0 * z,  # collapsed to a point
        lambda z: z * torch.tensor([1.0, 1.0, 0.01, 0.01]),  # collapsed to a plane
        lambda z: z[..., :1].expand_as(z),  # all dimensions the same
        lambda z: 2 * z,  # too wide
        lambda z: z + 1,  # off the origin
        lambda z: z.sign(),  # corners of a cube
    ],
    ids=["point", "plane", "copies", "wide", "shifted", "corners"],
)
def test_what_is_not_a_standard_gaussian_costs(change: object) -> None:
    latents = torch.randn(2, 2000, 4, generator=seeded(1))
    assert callable(change)
    assert misfit(change(latents)) > 10 * misfit(latents)


@pytest.mark.parametrize("spread", [(0.05, 0.05, 0.05), (1.0, 1.0, 0.05)], ids=["collapsed", "anisotropic"])
def test_the_gradient_pushes_a_collapsed_batch_outward(spread: tuple[float, ...]) -> None:
    latents = torch.randn(1, 500, 3, generator=seeded(1)) * torch.tensor(spread)
    latents.requires_grad_()
    sigreg(latents, num_slices=256, generator=seeded()).backward()
    assert latents.grad is not None
    step = (latents - latents.shape[1] * latents.grad).detach()
    narrow = torch.tensor(spread) < 0.5
    assert (step.std(1)[0][narrow] > latents.std(1)[0][narrow] * 1.05).all()
    assert misfit(step, 256) < misfit(latents.detach(), 256)


def test_descent_on_it_alone_undoes_a_collapse() -> None:
    latents = (0.05 * torch.randn(1, 300, 2, generator=seeded(1))).requires_grad_()
    optimizer, generator = torch.optim.Adam([latents], lr=0.05), seeded(2)
    for _ in range(150):
        optimizer.zero_grad()
        sigreg(latents, num_slices=16, generator=generator).backward()
        optimizer.step()
    covariance = torch.cov(latents.detach()[0].T)
    torch.testing.assert_close(covariance, torch.eye(2), atol=0.15, rtol=0)


@given(st.integers(0, 1000))
def test_the_order_of_the_batch_does_not_matter(seed: int) -> None:
    latents = torch.randn(3, 20, 4, generator=seeded(seed))
    mixed = latents[:, torch.randperm(20, generator=seeded(seed))]
    assert misfit(mixed) == pytest.approx(misfit(latents), rel=1e-4)


def test_each_time_is_compared_by_itself() -> None:
    """Two half Gaussians at two times are not one Gaussian."""
    latents = torch.randn(1, 2000, 1, generator=seeded(1))
    left, right = latents[:, latents[0, :, 0] < 0], latents[:, latents[0, :, 0] >= 0]
    size = min(left.shape[1], right.shape[1])
    halves = torch.cat([left[:, :size], right[:, :size]])
    assert misfit(halves) > 20 * misfit(halves.flatten(0, 1)[None])
    assert misfit(halves) == pytest.approx((misfit(halves[:1]) + misfit(halves[1:])) / 2, rel=1e-4)


def test_every_draw_comes_from_the_generator() -> None:
    latents, generator = torch.randn(2, 30, 8, generator=seeded(1)), seeded()
    torch.manual_seed(1)
    first = sigreg(latents, num_slices=4, generator=generator)
    torch.manual_seed(2)
    assert misfit(latents, 4) == float(first)
    assert float(sigreg(latents, num_slices=4, generator=generator)) != float(first)  # drawn anew at every call


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
        "worldline.models.layers.sigreg.gather", lambda here, dim: torch.cat([here, elsewhere[here.ndim]], dim)
    )
    found = misfit(latents[:, :10])
    monkeypatch.undo()
    assert found == pytest.approx(misfit(latents), rel=1e-5)
