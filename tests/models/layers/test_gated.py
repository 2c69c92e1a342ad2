"""Gates on a jump that is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldline.models.layers.predictors import BOUND, Gated


def turn(given: Tensor) -> Tensor:
    """The change of a velocity that turns round where it would cross a wall at 0.5."""
    place, speed = given.unbind(-1)
    return torch.where(place + 0.2 * speed > 0.5, -2 * speed, 0.0)[:, None]


def test_a_jump_is_learned() -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(Gated(2, 32), nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(200):
        given = torch.randn(256, 2, generator=draw)
        loss = (network(given) - turn(given)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    given = torch.randn(4096, 2, generator=draw)
    due = turn(given)
    assert (network(given) - due).square().mean() < 0.05 * due.square().mean()


def test_no_response_grows_beyond_the_bound() -> None:
    network = Gated(3, 16)
    with torch.no_grad():
        network.gates.weight.zero_()
        at, beyond = (network(torch.full((1, 3), size))[:, :16] for size in (BOUND, 1e6))
    torch.testing.assert_close(at, beyond)
