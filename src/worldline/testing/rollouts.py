"""Clauses that engines and models share: beliefs and rollouts are pure functions of each entry and candidate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import itemgetter
from typing import Any

import numpy as np

from worldline.testing.clauses import Case, TwoOrMore, clause
from worldline.testing.comparing import candidate_orders, equal, map_arrays, unchanged


class RolloutCase(Case, ABC):
    """What an engine and a model have in common; every call has fixed draws."""

    num_candidates: TwoOrMore

    @property
    def draws(self) -> bool:
        """Whether results depend on draws, and so on the size of the batch."""
        return True

    @property
    @abstractmethod
    def batch(self) -> int:
        """B, entries of the batch."""

    @abstractmethod
    def ready(self) -> tuple[Any, Any, Any]:
        """A history of B entries, the belief after it, and inputs of N candidates, with `actions`."""

    @abstractmethod
    def split(self, history: Any) -> tuple[Any, Any]:
        """All but the last step of the history, and the last one."""

    @abstractmethod
    def observe(self, history: Any, belief: Any = None) -> Any:
        """The belief after a history, or a belief after one more step."""

    @abstractmethod
    def pick(self, inputs: Any, index: list[int]) -> Any:
        """The candidates with these indices, in this order."""

    @abstractmethod
    def roll(self, belief: Any, inputs: Any) -> Any:
        """The predictions [B, N, S, T, ...], an array or several by name."""

    def state(self) -> Any:
        """The arrays of the implementation that no call may change."""
        return None


@clause("engine model", "the seed or generator; equal seeds give equal draws, no other source is used")
def seeds_reproduce(case: RolloutCase) -> None:
    """Equal seeds give equal results."""
    history, belief, inputs = case.ready()
    first = case.roll(belief, inputs)
    equal(case.roll(case.observe(history), inputs), first, "equal seeds gave different results")


@clause("engine model", "imagine and rollout; the same draws for each of N candidates")
def candidates_independent(case: RolloutCase) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    _, belief, inputs = case.ready()
    together = case.roll(belief, inputs)
    for index, problem in candidate_orders(case.num_candidates):
        expected = map_arrays(together, itemgetter((slice(None), index)))
        case.equal(case.roll(belief, case.pick(inputs, index)), expected, problem)


@clause("engine model", "observe, encode and rollout; batch statistics or swapped axes")
def batch_independent(case: RolloutCase) -> None:
    """The result of an entry of the batch does not depend on the other entries."""
    history, belief, inputs = case.ready()
    together = case.roll(belief, inputs)
    every = np.arange(case.batch)
    for kept in (0, case.batch - 1):
        # With draws, the size of the batch stays the same; without, the entry stands alone.
        chosen, place = [kept], 0
        if case.draws:
            chosen, place = np.where(every == kept, every, np.roll(every, -1)).tolist(), kept
        alone = case.roll(case.observe(pick_entries(history, chosen)), pick_entries(inputs, chosen))
        problem = f"the result of entry {kept} changed with the other entries of the batch"
        case.equal(pick_entries(alone, [place]), pick_entries(together, [kept]), problem)


@clause("engine model", "beliefs; imagine, rollout, observe and update must not change them")
def belief_immutable(case: RolloutCase) -> None:
    """Neither a prediction nor an update changes a belief."""
    history, _, inputs = case.ready()
    start, last = case.split(history)
    belief = case.observe(start)
    first = case.roll(belief, inputs)
    equal(case.roll(belief, inputs), first, "a prediction changed the belief")
    case.observe(last, belief)
    equal(case.roll(belief, inputs), first, "an update changed the belief")


@clause("engine model", "the methods; they must not change arguments or the global random state")
def arguments_unchanged(case: RolloutCase) -> None:
    """Arguments, weights and the global random state are not changed."""
    history, _, inputs = case.ready()
    start, last = case.split(history)
    with unchanged(start, last, inputs, case.state()):
        belief = case.observe(start)
        case.roll(belief, inputs)
        case.roll(case.observe(last, belief), inputs)


def pick_entries(batch: Any, index: Any) -> Any:
    """The batch entries with the indices `index`, in this order, of arrays, mappings and dataclasses."""
    return map_arrays(batch, lambda value: value[index])
