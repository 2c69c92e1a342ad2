from __future__ import annotations

import time

import torch
from tests.planning.planners.toys import Listening, free, optimum, pushed_cart, solve
from torch import Tensor

from worldline.planning.planners.base import ActionSpace, PlanCosts
from worldline.planning.planners.cem import CrossEntropy, ImprovedCrossEntropy
from worldline.planning.planners.small_searches import Shooting


def walk_to_ten(actions: Tensor) -> PlanCosts:
    """Steps from 0, as near to 10 as they can get, all the way."""
    return free((actions[..., 0].cumsum(2) - 10).square().sum(2))


def test_small_budgets_beat_random_shooting_of_the_same_size() -> None:
    cem, shooting = CrossEntropy(), Shooting(num_candidates=3 * 64)
    for cost, bound, least in ((pushed_cart, 2.0, optimum(8)[1]), (walk_to_ten, 1.0, 284.0)):
        excess = [
            sum(solve(planner, cost, bound, 8, seed).cost.item() - least for seed in range(10))
            for planner in (cem, shooting)
        ]
        assert excess[0] < 0.6 * excess[1]


def test_a_good_proposal_narrows_the_search() -> None:
    pushes, least = optimum(8)
    proposals = (pushes + 0.2)[None, None, :, None]
    excess = [solve(CrossEntropy(), pushed_cart, 2.0, 8, proposals=p).cost.item() - least for p in (None, proposals)]
    assert excess[1] < 0.5 * excess[0]
    assert excess[1] < 0.5 * (pushed_cart(proposals).cost.item() - least)


def test_gradient_steps_reach_the_optimum_that_sampling_only_approaches() -> None:
    least = optimum(8)[1]
    sampled, refined = (
        solve(CrossEntropy(num_gradient_steps=number), pushed_cart, 2.0, 8).cost.item() - least for number in (0, 30)
    )
    assert refined < 0.1 * sampled
    found = solve(CrossEntropy(num_gradient_steps=30), walk_to_ten, 1.0, 5)
    assert (found.actions > 0.999).all()  # and they respect the bounds
    assert found.num_evaluated == 3 * 64 + 31


def test_gradient_steps_need_a_gradient_and_time() -> None:
    def flat(actions: Tensor) -> PlanCosts:
        return pushed_cart(actions.detach())

    plain = solve(CrossEntropy(), pushed_cart, 2.0, 8)
    planner = CrossEntropy(num_gradient_steps=8)
    assert torch.equal(solve(planner, flat, 2.0, 8).actions, plain.actions)

    def slow(actions: Tensor) -> PlanCosts:
        time.sleep(0.02)
        return pushed_cart(actions)

    space = ActionSpace(low=torch.tensor([-2.0]), high=torch.tensor([2.0]))
    late = planner.plan(slow, space, batch=1, horizon=8, generator=torch.Generator().manual_seed(0), deadline_s=0.1)
    assert late.num_evaluated < 3 * 64 + 9
    assert not late.finished


def test_goes_on_where_the_first_population_was_useless() -> None:
    calls = 0

    def cost(actions: Tensor) -> PlanCosts:
        nonlocal calls
        calls += 1
        return free(actions.square().sum((2, 3)) if calls > 1 else torch.full(actions.shape[:2], torch.nan))

    assert solve(CrossEntropy(), cost, 1.0, 3).cost.isfinite().all()


def test_a_small_budget_beats_random_shooting_of_the_same_size() -> None:
    least, icem = optimum(8)[1], ImprovedCrossEntropy(exponent=0.0)
    excess = []
    for planner in (icem, Shooting(num_candidates=64 + 51 + 40)):
        excess.append(sum(solve(planner, pushed_cart, 2.0, 8, seed).cost.item() - least for seed in range(10)))
    assert excess[0] < 0.6 * excess[1]


def test_populations_shrink_and_hold_some_of_the_elites() -> None:
    cost = Listening(pushed_cart)
    planner = ImprovedCrossEntropy(num_candidates=40, num_elites=10, num_iterations=4, decay=1.5)
    solve(planner, cost, 2.0, 5, proposals=torch.zeros(1, 2, 5, 1))
    assert [asked.shape[1] for asked in cost.asked] == [2 + 40, 3 + 26, 3 + 20, 3 + 20]
    for before, after in zip(cost.asked, cost.asked[1:], strict=False):
        best = before[0, pushed_cart(before).cost[0].argsort()[:3]]
        assert torch.equal(after[0, :3], best)
