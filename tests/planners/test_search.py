from __future__ import annotations

import time

import pytest
import torch
from tests.planners.toys import free
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostValue
from worldline.planners.search import Candidates, search

SPACE = ActionSpace(low=torch.tensor([-1.0]), high=torch.tensor([1.0]))


def sequences(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def total(actions: Tensor) -> CostValue:
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
    assert found.converged
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
    assert found.converged is not cut
    assert found.cost.item() == (0.5 if cut else -0.5)
    assert closed == ([True] if cut else [])


def test_an_algorithm_that_ends_by_itself_has_converged_however_late_it_is() -> None:
    def candidates() -> Candidates:
        time.sleep(0.01)
        yield sequences(0.0)

    assert search(candidates(), total, SPACE, deadline_s=0.001).converged
