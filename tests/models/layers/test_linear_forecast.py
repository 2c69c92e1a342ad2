from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldline.models.layers.linear_forecast import LinearForecast


def oscillator(batch: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions [B, T + 1, 1] of a pushed spring, of which one position alone does not tell the velocity."""
    generator = torch.Generator().manual_seed(seed)
    push = torch.randn(batch, steps, 1, generator=generator)
    place, speed = torch.randn(2, batch, 1, generator=generator)
    path = [place]
    for step in range(steps):
        speed = speed - 0.2 * place - 0.1 * speed + push[:, step]
        place = place + speed
        path.append(place)
    return torch.stack(path, 1), push


def fitted(path: Tensor, push: Tensor, observed: Tensor | None = None, **more: Any) -> LinearForecast:
    net = LinearForecast(size=path.shape[2], num_inputs=1, **more)
    net.fit(path, push, torch.ones(path.shape, dtype=torch.bool) if observed is None else observed)
    return net


def test_without_the_steps_that_it_misses_most_it_is_exact_between_contacts() -> None:
    """A pushed puck that walls throw back: one law inside, which least squares over everything does not find."""
    generator = torch.Generator().manual_seed(0)
    push, values = 0.1 * torch.randn(64, 40, 1, generator=generator), torch.zeros(64, 41, 1)
    speed = 0.3 * torch.randn(64, 1, generator=generator)
    for step in range(40):
        speed = 0.9 * speed + push[:, step]
        values[:, step + 1] = values[:, step] + speed
        beyond = values[:, step + 1].abs() > 1
        values[:, step + 1] = torch.where(beyond, values[:, step + 1].sign() * 2, 0) + torch.where(
            beyond, -values[:, step + 1], values[:, step + 1]
        )
        speed = torch.where(beyond, -speed, speed)
    whole, trimmed = (fitted(values, push, history=2, trim=share) for share in (0.0, 0.4))
    due = torch.tensor([0.9, 1.0, -0.9, 0.0, 0.0])
    torch.testing.assert_close(trimmed.weight[1, :, 0], due, rtol=1e-3, atol=1e-3)
    assert (whole.weight[1, :, 0] - due).abs().max() > 0.05


def test_what_is_missed_is_measured_and_the_network_measures_in_it() -> None:
    values, push = oscillator(256, 8)
    noise = 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    exact, blurred = (fitted(seen, push, history=3, values=2) for seen in (values, values + noise))
    change = values.diff(dim=1).square().mean().sqrt()[None]
    assert exact.missed < 1e-4 * change
    assert 0.1 < blurred.missed < 0.3
    torch.testing.assert_close(blurred.unit(change), blurred.missed)
    torch.testing.assert_close(blurred.unit(0.5 * blurred.missed), 0.5 * blurred.missed)
    whole = fitted(values, push, history=2)
    torch.testing.assert_close(whole.unit(change), change)


def test_as_many_steps_are_enough_as_something_takes_to_show() -> None:
    """What was done acts four steps later: five are enough, and one where it acts at once."""
    generator = torch.Generator().manual_seed(0)
    push = torch.randn(64, 30, 1, generator=generator)
    for lag in (4, 0):
        values = torch.zeros(64, 31, 1)
        for step in range(30):
            values[:, step + 1] = 0.7 * values[:, step] + (push[:, step - lag] if step >= lag else 0.0)
        net = fitted(values, push, history=9)
        assert len(net.misses) == 9
        assert net.enough(values.diff(dim=1).square().mean().sqrt()[None], 0.02) == lag + 1
