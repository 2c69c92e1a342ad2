"""Clauses that engines and models share: beliefs and rollouts are pure functions of each entry and candidate.

`EngineCase` and `ModelCase` have these methods in common. Every call has fixed draws.

* `ready()`: a history of B entries, the belief after it, and inputs of N candidates, with `actions`.
* `split(history)`: all but the last step of the history, and the last one.
* `observe(history, belief)`: the belief after a history, or after one more step of a belief.
* `pick(inputs, index)`: the candidates with these indices, in this order.
* `roll(belief, inputs)`: the predictions [B, N, S, T, ...], an array or several by name.
* `moves()`: actions [B, N, T, A] and other ones; None if there is no gradient to check.
* `last(actions)`: the last predicted step [B, N, S, D] after these actions.
* `spliced(step)`: predictions [B, T, ...] by name, with other inputs from `step` on.
* `state()`: the arrays of the implementation that no call may change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldline.testing.clauses import clause
from worldline.testing.comparing import difference, equal, existing, holds, map_arrays, unchanged


@clause("engine model", "the seed or generator; equal seeds give equal draws, no other source is used")
def seeds_reproduce(case: Any) -> None:
    """Equal seeds give equal results."""
    history, belief, inputs = case.ready()
    first = case.roll(belief, inputs)
    equal(case.roll(case.observe(history), inputs), first, "equal seeds gave different results")


@clause("engine model", "imagine and rollout; the same draws for each of N candidates")
def candidates_independent(case: Any) -> None:
    """Each candidate gives the same result alone and in any order; equal candidates give equal results."""
    _, belief, inputs = case.ready()
    together, num = case.roll(belief, inputs), case.num_candidates
    orders = {
        **{f"candidate {number} alone differs from its result in the batch": [number] for number in range(num)},
        "another order of candidates changes their results": [*range(1, num), 0],
        "identical candidates give different results": [0] * num,
    }
    for problem, index in orders.items():
        expected = pick_entries(together, (slice(None), index))
        case.equal(case.roll(belief, case.pick(inputs, index)), expected, problem)


@clause("engine model", "observe, encode and rollout; batch statistics or swapped axes")
def batch_independent(case: Any) -> None:
    """The result of an entry of the batch does not depend on the other entries."""
    history, belief, inputs = case.ready()
    together, every = case.roll(belief, inputs), np.arange(case.batch)
    for kept in (0, case.batch - 1):
        # The size of the batch stays the same, because draws may depend on it.
        chosen = np.where(every == kept, every, np.roll(every, -1)).tolist()
        other = case.roll(case.observe(pick_entries(history, chosen)), pick_entries(inputs, chosen))
        problem = f"the result of entry {kept} changed with the other entries of the batch"
        case.equal(pick_entries(other, [kept]), pick_entries(together, [kept]), problem)


@clause("engine model", "beliefs; imagine, rollout, observe and update must not change them")
def belief_immutable(case: Any) -> None:
    """Neither a prediction nor an update changes a belief."""
    history, _, inputs = case.ready()
    start, last = case.split(history)
    belief = case.observe(start)
    first = case.roll(belief, inputs)
    equal(case.roll(belief, inputs), first, "a prediction changed the belief")
    case.observe(last, belief)
    equal(case.roll(belief, inputs), first, "an update changed the belief")


@clause("engine model", "the methods; they must not change arguments or the global random state")
def arguments_unchanged(case: Any) -> None:
    """Arguments, weights and the global random state are not changed."""
    history, _, inputs = case.ready()
    start, last = case.split(history)
    with unchanged(start, last, inputs, case.state()):
        belief = case.observe(start)
        case.roll(belief, inputs)
        case.roll(case.observe(last, belief), inputs)


@clause("engine model world", "predictions and rollouts; step k may depend on inputs 0 to k only")
def no_peek(case: Any) -> None:
    """Inputs from step k on do not change the prediction before k."""
    before = case.spliced(case.horizon)
    for step in range(1, case.horizon):
        first, second = ({n: value[:, :step] for n, value in path.items()} for path in (before, case.spliced(step)))
        case.equal(second, first, f"the prediction before step {step} changed with later inputs")


@clause("engine model", "rollout; detach, no_grad or rounding of actions")
def differentiable(case: Any) -> None:
    """The last prediction has a finite gradient with respect to every action that changes it.

    Engines are checked if they are deterministic and list `differentiable`: samples may be of values that jump.
    """
    moves = case.moves()
    if moves is None:
        return
    actions, others = moves[0].clone().requires_grad_(), moves[1]
    with torch.enable_grad():
        last = case.last(actions)
        # A plain sum may cancel, as after LayerNorm.
        total = (last * torch.linspace(0.5, 1.5, last.shape[-1], device=last.device)).sum()
    gradient = torch.autograd.grad(total, actions, allow_unused=True)[0] if total.requires_grad else None
    for step in range(actions.shape[2]):
        with torch.no_grad():
            moved = difference(case.last(with_step(actions, others, step)), last)
        if moved <= case.tolerance:
            continue
        problem = f"action {step} changes the last prediction by {moved:.3g}, but"
        slope = existing(gradient, f"{problem} it has no gradient")[:, :, step]
        holds(bool(slope.isfinite().all() and slope.any()), f"{problem} its gradient is 0 or not finite")


def with_step(actions: Tensor, others: Tensor, step: int) -> Tensor:
    """`actions` [B, N, T, A] with those of `others` at one step."""
    return torch.where(torch.arange(actions.shape[2], device=actions.device)[:, None] == step, others, actions)


def pick_entries(batch: Any, index: Any) -> Any:
    """The batch entries with the indices `index`, in this order, of arrays, mappings and dataclasses."""
    return map_arrays(batch, lambda value: value[index])
