from __future__ import annotations

import pytest
import torch

from worldline.planning.planners.noise import coloured, persistent


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_coloured_noise_has_variance_one_at_every_step(steps: int, exponent: float) -> None:
    noise = coloured((1, 20_000, steps, 2), exponent, generator())
    assert noise.shape == (1, 20_000, steps, 2)
    assert noise.std(1) == pytest.approx(torch.ones(1, steps, 2), abs=0.03)
    assert noise.mean(1) == pytest.approx(torch.zeros(1, steps, 2), abs=0.03)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_its_power_falls_with_the_frequency(exponent: float) -> None:
    noise = coloured((1, 20_000, 16, 1), exponent, generator())[0, :, :, 0]
    power = torch.fft.rfft(noise).abs().square().mean(0)
    assert (power[1] / power[4]).item() == pytest.approx(4**exponent, rel=0.1)
    assert (power[2] / power[8]).item() == pytest.approx(4**exponent, rel=0.1)


def test_persistent_noise_is_correlated_as_it_says() -> None:
    noise = persistent((1, 20_000, 4, 1), 0.7, generator())[0, :, :, 0]
    correlation = torch.corrcoef(noise.T)
    assert correlation[0, 1].item() == pytest.approx(0.7, abs=0.02)
    assert correlation[0, 3].item() == pytest.approx(0.7**3, abs=0.02)
    assert noise.std(0) == pytest.approx(torch.ones(4), abs=0.02)
