from __future__ import annotations

import pytest
import torch

from worldline.errors import InputError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts
from worldline.planning.planners.population import Population, check, coloured, evaluated, persistent

SPACE = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))


def table(cost: list[float], violation: list[list[float]]) -> CostFunction:
    """A cost that is looked up by position, whatever the actions."""
    return lambda _: PlanCosts(cost=torch.tensor([cost]), violation=torch.tensor([violation]))


def population(cost: list[float], violation: list[list[float]]) -> Population:
    actions = torch.linspace(-1, 1, len(cost)).reshape(1, -1, 1, 1)
    return evaluated(table(cost, violation), SPACE, actions)


def test_orders_by_total_violation_then_by_cost_then_as_they_came() -> None:
    ranked = population([1.0, 5.0, 4.0, 5.0, 0.0], [[0.5, 0.5], [0, 0], [0, 0.9], [0, 0], [2, 0]])
    assert ranked.cost.tolist() == [[5.0, 5.0, 4.0, 1.0, 0.0]]
    assert ranked.actions.flatten().tolist() == [-0.5, 0.5, 0.0, -1.0, 1.0]


@pytest.mark.parametrize(
    "proposals", [torch.zeros(1, 1, 3, 1), torch.zeros(1, 0, 2, 1), torch.full((1, 1, 2, 1), torch.nan)]
)
def test_proposals_that_do_not_fit_are_refused(proposals: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"proposals have shape .*\(1, 1, 2, 1\)"):
        check(SPACE, proposals, batch=1, horizon=2)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_its_power_falls_with_the_frequency(exponent: float) -> None:
    noise = coloured((1, 20_000, 16, 1), exponent, torch.Generator().manual_seed(0))[0, :, :, 0]
    power = torch.fft.rfft(noise).abs().square().mean(0)
    assert (power[1] / power[4]).item() == pytest.approx(4**exponent, rel=0.1)
    assert (power[2] / power[8]).item() == pytest.approx(4**exponent, rel=0.1)


def test_persistent_noise_is_correlated_as_it_says() -> None:
    noise = persistent((1, 20_000, 4, 1), 0.7, torch.Generator().manual_seed(0))[0, :, :, 0]
    correlation = torch.corrcoef(noise.T)
    assert correlation[0, 1].item() == pytest.approx(0.7, abs=0.02)
    assert correlation[0, 3].item() == pytest.approx(0.7**3, abs=0.02)
    assert noise.std(0) == pytest.approx(torch.ones(4), abs=0.02)
