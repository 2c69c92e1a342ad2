from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from tests.testing.planted import altered, catches, instead, replacing

from worldline.errors import ConfigError, UnsupportedError
from worldline.planning.planners.base import ActionSpace, PlanCosts, PlannedActions, Planner
from worldline.testing import check_planner
from worldline.testing.planners import PlannerCase


class Descent(Planner):
    """The smallest correct planner: random steps around the best so far. Faults override one of its small methods."""

    num_rounds, num_candidates = 6, 32

    def plan(self, cost, space, *, batch, horizon, proposals=None, generator, deadline_s=None) -> PlannedActions:
        start = time.monotonic()
        self.choose(space)
        span = space.high - space.low
        shape = (1, self.num_candidates, horizon, len(span))
        candidates = (space.low + span * self.uniform(shape, generator)).expand(batch, -1, -1, -1)
        if proposals is not None:
            candidates = torch.cat([self.inside(self.proposed(proposals), space), candidates], 1)
        actions, value, num_evaluated = candidates, cost(candidates), candidates.shape[1]
        actions, value = self.best(actions, value)
        rounds = 1
        while rounds < self.num_rounds and not self.late(start, deadline_s):
            width = span * 0.5**rounds
            near = self.inside(actions + width * (self.uniform(shape, generator) - 0.5), space)
            near = torch.cat([actions, near], 1)
            found = cost(near)
            actions, value = self.best(near, found)
            num_evaluated += near.shape[1]
            rounds += 1
        result = PlannedActions(
            actions=actions[:, 0], cost=value.cost[:, 0], violation=value.violation[:, 0],
            num_evaluated=num_evaluated, finished=rounds == self.num_rounds,
        )  # fmt: skip
        return self.reported(result, space)

    def choose(self, space: ActionSpace) -> None:
        if space.choices:
            raise UnsupportedError("numbers only")

    def uniform(self, shape, generator):
        return torch.rand(shape, generator=generator)

    def proposed(self, proposals):
        return proposals

    def inside(self, actions, space: ActionSpace):
        return actions.clamp(space.low, space.high)

    def late(self, start, deadline_s):
        return deadline_s is not None and time.monotonic() - start >= deadline_s

    def best(self, actions, value: PlanCosts):
        number = self.rank(value).argmin(1)
        rows = torch.arange(len(actions))
        return actions[rows, number][:, None], PlanCosts(
            cost=value.cost[rows, number][:, None], violation=value.violation[rows, number][:, None]
        )

    def rank(self, value: PlanCosts):
        return value.cost + 1e6 * value.violation.sum(-1)

    def reported(self, result: PlannedActions, space: ActionSpace) -> PlannedActions:
        return result


IgnoresBoundsInSearch = instead(Descent, inside=lambda self, actions, space: actions)


class IgnoresBoundsOfProposals(Descent):
    def plan(self, cost, space, *, proposals=None, **rest):
        if proposals is not None:
            cost(proposals)
        return super().plan(cost, space, proposals=proposals, **rest)


ReturnsWorst = instead(Descent, rank=lambda self, value: -value.cost)


PrefersTheInfeasible = instead(Descent, rank=lambda self, value: value.cost)
Unseeded = instead(Descent, uniform=lambda self, shape, generator: torch.rand(shape))


class KeepsState(Descent):
    def __init__(self):
        self.calls = 0

    def uniform(self, shape, generator):
        self.calls += 1
        return super().uniform(shape, generator) * (0.9 + 0.1 / self.calls)


class MutatesSpace(Descent):
    def reported(self, result, space):
        space.low.add_(0.1)
        return result


class SharesTheBest(Descent):
    def best(self, actions, value):
        number = self.rank(value).mean(0).argmin()
        return actions[:, number, None], PlanCosts(
            cost=value.cost[:, number, None], violation=value.violation[:, number, None]
        )


TakesChoicesForNumbers = instead(Descent, choose=lambda *_, **__: None)


def reporting(**fields: Any) -> type[Descent]:
    """A planner that changes fields of its result."""
    return replacing(Descent, "reported", **fields)


PLANNER_FAULTS = [
    (reporting(actions=lambda result: result.actions[:, :1]), "result_honest", "actions has shape"),
    (IgnoresBoundsInSearch, "bounds", ""),
    (IgnoresBoundsOfProposals, "bounds", ""),
    (reporting(actions=lambda result: result.actions * 1.5), "bounds", ""),
    (altered(Descent, "ForgetsProposals", proposed=lambda proposals: proposals + 0.01), "proposals_kept", ""),
    (ReturnsWorst, "result_honest", ""),
    (reporting(cost=lambda result: 0.5 * result.cost), "result_honest", ""),
    (reporting(violation=lambda result: torch.ones_like(result.violation)), "feasible_first", ""),
    (reporting(num_evaluated=lambda result: result.num_evaluated - 1), "result_honest", ""),
    (PrefersTheInfeasible, "feasible_first", ""),
    (altered(Descent, "IgnoresDeadline", late=lambda _: False), "deadline", ""),
    (reporting(finished=True), "deadline", ""),
    (Unseeded, "deterministic", ""),
    (KeepsState, "deterministic", ""),
    (altered(Descent, "MutatesProposals", proposed=lambda proposals: proposals.mul_(0.99)), "deterministic", ""),
    (MutatesSpace, "deterministic", ""),
    (SharesTheBest, "plans_independent", ""),
    (altered(Descent, "SearchesNothing", num_rounds=1, num_candidates=1), "optimum", ""),
    (TakesChoicesForNumbers, "bounds", ""),
]


def test_a_correct_planner_passes() -> None:
    check_planner(Descent(), optimality=0.1)


test_a_planted_fault_is_caught = catches(PLANNER_FAULTS, lambda planner: PlannerCase(planner=planner))


def test_optimality_is_a_matter_of_degree() -> None:
    with pytest.raises(AssertionError, match=r"\[planner.optimum\]"):
        check_planner(Descent(), optimality=1e-6)


def test_a_crash_breaks_the_clause_and_the_check_goes_on() -> None:
    class Crashing(Descent):
        def reported(self, result, space):
            raise ZeroDivisionError("division by 0")

    with pytest.raises(AssertionError) as raised:
        check_planner(Crashing())
    assert str(raised.value).startswith("Crashing breaks 8 clause(s) of its contract:")
    assert "[planner.result_honest] the planner raised ZeroDivisionError: division by 0. Look at" in str(raised.value)
    assert "[planner.deterministic] the planner raised ZeroDivisionError" in str(raised.value)


def test_a_case_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        check_planner(Descent(), batch=1)
