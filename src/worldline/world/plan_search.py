"""From an objective to a plan: bounds, proposals, the planner's budget, and how the search ended."""

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
from worldline.planning.planners.base import ActionSpace, CostValue, PlannedActions, Planner
from worldline.schema import Kind, Schema, Signal
from worldline.world.base import Plan, PlanStatus
from worldline.world.objective import Objective
from worldline.world.validation import ValidatedHistory, check_actions

Trust = float | NDArray[np.floating]

PROPOSING: Final = 0.5
"""The most of what is left of a budget that the engine's proposals may take: without a search they are worth less."""
CLOSING: Final = 0.02
"""The part of a budget that is kept for what follows the search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One search for a plan. Made by `begin`.

    Args:
        signals: the action signals, side by side in the planner's A axis.
        space: their bounds.
        horizon: T, steps.
        budget_s: seconds in all; None for no limit.
        min_trust: smallest p-value that is acted on.
        seed: of every draw.
        started_s: when it began, on the monotonic clock.
    """

    signals: tuple[Signal, ...]
    space: ActionSpace
    horizon: int
    budget_s: float | None
    min_trust: float
    seed: int
    started_s: float

    @classmethod
    def begin(cls, schema: Schema, *, horizon: int, budget_s: float | None, min_trust: float, seed: int) -> Search:
        """The search, whose clock runs from now.

        Raises:
            InputError: an argument is out of range, or an action signal lacks finite bounds.
        """
        started_s = time.monotonic()
        if horizon < 1 or not 0 <= min_trust <= 1 or (budget_s is not None and not budget_s > 0):
            raise InputError(
                f"horizon {horizon} must be at least 1, min_trust {min_trust} in [0, 1], budget_s {budget_s} above 0 "
                "or None."
            )
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
                    f"action {signal.name!r} has no finite bounds (low {signal.low}, high {signal.high}), so there is "
                    "nothing to search in. Set both in the schema."
                )
        space = ActionSpace(low=torch.tensor(low), high=torch.tensor(high), choices=tuple(choices))
        return cls(
            signals=schema.actions,
            space=space,
            horizon=horizon,
            budget_s=budget_s,
            min_trust=min_trust,
            seed=seed,
            started_s=started_s,
        )

    def check_proposals(self, proposals: Arrays, present: ValidatedHistory) -> Arrays:
        """The user's proposals, per signal [W, P, T, *shape].

        Raises:
            InputError: names the signal, what is wrong, and what to do.
        """
        checked = check_actions(self.signals, proposals, (*present.leading, None, self.horizon))
        return {name: value[None] for name, value in checked.items()} if present.single else checked

    def doubt(self, trust: Trust) -> str:
        """Why nothing should be planned; empty where all is well."""
        if self.min_trust == 0:
            return ""
        values = np.atleast_1d(np.asarray(trust))
        if np.isnan(values).any():
            return (
                f"the world is not calibrated, so its trust in the present is not known; {self.min_trust} was asked for"
            )
        world = int(values.argmin())
        if values[world] >= self.min_trust:
            return ""
        where = f"of world {world} " if np.ndim(trust) else ""
        return (
            f"the history {where}is unlike the calibration data: its p-value {values[world]:.3g} is below "
            f"min_trust {self.min_trust}"
        )

    def refused(self, reason: str, present: ValidatedHistory, trust: Trust, num_constraints: int) -> Plan:
        """The plan that is none."""
        unknown = np.full(present.leading, np.nan)
        return Plan(
            actions={s.name: np.zeros((*present.leading, 0, *s.shape), s.dtype) for s in self.signals},
            status=PlanStatus.REFUSED,
            cost=float("nan") if present.single else unknown,
            violation=np.full((*present.leading, num_constraints), np.nan),
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
            aim: what it searches for.
            present: for W, and whether the result goes back without it.
            trust: for the plan.
            proposals: the user's, from `check_proposals`.
            num_proposals: asked of the engine where the goal is reached by its distance; 0 for none.
            pending: per action signal [W, D, *shape], taken before the plan; empty for nothing.
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
                self.horizon,
                num_proposals=num_proposals,
                pending=pending or None,
                budget_s=None if left_s is None else PROPOSING * left_s,
                seed=self.seed,
            )
            starts.append(self._join(suggested))
        starts = [start for start in starts if start.shape[1]]
        planned = planner.plan(
            partial(self._cost, aim, first),
            self.space,
            batch=present.num_worlds,
            horizon=self.horizon,
            proposals=torch.cat(starts, 1) if starts else None,
            generator=torch.Generator().manual_seed(self.seed),
            deadline_s=self._left_s(),
        )
        return self._plan(planned, present, trust)

    def _cost(self, aim: Objective, first: Float[Tensor, "B 1 D A"], actions: Float[Tensor, "B N T A"]) -> CostValue:
        """What `actions` cost after what is pending."""
        whole = torch.cat([first.expand(-1, actions.shape[1], -1, -1), actions], 2)
        costs = aim.evaluate(self._split(whole.detach().numpy()), sloped=whole.requires_grad)
        total = torch.from_numpy(costs.cost.astype(np.float32))
        if costs.slope is not None:
            slope = self._join(costs.slope).nan_to_num(0.0, 0.0, 0.0)
            total = total + (slope * (whole - whole.detach())).sum((-2, -1))  # adds 0, of known slope
        return CostValue(cost=total, violation=torch.from_numpy(costs.violation.astype(np.float32)))

    def _left_s(self) -> float | None:
        """What is left of the budget for proposals and search; None for no limit."""
        if self.budget_s is None:
            return None
        return max(0.0, (1 - CLOSING) * self.budget_s - (time.monotonic() - self.started_s))

    def _plan(self, planned: PlannedActions, present: ValidatedHistory, trust: Trust) -> Plan:
        violation = planned.violation.numpy()
        status, reason = PlanStatus.CONVERGED, ""
        if (violation > 0).any():
            world, number = (int(i) for i in np.argwhere(violation > 0)[0])
            status = PlanStatus.INFEASIBLE
            where = "" if present.single else f" in world {world}"
            reason = (
                f"no sequence that was tried keeps constraint {number}{where}; the best breaks it by "
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
        """Per signal [..., *shape]: a view of the A axis, or which value is chosen."""
        ends = np.cumsum([signal.size for signal in self.signals])[:-1]
        parts = zip(self.signals, np.split(actions, ends, -1), strict=True)
        return {s.name: part.argmax(-1) if s.kind is Kind.DISCRETE else part for s, part in parts}

    def _join(self, actions: Mapping[str, NDArray[np.generic]]) -> Float[Tensor, "*lead A"]:
        parts = [
            np.eye(signal.size)[actions[signal.name]] if signal.kind is Kind.DISCRETE else actions[signal.name]
            for signal in self.signals
        ]
        return torch.from_numpy(np.concatenate(parts, -1, dtype=np.float32))
