from __future__ import annotations

import pytest
import torch
from tests.planning.planners.toys import Listening, optimum, pushed_cart, solve

from worldline.errors import UnsupportedError
from worldline.planning.planners.cem import CrossEntropy
from worldline.planning.planners.small_searches import FirstProposal, Guided, PredictiveSampling, Shooting


def test_it_improves_a_good_proposal_with_few_sequences() -> None:
    pushes, least = optimum(8)
    proposals = torch.stack([torch.ones(8), pushes + 0.2])[None, ..., None]
    given = pushed_cart(proposals).cost.min().item()
    excess = []
    for planner in (Guided(), CrossEntropy(num_candidates=32, num_iterations=1)):
        costs = [solve(planner, pushed_cart, 2.0, 8, seed, proposals).cost.item() - least for seed in range(10)]
        assert max(costs) <= given - least
        excess.append(sum(costs))
    assert excess[0] < 0.6 * 10 * (given - least)
    assert excess[0] < 0.8 * excess[1]


def test_it_stays_near_the_best_proposal() -> None:
    cost, proposals = Listening(pushed_cart), torch.tensor([1.0, -0.4])[None, :, None, None].expand(1, 2, 5, 1)
    solve(Guided(num_candidates=200, deviation=0.02), cost, 2.0, 5, proposals=proposals)
    best = proposals[0, pushed_cart(proposals).cost[0].argmin(), 0, 0]
    assert torch.equal(cost.asked[0], proposals)
    assert cost.asked[1].mean().item() == pytest.approx(best.item(), abs=0.02)
    assert cost.asked[1].std().item() == pytest.approx(0.08, rel=0.2)


def test_without_a_proposal_it_searches_the_whole_space() -> None:
    found = solve(Guided(num_candidates=64, num_iterations=4), pushed_cart, 2.0, 4)
    assert found.cost.item() < 1.5 * optimum(4)[1]


def test_noise_is_straight_between_knots() -> None:
    cost = Listening(pushed_cart)
    solve(PredictiveSampling(num_candidates=5, num_iterations=1, deviation=0.01, num_knots=3), cost, 2.0, 9)
    noise = cost.asked[1][0, :, :, 0] - cost.asked[0][0, 0, :, 0]
    bends = noise.diff(n=2).abs()
    assert bends[:, 3].min() > 1e-4  # at the knot in the middle
    assert bends[:, [0, 1, 2, 4, 5, 6]].max() < 1e-5


def test_each_population_varies_the_best_so_far() -> None:
    cost = Listening(pushed_cart)
    solve(PredictiveSampling(num_candidates=200, num_iterations=3, deviation=0.05), cost, 2.0, 4)
    for number in (1, 2, 3):
        seen = torch.cat(cost.asked[:number], 1)
        best = seen[0, pushed_cart(seen).cost[0].argmin()]
        assert cost.asked[number][0].mean(0) == pytest.approx(best, abs=0.06)


def test_shooting_draws_evenly_and_chunks_bound_what_is_evaluated_at_once() -> None:
    cost = Listening(pushed_cart)
    found = solve(Shooting(num_candidates=3000, chunk=2000), cost, 2.0, 3, proposals=torch.ones(1, 3, 3, 1))
    assert [asked.shape[1] for asked in cost.asked] == [3 + 2000, 1000]
    assert found.num_evaluated == 3003
    shares = (cost.asked[0][:, 3:] + 2) / 4
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_the_first_proposal_is_returned_inside_the_bounds_however_good_the_others_are() -> None:
    cost, proposals = Listening(pushed_cart), torch.tensor([5.0, 0.0])[None, :, None, None].expand(1, 2, 3, 1)
    found = solve(FirstProposal(), cost, 1.0, 3, proposals=proposals)
    assert torch.equal(found.actions, torch.ones(1, 3, 1))
    assert (found.num_evaluated, found.finished) == (1, True)
    with pytest.raises(UnsupportedError, match="needs a proposal"):
        solve(FirstProposal(), cost, 1.0, 3)
