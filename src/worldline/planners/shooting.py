"""Random shooting: the baseline that a planner has to beat."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.errors import ConfigError
from worldline.planners.population import check, costed


@dataclass(frozen=True, kw_only=True)
class Shooting(Planner):
    """The best of uniformly random sequences and the proposals.

    Args:
        num_candidates: random sequences for each problem, the same for all problems of a batch; at least 1.
        chunk: how many of them are costed at once, which bounds memory; at least 1.
    """

    num_candidates: int = 256
    chunk: int = 256

    def __post_init__(self) -> None:
        if self.num_candidates < 1 or self.chunk < 1:
            raise ConfigError(f"num_candidates {self.num_candidates} and chunk {self.chunk} must be at least 1.")

    def plan(
        self,
        cost: CostFunction,
        space: ActionSpace,
        *,
        batch: int,
        horizon: int,
        proposals: Float[Tensor, "B P T A"] | None = None,
        generator: torch.Generator,
        deadline_s: float | None = None,
    ) -> PlannedActions:
        """The best sequence found; see `Planner`. One chunk is costed however short the deadline.

        Raises:
            InputError: see `population.check` and `Population.best`.
        """
        started = time.monotonic()
        check(space, proposals, batch=batch, horizon=horizon)
        best, num_evaluated, num_drawn = None, 0, 0
        while num_drawn < self.num_candidates:
            if best is not None and deadline_s is not None and time.monotonic() - started >= deadline_s:
                break
            count = min(self.chunk, self.num_candidates - num_drawn)
            shares = torch.rand((1, count, horizon, len(space.low)), generator=generator, device=generator.device)
            drawn = space.low + shares.to(space.low) * (space.high - space.low)
            candidates = drawn.expand(batch, -1, -1, -1)
            if best is None and proposals is not None:
                candidates = torch.cat([proposals.to(candidates), candidates], 1)
            found = costed(cost, space, candidates)
            best = found.first(1) if best is None else best.merge(found).first(1)
            num_drawn += count
            num_evaluated += candidates.shape[1]
        assert best is not None
        return best.best(num_evaluated=num_evaluated, converged=num_drawn == self.num_candidates)
