"""Random shooting: the baseline for planners."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from worldline.config import Size
from worldline.planning.planners.base import ActionSpace
from worldline.planning.planners.population import initial
from worldline.planning.planners.search import Candidates, PopulationPlanner


@dataclass(frozen=True, kw_only=True)
class Shooting(PopulationPlanner):
    """The best of uniformly random sequences and the proposals.

    Args:
        num_candidates: random sequences for each problem, the same for all problems of a batch; at least 1.
        chunk: number of sequences per evaluation, which bounds memory; at least 1.
    """

    num_candidates: Size = 256
    chunk: Size = 256

    def candidates(
        self, space: ActionSpace, proposals: Float[Tensor, "B P T A"], generator: torch.Generator
    ) -> Candidates:
        """The algorithm; a population is a chunk, and the first one contains the proposals."""
        batch, _, horizon, _ = proposals.shape
        for start in range(0, self.num_candidates, self.chunk):
            count = min(self.chunk, self.num_candidates - start)
            kept = proposals if start == 0 else None
            yield initial(space, kept, batch=batch, horizon=horizon, num_random=count, generator=generator)
