"""What every search here promises, on toys whose optimum is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.planning.planners import toys
from torch import Tensor

from worldline.errors import ConfigError, InputError
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner
from worldline.planning.planners.categorical import Categorical
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.gradient import GradientPlanner
from worldline.planning.planners.guided import Guided
from worldline.planning.planners.icem import ImprovedCrossEntropy
from worldline.planning.planners.lagrangian import AugmentedLagrangian
from worldline.planning.planners.mppi import PathIntegral
from worldline.planning.planners.predictive_sampling import PredictiveSampling
from worldline.planning.planners.shooting import Shooting

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
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 7), num_proposals=st.integers(0, 3))
@settings(max_examples=8)
def test_a_batch_gives_exactly_the_plans_of_its_problems_one_at_a_time(
    planner: Planner, seed: int, batch: int, num_proposals: int
) -> None:
    centers = uniform(seed, batch, 4, 2)
    proposals = uniform(seed + 1, batch, num_proposals, 4, 2) if num_proposals else None

    def exact(center: Tensor) -> CostFunction:
        # Summed step by step, so that the cost itself does not depend on how the batch is laid out in memory.
        def cost(actions: Tensor) -> PlanCosts:
            value = torch.zeros(actions.shape[:2])
            for squares in (actions - center[:, None]).square().flatten(2).unbind(2):
                value = value + squares
            return PlanCosts(cost=value, violation=value.new_zeros(*value.shape, 0))

        return cost

    together = solve(planner, exact(centers), batch=batch, proposals=proposals, seed=seed)
    for b in range(batch):
        own = None if proposals is None else proposals[b : b + 1]
        alone = solve(planner, exact(centers[b : b + 1]), proposals=own, seed=seed)
        assert torch.equal(together.actions[b], alone.actions[0])
        assert torch.equal(together.cost[b], alone.cost[0])


@every_planner
def test_the_seed_alone_decides(planner: Planner) -> None:
    cost = bowl(uniform(3, 1, 4, 2))
    first, again, other = (solve(planner, cost, seed=seed).actions for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_planner
def test_proposals_outside_the_bounds_count_as_the_nearest_inside_and_are_left_as_they_are(planner: Planner) -> None:
    proposals = 3 * uniform(1, 2, 3, 4, 2)
    before, cost = proposals.clone(), bowl(uniform(2, 2, 4, 2))
    found = solve(planner, cost, batch=2, proposals=proposals)
    assert torch.equal(proposals, before)
    assert (found.cost <= cost(proposals.clamp(SPACE.low, SPACE.high)).cost.amin(1)).all()


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


@every_planner
def test_feasible_beats_infeasible_and_less_violation_beats_more(planner: Planner) -> None:
    def cost(actions: Tensor) -> PlanCosts:
        # The cost rewards what the constraint forbids: the sum of the first component must stay below the limit.
        total = actions[..., 0].sum(-1)
        return PlanCosts(cost=-total, violation=(total[..., None] - limits[:, None, None]).clamp(min=0))

    limits = torch.tensor([0.0, -100.0])
    proposals = torch.tensor([-0.5, -1.0, 1.0])[None, :, None, None].expand(2, 3, 4, 2)
    found = solve(planner, cost, batch=2, proposals=proposals)
    assert found.violation[0].item() == 0
    assert found.cost[0].item() < 1.0  # not merely the feasible proposals, which cost 2 and 4
    assert found.violation[1].item() == 96.0  # nothing is feasible: the least violation, though it costs most


@every_planner
def test_a_deadline_in_the_past_still_costs_one_population(planner: Planner) -> None:
    cost = bowl(uniform(0, 1, 4, 2))
    cut, full = solve(planner, cost, deadline_s=0.0), solve(planner, cost)
    assert cut.num_evaluated < full.num_evaluated
    assert not cut.converged
    assert full.converged
    assert cut.cost.isfinite().all()


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
    assert found.violation.item() == 0
    assert found.cost.item() == pytest.approx(4.0, rel=rel)


WRONG: dict[type[Planner], list[tuple[str, float]]] = {
    Categorical: [
        *(("num_candidates", 1), ("num_iterations", 0), ("num_elites", 65), ("momentum", 1.0), ("deviation", 0.0)),
    ],
    CrossEntropy: [
        *(("num_candidates", 1), ("num_iterations", 0), ("num_elites", 65), ("num_elites", 1), ("deviation", 0.0)),
        *(("min_deviation", -0.1), ("correlation", 1.0), ("deviation", float("nan"))),
    ],
    GradientPlanner: [("num_restarts", 0), ("num_iterations", 0), ("learning_rate", 0.0)],
    Guided: [("num_candidates", 0), ("num_iterations", 0), ("num_elites", 1), ("deviation", 0.0), ("correlation", 1.0)],
    ImprovedCrossEntropy: [
        *(("num_candidates", 1), ("num_elites", 33), ("decay", 0.9), ("exponent", -1.0), ("kept", 1.5)),
        *(("momentum", 1.0), ("deviation", 0.0)),
    ],
    AugmentedLagrangian: [("num_rounds", 0), ("num_probes", 1), ("penalty", 0.0), ("growth", 0.5)],
    PathIntegral: [
        *(("num_candidates", 1), ("num_iterations", 0), ("temperature", 0.0), ("deviation", 0.0), ("correlation", 1.0))
    ],
    PredictiveSampling: [("num_candidates", 0), ("num_iterations", 0), ("num_knots", 0), ("deviation", 0.0)],
    Shooting: [("num_candidates", 0), ("chunk", 0)],
}


@pytest.mark.parametrize(("kind", "name", "value"), [(kind, *wrong) for kind, many in WRONG.items() for wrong in many])
def test_refuses_settings_that_make_no_sense(kind: type[Any], name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}( is)? {value}"):
        replace(kind(), **{name: value})
