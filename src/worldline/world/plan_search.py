"""Plan search: bounds, proposals, time budget and status around a planner."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.engines.base import GoalDistance
from worldline.episode import Arrays
from worldline.errors import UnsupportedError
from worldline.planning.calls import PlanCall
from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner
from worldline.planning.planners.population import Population, ranked
from worldline.schema import Kind, Schema, Signal
from worldline.training.batches import join, split
from worldline.world.base import Plan, PlanStatus, Prediction
from worldline.world.objective import Objective
from worldline.world.present import Present
from worldline.world.validation import check_actions

Trust = float | NDArray[np.floating]

MAX_PROPOSAL_SHARE: Final = 0.5
"""Largest share of the remaining budget for the engine's proposals. The rest is for the search that improves them."""
RESERVED_SHARE: Final = 0.02
"""Share of the budget that is reserved for the time after the search."""
SEARCH_SAMPLES: Final = 5
"""Samples of each sequence during the search: one per member of an ensemble of the default size."""
SHORTLIST_SIZE: Final = 8
"""Best sequences of the search that are evaluated again with all samples."""
SHORTLIST_SHARE: Final = 0.1
"""Share of the remaining budget that is reserved for this."""
MAX_PREDICTION_SHARE: Final = 0.25
"""Largest share of the budget that is reserved for `Plan.prediction`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One search for a plan; made by `begin`.

    Args:
        schema: its action signals are concatenated in the planner's A axis.
        space: bounds of the action signals.
        request: the arguments of the plan.
        started_s: start on the monotonic clock.
        prediction_s: expected duration of the prediction of the final plan, seconds.
    """

    schema: Schema
    space: ActionSpace
    request: PlanCall
    started_s: float
    prediction_s: float

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The action signals."""
        return self.schema.actions

    @classmethod
    def begin(cls, schema: Schema, request: PlanCall, device: torch.device, *, prediction_s: float) -> Search:
        """Starts a search for candidates on `device`; its clock runs from now.

        Raises:
            UnsupportedError: an action signal lacks finite bounds.
        """
        started_s = time.monotonic()
        low, high, choices = list[float](), list[float](), list[tuple[int, int]]()
        for signal in schema.actions:
            if signal.kind is Kind.DISCRETE:
                choices.append((len(low), len(low) + signal.size))
                low, high = low + signal.size * [0.0], high + signal.size * [1.0]
                continue
            low += signal.low or (-np.inf,)
            high += signal.high or (np.inf,)
            if not np.isfinite([*low, *high]).all():
                raise UnsupportedError(
                    f"action {signal.name!r} has no finite bounds (low {signal.low}, high {signal.high}). Set "
                    "both in the schema."
                )
        space = ActionSpace(
            low=torch.tensor(low, device=device), high=torch.tensor(high, device=device), choices=tuple(choices)
        )
        return cls(schema=schema, space=space, request=request, started_s=started_s, prediction_s=prediction_s)

    def check_proposals(self, proposals: Arrays, present: Present) -> Arrays:
        """The proposals of the caller, validated, per signal [W, P, T, *shape].

        Raises:
            InputError: a signal is missing, has the wrong shape or is outside its bounds.
        """
        leading = (*present.leading, None, self.request.horizon)
        checked = check_actions(self.signals, proposals, leading, clip=self.request.clip)
        return {name: value[None] for name, value in checked.items()} if present.single else checked

    def refusal_reason(self, trust: Trust, what: str) -> str:
        """The reason to refuse planning; empty if the trust in `what` suffices."""
        if self.request.min_trust == 0:
            return ""
        values = np.atleast_1d(np.asarray(trust))
        if np.isnan(values).any():
            return f"the world is not calibrated, so its trust is unknown, but min_trust is {self.request.min_trust}"
        world = int(values.argmin())
        if values[world] >= self.request.min_trust:
            return ""
        where = f"of world {world} " if np.ndim(trust) else ""
        return (
            f"the {what} {where}is out of distribution: its p-value {values[world]:.3g} is below "
            f"min_trust {self.request.min_trust}"
        )

    def refused(self, reason: str, trust: Trust, present: Present) -> Plan:
        """The empty plan of a refusal."""
        unknown = np.full(present.leading, np.nan)
        return Plan(
            actions={s.name: np.zeros((*present.leading, 0, *s.shape), s.dtype) for s in self.signals},
            status=PlanStatus.REFUSED,
            cost=float("nan") if present.single else unknown,
            violation=np.full((*present.leading, len(self.request.constraints)), np.nan),
            trust=trust,
            reason=reason,
            elapsed_s=time.monotonic() - self.started_s,
            schema=self.schema,
        )

    def run(
        self,
        planner: Planner,
        aim: Objective,
        present: Present,
        proposals: Arrays | None,
        num_proposals: int,
        pending: Arrays,
    ) -> Plan:
        """The best plan that `planner` finds.

        Args:
            planner: searches.
            aim: evaluates candidates.
            present: gives W, trust, and whether the result has a W axis.
            proposals: proposals of the caller, from `check_proposals`.
            num_proposals: proposals of the engine, if the cost is its distance in steps; 0 for none.
            pending: per action signal [W, D, *shape], actions before the plan; empty for none.
        """
        device = aim.engine.device
        starts = [] if proposals is None else [join(self.signals, proposals, device)]
        first, left_s = join(self.signals, pending, device) if pending else None, self._left_s()
        if aim.encoded_goal is not None and num_proposals and isinstance(aim.engine, GoalDistance):
            suggested = aim.engine.proposals(
                aim.belief,
                aim.encoded_goal,
                self.request.horizon,
                num_proposals=num_proposals,
                pending=first,
                budget_s=None if left_s is None else MAX_PROPOSAL_SHARE * left_s,
                seed=self.request.seed,
            )
            starts += [] if suggested is None else [suggested]
        starts = [start for start in starts if start.shape[1]]

        def search(cost: CostFunction, deadline_s: float | None) -> PlannedActions:
            return planner.plan(
                cost,
                self.space,
                batch=present.num_worlds,
                horizon=self.request.horizon,
                proposals=torch.cat(starts, 1) if starts else None,
                generator=torch.Generator("cpu").manual_seed(self.request.seed),
                deadline_s=deadline_s,
            )

        exact, left_s = partial(_cost, aim, first), self._left_s()
        # A tail of the samples needs all of them; their mean is close with a few.
        if aim.num_samples <= SEARCH_SAMPLES or self.request.goal.risk < 1:
            return self._plan(search(exact, left_s), present)
        shortlist = _Shortlist(partial(_cost, replace(aim, num_samples=SEARCH_SAMPLES), first))
        planned = search(shortlist, None if left_s is None else (1 - SHORTLIST_SHARE) * left_s)
        return self._plan(self._refined(planned, shortlist, exact), present)

    def _refined(self, planned: PlannedActions, shortlist: _Shortlist, exact: CostFunction) -> PlannedActions:
        """The best of the plan and the shortlist by exact costs; the unchanged plan if the budget is spent."""
        if self._left_s() == 0:
            return planned
        best = planned.actions[:, None]
        if shortlist.best is not None:
            best = torch.cat([best, shortlist.best.actions], 1)
        return ranked(best, exact(best)).best(num_evaluated=planned.num_evaluated, converged=planned.converged)

    def _left_s(self) -> float | None:
        """The remaining seconds for proposals and search; None for no limit."""
        budget_s = self.request.budget_s
        if budget_s is None:
            return None
        reserved_s = RESERVED_SHARE * budget_s + min(self.prediction_s, MAX_PREDICTION_SHARE * budget_s)
        return max(0.0, budget_s - reserved_s - (time.monotonic() - self.started_s))

    def finished(self, plan: Plan, expected: Prediction) -> Plan:
        """The plan with its expected path and the trust in it; the clock stops here."""
        return replace(plan, prediction=expected, trust=expected.trust, elapsed_s=time.monotonic() - self.started_s)

    def _plan(self, planned: PlannedActions, present: Present) -> Plan:
        violation = planned.violation.cpu().numpy()
        status, reason = PlanStatus.CONVERGED, ""
        if (violation > 0).any():
            world, number = (int(i) for i in np.argwhere(violation > 0)[0])
            status = PlanStatus.INFEASIBLE
            where = "" if present.single else f" in world {world}"
            reason = (
                f"no candidate satisfies constraint {number}{where}; the best one violates it by "
                f"{violation[world, number]:.3g}"
            )
        elif not planned.converged:
            status = PlanStatus.BUDGET_EXHAUSTED
        actions = {name: value.cpu().numpy() for name, value in split(self.signals, planned.actions).items()}
        return Plan(
            actions={name: value[0] for name, value in actions.items()} if present.single else actions,
            status=status,
            cost=float(planned.cost[0]) if present.single else planned.cost.cpu().numpy(),
            violation=violation[0] if present.single else violation,
            trust=present.shown_trust,
            reason=reason,
            elapsed_s=time.monotonic() - self.started_s,
            schema=self.schema,
        )


class _Shortlist:
    """A cost function that remembers the best sequences that it has evaluated."""

    def __init__(self, cost: CostFunction) -> None:
        self.cost = cost
        self.best: Population | None = None

    def __call__(self, actions: Float[Tensor, "B N T A"]) -> PlanCosts:
        value = self.cost(actions)
        found = ranked(actions.detach(), value)
        self.best = (found if self.best is None else self.best.merge(found)).first(SHORTLIST_SIZE)
        return value


def _cost(aim: Objective, first: Float[Tensor, "B D A"] | None, actions: Float[Tensor, "B N T A"]) -> PlanCosts:
    """The cost of `actions` after the pending ones."""
    if first is None:
        return aim.evaluate(actions)
    return aim.evaluate(torch.cat([first[:, None].expand(-1, actions.shape[1], -1, -1), actions], 2))
