"""Random shooting: the baseline that a planner has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions, Planner
from worldline.errors import ConfigError
from worldline.planners.population import check
from worldline.planners.search import Candidates, search


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
            UnsupportedError: an action is discrete.
        """
        check(space, proposals, batch=batch, horizon=horizon)
        candidates = self._candidates(space, (batch, horizon), proposals, generator)
        return search(candidates, cost, space, deadline_s=deadline_s)

    def _candidates(
        self, space: ActionSpace, size: tuple[int, int], proposals: Tensor | None, generator: torch.Generator
    ) -> Candidates:
        batch, horizon = size
        for first in range(0, self.num_candidates, self.chunk):
            count = min(self.chunk, self.num_candidates - first)
            shares = torch.rand((1, count, horizon, len(space.low)), generator=generator, device=generator.device)
            drawn = (space.low + shares.to(space.low) * (space.high - space.low)).expand(batch, -1, -1, -1)
            yield drawn if proposals is None or first else torch.cat([proposals.to(drawn), drawn], 1)
