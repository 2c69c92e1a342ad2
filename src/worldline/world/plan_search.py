"""Plan search: bounds, proposals, time budget and status around a planner."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from worldline.episode import Arrays
from worldline.errors import InputError
from worldline.planning.base import PlanRequest
from worldline.planning.planners.base import ActionSpace, CostValue, PlannedActions, Planner
from worldline.schema import Kind, Schema, Signal
from worldline.world.base import Plan, PlanStatus
from worldline.world.objective import Objective
from worldline.world.validation import ValidatedHistory, check_actions

Trust = float | NDArray[np.floating]

MAX_PROPOSAL_SHARE: Final = 0.5
"""Largest share of the remaining budget for the engine's proposals. The rest is for the search that improves them."""
RESERVED_SHARE: Final = 0.02
"""Share of the budget that is reserved for the time after the search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One search for a plan; made by `begin`.

    Args:
        signals: the action signals, concatenated in the planner's A axis.
        space: their bounds.
        request: the arguments of the plan.
        started_s: start on the monotonic clock.
    """

    signals: tuple[Signal, ...]
    space: ActionSpace
    request: PlanRequest
    started_s: float

    @classmethod
    def begin(cls, schema: Schema, request: PlanRequest) -> Search:
        """Starts a search; its clock runs from now.

        Raises:
            InputError: an action signal lacks finite bounds.
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
                raise InputError(
                    f"action {signal.name!r} has no finite bounds (low {signal.low}, high {signal.high}). Set "
                    "both in the schema."
                )
        space = ActionSpace(low=torch.tensor(low), high=torch.tensor(high), choices=tuple(choices))
        return cls(signals=schema.actions, space=space, request=request, started_s=started_s)

    def check_proposals(self, proposals: Arrays, present: ValidatedHistory) -> Arrays:
        """The proposals of the caller, validated, per signal [W, P, T, *shape].

        Raises:
            InputError: a signal is missing, has the wrong shape or is outside its bounds.
        """
        checked = check_actions(self.signals, proposals, (*present.leading, None, self.request.horizon))
        return {name: value[None] for name, value in checked.items()} if present.single else checked

    def refusal_reason(self, trust: Trust) -> str:
        """The reason to refuse planning; empty if the trust suffices."""
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
            f"the history {where}is out of distribution: its p-value {values[world]:.3g} is below "
            f"min_trust {self.request.min_trust}"
        )

    def refused(self, reason: str, present: ValidatedHistory, trust: Trust) -> Plan:
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
        )

    def run(
        self,
        planner: Planner,
        aim: Objective,
        present: ValidatedHistory,
        trust: Trust,
        proposals: Arrays | None,
        num_proposals: int,
        pending: Arrays,
    ) -> Plan:
        """The best plan that `planner` finds.

        Args:
            planner: searches.
            aim: evaluates candidates.
            present: gives W, and whether the result has a W axis.
            trust: is returned with the plan.
            proposals: proposals of the caller, from `check_proposals`.
            num_proposals: proposals of the engine, if the cost is its distance in steps; 0 for none.
            pending: per action signal [W, D, *shape], actions before the plan; empty for none.
        """
        first = (
            self._join(pending)[:, None]
            if pending
            else self.space.low.new_zeros(present.num_worlds, 1, 0, len(self.space.low))
        )

        starts = [] if proposals is None else [self._join(proposals)]
        left_s = self._left_s()
        if aim.reaches is not None and num_proposals:
            suggested = aim.reaches.propose(
                aim.belief,
                aim.targets,
                self.request.horizon,
                num_proposals=num_proposals,
                pending=pending or None,
                budget_s=None if left_s is None else MAX_PROPOSAL_SHARE * left_s,
                seed=self.request.seed,
            )
            starts.append(self._join(suggested))
        starts = [start for start in starts if start.shape[1]]
        planned = planner.plan(
            partial(self._cost, aim, first),
            self.space,
            batch=present.num_worlds,
            horizon=self.request.horizon,
            proposals=torch.cat(starts, 1) if starts else None,
            generator=torch.Generator().manual_seed(self.request.seed),
            deadline_s=self._left_s(),
        )
        return self._plan(planned, present, trust)

    def _cost(self, aim: Objective, first: Float[Tensor, "B 1 D A"], actions: Float[Tensor, "B N T A"]) -> CostValue:
        """The cost of `actions` after the pending ones."""
        path = torch.cat([first.expand(-1, actions.shape[1], -1, -1), actions], 2)
        costs = aim.evaluate(self._split(path.detach().numpy()), sloped=path.requires_grad)
        total = torch.from_numpy(costs.cost.astype(np.float32))
        if costs.slope is not None:
            slope = self._join(costs.slope).nan_to_num(0.0, 0.0, 0.0)
            total = total + (slope * (path - path.detach())).sum((-2, -1))  # adds 0, and carries the gradient
        return CostValue(cost=total, violation=torch.from_numpy(costs.violation.astype(np.float32)))

    def _left_s(self) -> float | None:
        """The remaining seconds for proposals and search; None for no limit."""
        if self.request.budget_s is None:
            return None
        return max(0.0, (1 - RESERVED_SHARE) * self.request.budget_s - (time.monotonic() - self.started_s))

    def _plan(self, planned: PlannedActions, present: ValidatedHistory, trust: Trust) -> Plan:
        violation = planned.violation.numpy()
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
        actions = self._split(planned.actions.numpy())
        return Plan(
            actions={name: value[0] for name, value in actions.items()} if present.single else actions,
            status=status,
            cost=float(planned.cost[0]) if present.single else planned.cost.numpy(),
            violation=violation[0] if present.single else violation,
            trust=trust,
            reason=reason,
            elapsed_s=time.monotonic() - self.started_s,
        )

    def _split(self, actions: NDArray[np.floating]) -> dict[str, NDArray[np.generic]]:
        """Per signal [..., *shape]: a view of the A axis, or the chosen value if discrete."""
        ends = np.cumsum([signal.size for signal in self.signals])[:-1]
        parts = zip(self.signals, np.split(actions, ends, -1), strict=True)
        return {s.name: part.argmax(-1) if s.kind is Kind.DISCRETE else part for s, part in parts}

    def _join(self, actions: Mapping[str, NDArray[np.generic]]) -> Float[Tensor, "*lead A"]:
        parts = [
            np.eye(signal.size)[actions[signal.name]] if signal.kind is Kind.DISCRETE else actions[signal.name]
            for signal in self.signals
        ]
        return torch.from_numpy(np.concatenate(parts, -1, dtype=np.float32))
