"""The loop around every search: what an algorithm proposes is costed, until it ends or time is up."""

from __future__ import annotations

import time
from collections.abc import Generator

from jaxtyping import Float
from torch import Tensor

from worldline.contracts.planner import ActionSpace, CostFunction, PlannedActions
from worldline.planners.population import Population, costed

Candidates = Generator[Tensor, Population, None]
"""An algorithm: it yields sequences [B, N, T, A], is told what they cost, best first, and returns when it is done."""


def search(
    candidates: Candidates, cost: CostFunction, space: ActionSpace, *, deadline_s: float | None
) -> PlannedActions:
    """The best of all sequences that `candidates` yields; see `Planner`. The first are costed however short the time.

    Raises:
        InputError: see `Population.best`.
    """
    started = time.monotonic()
    best, num_evaluated, converged = None, 0, True
    actions: Float[Tensor, "B N T A"] = next(candidates)
    while True:
        found = costed(cost, space, actions)
        num_evaluated += actions.shape[1]
        best = found.first(1) if best is None else best.merge(found).first(1)
        try:
            actions = candidates.send(found)
        except StopIteration:
            break
        if deadline_s is not None and time.monotonic() - started >= deadline_s:
            candidates.close()
            converged = False
            break
    return best.best(num_evaluated=num_evaluated, converged=converged)
