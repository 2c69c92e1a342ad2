from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from tests.planning.planners.toys import free
from torch import Tensor

from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions
from worldline.planning.planners.population import Candidates, PopulationPlanner

SPACE = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))


@dataclass
class Clock:
    """Time goes on only where a cost takes some."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s

    def slow(self, cost: CostFunction, *, per_call_s: float) -> CostFunction:
        def slow(actions: Tensor) -> PlanCosts:
            self.now_s += per_call_s
            return cost(actions)

        return slow


def search(
    algorithm: Candidates,
    cost: CostFunction,
    space: ActionSpace,
    *,
    deadline_s: float | None,
    num_proposals: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> PlannedActions:
    """The result of a planner whose algorithm is given."""
    timer = clock

    class Given(PopulationPlanner):
        clock = staticmethod(timer)

        def candidates(self, space: ActionSpace, proposals: Tensor, generator: torch.Generator) -> Candidates:
            return algorithm

    proposals = torch.zeros(1, num_proposals, 1, 1) if num_proposals else None
    return Given().plan(
        cost, space, batch=1, horizon=1, proposals=proposals, generator=torch.Generator(), deadline_s=deadline_s
    )


def sequences(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def total(actions: Tensor) -> PlanCosts:
    return free(actions.sum((2, 3)))


def test_returns_the_best_of_all_that_was_yielded() -> None:
    told = []

    def candidates() -> Candidates:
        told.append((yield sequences(0.5, -0.25)))
        told.append((yield sequences(-0.75, 9.0, 0.0)))
        told.append((yield sequences(0.9)))

    found = search(candidates(), total, SPACE, deadline_s=None)
    assert found.actions.item() == found.cost.item() == -0.75
    assert found.num_evaluated == 6
    assert found.finished
    assert told[0].cost.tolist() == [[-0.25, 0.5]]
    assert told[1].actions.flatten().tolist() == [-0.75, 0.0, 1.0]


@pytest.mark.parametrize(("deadline_s", "cut"), [(0.0, True), (60.0, False)])
def test_a_deadline_closes_the_algorithm(deadline_s: float, cut: bool) -> None:
    closed = []

    def candidates() -> Candidates:
        try:
            yield sequences(0.5)
            yield sequences(-0.5)
        except GeneratorExit:
            closed.append(True)
            raise

    found = search(candidates(), total, SPACE, deadline_s=deadline_s)
    assert found.finished is not cut
    assert found.cost.item() == (0.5 if cut else -0.5)
    assert closed == ([True] if cut else [])


@pytest.mark.parametrize(("deadline_s", "costed"), [(2.4, 1), (2.5, 2), (3.5, 3)])
def test_a_population_that_would_end_too_late_is_not_begun(deadline_s: float, costed: int) -> None:
    clock = Clock()

    def candidates() -> Candidates:
        for _ in range(9):
            yield sequences(0.5)

    found = search(candidates(), clock.slow(total, per_call_s=1.0), SPACE, deadline_s=deadline_s, clock=clock)
    assert found.num_evaluated == costed  # each takes 1 s, and is taken to need 1.5 s
    assert clock.now_s <= deadline_s
    assert not found.finished


def test_a_population_too_large_for_the_time_is_costed_in_parts() -> None:
    """Each sequence takes 10 ms: 16 at first, then what fits, until the next 16 are taken not to."""
    clock, sizes = Clock(), []

    def cost(actions: Tensor) -> PlanCosts:
        sizes.append(actions.shape[1])
        clock.now_s += 0.01 * actions.shape[1]
        return total(actions)

    def candidates() -> Candidates:
        yield sequences(*torch.linspace(0.0, 0.999, 1000).tolist())
        raise AssertionError("it is not told of a part")

    found = search(candidates(), cost, SPACE, deadline_s=1.0, clock=clock)
    assert sizes[0] == 16
    assert found.num_evaluated == sum(sizes)
    assert 0.75 <= clock.now_s <= 1.0
    assert found.cost.item() == 0.0
    assert not found.finished


def test_all_proposals_are_costed_however_short_the_time() -> None:
    def candidates() -> Candidates:
        yield sequences(*[0.0] * 39, -1.0, *[-1.0] * 20)

    found = search(candidates(), total, SPACE, deadline_s=0.0, num_proposals=40)
    assert (found.num_evaluated, found.cost.item()) == (40, -1.0)
