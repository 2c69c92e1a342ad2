from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from worldline.training.heads.inverse import Inverse, InverseConfig

SOON = torch.tensor(1)
BOUND = st.floats(-1e3, 1e3, width=32)


def head(low: tuple[float, ...], high: tuple[float, ...], seed: int = 0) -> Inverse:
    torch.manual_seed(seed)
    return Inverse(InverseConfig(latent_size=3, low=low, high=high, width=8))


@given(st.lists(st.tuples(BOUND, BOUND), min_size=1, max_size=4), st.integers(0, 1000), st.floats(0, 1e4))
def test_actions_stay_inside_their_bounds(pairs: list[tuple[float, float]], seed: int, scale: float) -> None:
    low, high = (tuple(bounds) for bounds in zip(*map(sorted, pairs), strict=True))
    latent, goal = scale * torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(seed))
    action = head(low, high, seed)(latent, goal, SOON)
    assert action.shape == (20, len(pairs))
    slack = 1e-6 * (torch.tensor(low).abs() + torch.tensor(high).abs())
    assert (action >= torch.tensor(low) - slack).all()
    assert (action <= torch.tensor(high) + slack).all()


def test_the_whole_range_can_be_reached() -> None:
    net = head((-2.0, 0.0), (4.0, 0.5))
    last = net.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    for bias, due in ((-50.0, [-2.0, 0.0]), (0.0, [1.0, 0.25]), (50.0, [4.0, 0.5])):
        torch.nn.init.constant_(last.bias, bias)
        torch.testing.assert_close(net(torch.ones(3), torch.ones(3), SOON), torch.tensor(due))


def test_more_steps_than_it_knows_are_as_many_as_it_knows() -> None:
    net, latent, goal = head((-1.0,), (1.0,)), torch.randn(5, 3), torch.randn(5, 3)
    torch.nn.init.normal_(net.haste.weight)
    some, most, more = (net(latent, goal, torch.full((5,), steps)) for steps in (11, 12, 400))
    assert torch.equal(most, more)
    assert not torch.allclose(some, most)
