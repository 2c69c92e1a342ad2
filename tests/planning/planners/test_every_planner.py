"""What every search here promises, on toys whose optimum is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.planning.planners import toys
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner
from worldline.planning.planners.cem import Categorical, CrossEntropy, ImprovedCrossEntropy, PathIntegral
from worldline.planning.planners.gradient import GradientPlanner
from worldline.planning.planners.lagrangian import AugmentedLagrangian
from worldline.planning.planners.small_searches import Guided, PredictiveSampling, Shooting

PLANNERS = [
    pytest.param(Categorical(num_candidates=16, num_elites=4), id="categorical"),
    pytest.param(CrossEntropy(num_candidates=16, num_elites=4), id="cem"),
    pytest.param(GradientPlanner(num_restarts=4), id="gradient"),
    pytest.param(Guided(num_iterations=4), id="guided"),
    pytest.param(ImprovedCrossEntropy(num_candidates=16, num_elites=4), id="icem"),
    pytest.param(AugmentedLagrangian(search=CrossEntropy(num_candidates=16, num_elites=4)), id="lagrangian"),
    pytest.param(PathIntegral(num_candidates=16), id="mppi"),
    pytest.param(PredictiveSampling(num_candidates=16), id="predictive_sampling"),
    pytest.param(Shooting(num_candidates=48, chunk=20), id="shooting"),
]
every_planner = pytest.mark.parametrize("planner", PLANNERS)
SPACE = ActionSpace(low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 3.0]))


def bowl(center: Tensor) -> CostFunction:
    """The squared distance to `center` [B, T, A]."""

    def cost(actions: Tensor) -> PlanCosts:
        value = (actions - center[:, None]).square().sum((2, 3))
        return PlanCosts(cost=value, violation=value.new_zeros(*value.shape, 0))

    return cost


def solve(
    planner: Planner, cost: CostFunction, *, space: ActionSpace = SPACE, batch: int = 1, seed: int = 0, **more: Any
) -> PlannedActions:
    generator = torch.Generator().manual_seed(seed)
    return planner.plan(cost, space, batch=batch, generator=generator, **{"horizon": 4, **more})


def uniform(seed: int, *shape: int) -> Tensor:
    share = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return SPACE.low + share * (SPACE.high - SPACE.low)


@every_planner
def test_a_fixed_component_keeps_its_only_value(planner: Planner) -> None:
    space = ActionSpace(low=torch.tensor([-1.0, 0.5]), high=torch.tensor([1.0, 0.5]))
    found = solve(planner, bowl(torch.zeros(1, 4, 2)), space=space)
    assert (found.actions[..., 1] == 0.5).all()
    assert found.cost.isfinite().all()


@every_planner
def test_horizon_one(planner: Planner) -> None:
    found = solve(planner, bowl(torch.tensor([[[0.3, 1.2]]])), horizon=1)
    assert found.actions.shape == (1, 1, 2)
    assert found.cost.item() < 0.1


@every_planner
def test_costs_that_are_not_finite_never_win(planner: Planner) -> None:
    def cost(actions: Tensor) -> PlanCosts:
        value = bowl(torch.zeros(1, 4, 2))(actions).cost
        odd = torch.where(actions[..., 0, 0] > 0, torch.nan, -torch.inf)
        lucky = torch.arange(actions.shape[1]) % 2 == 0
        return PlanCosts(cost=value.where(lucky, odd), violation=value.new_zeros(*value.shape, 0))

    found = solve(planner, cost)
    assert found.cost.isfinite().all()
    assert torch.equal(found.cost, bowl(torch.zeros(1, 4, 2))(found.actions[:, None]).cost[:, 0])


@every_planner
def test_an_error_where_no_cost_is_finite(planner: Planner) -> None:
    def cost(actions: Tensor) -> PlanCosts:
        value = actions.sum((2, 3))
        value[1] = torch.nan
        return PlanCosts(cost=value, violation=value.new_zeros(*value.shape, 0))

    with pytest.raises(InputError, match="problem 1 "):
        solve(planner, cost, batch=2)


CEM = CrossEntropy(num_candidates=128, num_iterations=30, num_elites=16, min_deviation=0.005, correlation=0.0)
ICEM = ImprovedCrossEntropy(num_candidates=128, num_iterations=25, num_elites=16, min_deviation=0.005, decay=1.0)
MPPI = PathIntegral(num_candidates=256, num_iterations=60, min_deviation=0.005, correlation=0.0, temperature=0.1)
GRADIENT = GradientPlanner(num_restarts=2, num_iterations=600, learning_rate=0.05)
LAGRANGIAN = AugmentedLagrangian(search=replace(CEM, num_iterations=12, min_deviation=0.002))


@pytest.mark.parametrize(
    ("planner", "rel", "near"), [*((planner, 5e-3, 0.05) for planner in (CEM, ICEM, MPPI)), (GRADIENT, 1e-4, 5e-3)]
)
def test_finds_the_optimum_of_a_linear_quadratic_problem(planner: Planner, rel: float, near: float) -> None:
    pushes, least = toys.optimum(6)
    found = toys.solve(planner, toys.pushed_cart, 2.0, 6)
    assert found.cost.item() == pytest.approx(least, rel=rel)
    assert found.actions[0, :, 0] == pytest.approx(pushes, abs=near)


@pytest.mark.parametrize(("planner", "rel"), [(CEM, 0.02), (MPPI, 0.05), (GRADIENT, 0.02), (LAGRANGIAN, 0.05)])
def test_finds_the_best_of_what_a_constraint_allows(planner: Planner, rel: float) -> None:
    found = toys.solve(planner, toys.kept_below_one, 1.0, 4)
    assert (found.violation.item(), found.cost.item()) == (0, pytest.approx(4.0, rel=rel))


WRONG: dict[type[Planner], list[tuple[str, float]]] = {
    Categorical: [("num_elites", 65), ("momentum", 1.0)],
    CrossEntropy: [("num_elites", 65), ("correlation", 1.0), ("deviation", float("nan"))],
    GradientPlanner: [("num_restarts", 0), ("learning_rate", 0.0)],
    Guided: [("num_elites", 1), ("correlation", 1.0)],
    ImprovedCrossEntropy: [("decay", 0.9), ("exponent", -1.0), ("kept", 1.5)],
    AugmentedLagrangian: [("num_probes", 1), ("penalty", 0.0)],
    PathIntegral: [("temperature", 0.0)],
    PredictiveSampling: [("num_knots", 0)],
    Shooting: [("chunk", 0)],
}


@pytest.mark.parametrize(("kind", "name", "value"), [(kind, *wrong) for kind, many in WRONG.items() for wrong in many])
def test_refuses_settings_that_make_no_sense(kind: type[Any], name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}( is)? {value}"):
        replace(kind(), **{name: value})
