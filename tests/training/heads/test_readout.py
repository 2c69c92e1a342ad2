from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import ConfigError
from worldline.models.layers.codes import to_code
from worldline.schema import Kind, Role, Signal
from worldline.training.heads.readout import Readout, ReadoutConfig


def vector(name: str, size: int, **more: float) -> Signal:
    return Signal(name=name, role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(size,), **more)


POSITION, HEAT = vector("position", 2), vector("heat", 1)
HEADING = Signal(
    name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), low=(-180.0,), high=(180.0,), period=360.0
)
GEAR = Signal(name="gear", role=Role.OBSERVATION, kind=Kind.DISCRETE, shape=(), num_values=3)


def head(*signals: Signal, latent_size: int = 4) -> Readout:
    torch.manual_seed(0)
    net = Readout(ReadoutConfig(latent_size=latent_size, signals=signals or (POSITION, HEAT), width=8))
    return net.requires_grad_(False)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fit(net: Readout, latents: torch.Tensor, codes: torch.Tensor, known: torch.Tensor | None = None) -> Readout:
    """Every fifth row judges."""
    known = torch.ones_like(codes, dtype=torch.bool) if known is None else known
    net.fit_linear(latents, codes, known, torch.arange(len(latents)) % 5 == 0, whole=True)
    return net


def test_a_linear_map_is_found_exactly_whatever_is_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, weights = torch.randn(200, 4, generator=generator), torch.randn(4, 3, generator=generator)
    truth = latents @ weights * 20 + 5
    known = torch.rand(200, 3, generator=generator) < 0.7
    net = fit(head(), latents, truth.where(known, torch.nan), known)
    torch.testing.assert_close(torch.cat(list(net(latents).values()), -1), truth, rtol=1e-5, atol=1e-4)


def test_a_signal_never_seen_and_an_idle_latent_do_no_harm() -> None:
    latents = normal(0, 50, 4) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    truth = latents[:, :3] * torch.tensor([1e-3, 1.0, torch.nan])
    net = fit(head(), latents, truth, torch.tensor([True, True, False]).expand(50, 3))
    read = net(latents)
    torch.testing.assert_close(read["position"], truth[:, :2], rtol=1e-4, atol=1e-6)
    assert (read["heat"] == 0).all()


def test_latents_of_more_numbers_than_rows_do_not_hide_what_they_hold() -> None:
    """One strong direction among 600, from 400 rows: without a penalty the others are fitted to noise."""
    strength = torch.full((600,), 0.3).index_fill(0, torch.tensor([0]), 5.0)
    latents, others = (normal(seed, rows, 600) * strength for seed, rows in ((0, 400), (1, 500)))
    noise = normal(2, 400, 1)
    net = fit(head(HEAT, latent_size=600), latents, latents[:, :1] + noise)
    free = head(HEAT, latent_size=600)
    none = torch.zeros(400, dtype=torch.bool)
    free.fit_linear(latents, latents[:, :1] + noise, torch.ones(400, 1, dtype=torch.bool), none, whole=True)
    error, unpenalised = (float((one(others)["heat"] - others[:, :1]).square().mean()) for one in (net, free))
    assert error < 0.2
    assert unpenalised > 3 * error


def test_each_number_has_its_own_penalty() -> None:
    latents, noise = normal(0, 500, 300), normal(1, 500, 1)
    net = fit(head(vector("position", 2), latent_size=300), latents, torch.cat([latents[:, :1], noise], 1))
    read = net(latents)["position"]
    torch.testing.assert_close(read[:, 0], latents[:, 0], rtol=0, atol=1e-4)
    assert read[:, 1].std() < 0.05


def test_rows_that_judge_count_in_the_fit_where_they_are_to() -> None:
    latents, values, judges = torch.ones(10, 4), torch.arange(10.0)[:, None], torch.arange(10) >= 8
    for whole, due in ((True, 4.5), (False, 3.5)):
        net = head(HEAT)
        net.fit_linear(latents, values, torch.ones(10, 1, dtype=torch.bool), judges, whole=whole)
        assert float(net(latents)["heat"][0]) == pytest.approx(due, abs=1e-4)


@settings(max_examples=25)
@given(st.floats(-179.9, 179.9), st.integers(0, 1000))
def test_an_angle_is_read_across_the_seam(middle: float, seed: int) -> None:
    """Headings within 60 degrees of any place, the seam at 180 among them; the latent holds sine and cosine."""
    angle = middle + 60 * (2 * torch.rand(300, 1, generator=torch.Generator().manual_seed(seed)) - 1)
    angle = (angle + 180).remainder(360) - 180
    turn = angle * math.pi / 180
    latents = torch.cat([turn.sin(), turn.cos()], 1) @ normal(seed, 2, 4)
    read = fit(head(HEADING), latents, to_code(HEADING, angle))(latents)["heading"]
    gap = (read - angle + 180).remainder(360) - 180
    assert gap.abs().max() < 0.1
    assert (read >= -180).all()
    assert (read <= 180).all()


def test_images_are_left_to_the_decoder() -> None:
    view = Signal(name="view", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 3))
    with pytest.raises(ConfigError, match="'view' is an image"):
        ReadoutConfig(latent_size=4, signals=(view,))
