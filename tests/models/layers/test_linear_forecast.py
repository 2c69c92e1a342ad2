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


def test_few_values_leave_rows_between_gaps_to_solve_for_late_inputs() -> None:
    """What was done acts four steps later, and every third value is missing: no stretch of five is whole."""
    generator = torch.Generator().manual_seed(0)
    push, values = torch.randn(32, 20, 1, generator=generator), torch.zeros(32, 21, 1)
    for step in range(20):
        values[:, step + 1] = 0.7 * values[:, step] + (push[:, step - 4] if step >= 4 else 0.0)
    observed = (torch.arange(21) % 3 != 0).expand(32, 21)
    seen = values.where(observed[..., None], 1e3)
    few = fitted(seen, push, observed[..., None], history=6, values=1)
    rows = few.weight[5, :-1].unflatten(0, (6, 2))[..., 0]  # of the nearest step first: value, input
    due = torch.zeros(6, 2)
    due[0, 0], due[4, 1] = -0.3, 1.0
    torch.testing.assert_close(rows, due, rtol=1e-4, atol=1e-4)


def test_a_leap_to_what_is_seen_is_no_speed() -> None:
    """Guesses in a gap are moved by what the last of them lacked; what was seen, and other values, are not."""
    net = LinearForecast(size=2, num_inputs=1, history=5)
    past, now = net.begin(1, torch.device("cpu")), torch.tensor([[1.0, 5.0]])
    for _ in range(4):
        _, past = net(now, torch.zeros(1, 1), past)
        now = now + 1.0
        seen = torch.tensor([[now[0, 0].item() < 3.0, True]])  # the first value for the last time at 2
        past = past.correct(torch.zeros(1, 2), seen)
    assert past.guessed.tolist() == [[3, 0]]
    assert past.steps[0, :, 0].tolist() == [4.0, 3.0, 2.0, 1.0]
    every = torch.ones(1, 2, dtype=torch.bool)
    met = past.correct(torch.full((1, 2), 0.5), every)
    assert met.steps[0, :, 0].tolist() == [4.5, 3.5, 2.0, 1.0]
    assert met.steps[0, :, 1].tolist() == past.steps[0, :, 1].tolist()
    assert met.guessed.tolist() == [[0, 0]]
    assert met.select(torch.tensor([0, 0])).guessed.shape == (2, 2)


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


def test_what_changes_only_while_not_all_is_observed_is_missed() -> None:
    """A lamp that is switched where nobody looks: every stretch that was all observed shows it constant."""
    values, push = torch.zeros(64, 9, 2), torch.zeros(64, 8, 1)
    values[:32, 5:, 0], values[32:, :5, 0] = 1.0, 1.0
    values[..., 1] = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    observed = torch.ones(64, 9, 2, dtype=torch.bool)
    observed[:, 4] = False
    net = fitted(values, push, observed, history=1)
    torch.testing.assert_close(net.missed[0], torch.tensor(1 / 7).sqrt(), rtol=1e-3, atol=1e-3)  # once in seven changes
    whole = fitted(values[:, :4], push[:, :3], history=1)
    assert whole.missed[0] < 1e-6


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
