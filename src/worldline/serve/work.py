"""The size of a call before it begins, and the computation of calls in batches and in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, History
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.schema import Kind
from worldline.serve.limits import Limits
from worldline.serve.problems import TooLargeError
from worldline.serve.scheduler import CallerLeftError
from worldline.world.base import Scores, World
from worldline.world.batches import call_of, combine, stack_calls, world_of

AnyCall = TypeVar("AnyCall", bound=Call)

_COPIES: Final = 4
"""Arrays of the size of a rollout that exist at the same time."""
_BYTES_PER_NUMBER: Final = 128
"""Memory of a number of an answer: arrays, and in JSON a Python object and its text."""
_PLANNED: Final = 1024
"""Candidates of a search that are assumed to exist at the same time. Engines roll out larger populations in parts."""


@final
@dataclass(frozen=True, kw_only=True)
class CallSize:
    """The size of a call before it begins.

    Args:
        num_bytes: estimated memory.
        steps: predicted steps, over all worlds and candidates; of a plan, those of one candidate.
        length: observations and steps that follow one another; of a plan, its observations.
        rollouts: worlds, times candidates and samples; of a plan, its worlds.
    """

    num_bytes: int
    steps: int
    length: int
    rollouts: int


def size_of(call: Call, card: Card, limits: Limits) -> CallSize:
    """The size of a call.

    Raises:
        TooLargeError: the call exceeds a limit: steps, candidates, pixels or memory.
    """
    counts = worlds, candidates, samples, steps, observed = _counts(call, card)
    predicted = worlds * steps * (1 if isinstance(call, PlanCall) else candidates)  # a plan has a time limit instead
    arrays = [value for value in _observations(call).values() if isinstance(value, np.ndarray)]
    num_bytes = _num_bytes(call, card, *counts)
    for what, number, limit in (
        ("observations", observed, limits.horizon),
        ("steps", steps, limits.horizon),
        ("candidates over all worlds", worlds * candidates, limits.candidates),
        ("steps over all worlds, candidates and samples", predicted * max(1, samples), limits.steps),
        ("values in images", sum(value.size for value in arrays if value.dtype == np.uint8), limits.pixels),
        ("bytes of memory, as estimated", num_bytes, limits.call_bytes),
    ):
        if number > limit:
            raise TooLargeError(f"the call needs {number} {what}. This service accepts {limit}: send less at once.")
    if isinstance(call, PlanCall):  # its search has a time limit
        return CallSize(num_bytes=num_bytes, steps=predicted, length=observed, rollouts=worlds)
    rollouts = worlds * candidates * max(1, samples)
    return CallSize(num_bytes=num_bytes, steps=predicted, length=observed + steps, rollouts=rollouts)


def _num_bytes(call: Call, card: Card, worlds: int, candidates: int, samples: int, steps: int, observed: int) -> int:
    """The estimated memory of a call."""
    values = sum(math.prod(card.schema[name].shape) for name in card.predicts)
    rolled_out = candidates * steps + observed
    # The measured memory is that of a rollout of `band_horizon` steps. An observation takes as much as a step.
    per_world = rolled_out * (values * 8 * _COPIES + card.bytes_per_candidate / max(card.band_horizon, 1))
    if isinstance(call, ScoreCall | PlanCall):
        per_world += candidates * (len(call.constraints) + len(call.goal.costs)) * 8 * _COPIES
    else:
        per_world += steps * (3 + samples) * values * _BYTES_PER_NUMBER  # mean, low, high
    if isinstance(call, PredictCall) and call.images:
        shown = sum(math.prod(signal.shape) for signal in card.schema.observations if signal.kind is Kind.IMAGE)
        per_world += steps * shown * _COPIES
    return math.ceil(worlds * per_world)


def with_budget(call: AnyCall, limits: Limits, deadline_s: float | None = None) -> AnyCall:
    """The call. The time limit of a plan leaves a fifth of the deadline for queue and answer.

    Args:
        call: any call.
        limits: `plan_s` and `deadline_s` apply.
        deadline_s: seconds until the caller gives up; None for the limit of the service.
    """
    if not isinstance(call, PlanCall):
        return call
    limit_s = 0.8 * min(limits.deadline_s, deadline_s or limits.deadline_s)
    return replace(call, budget_s=min(limits.plan_s if call.budget_s is None else call.budget_s, limit_s))


def group_of(call: Call, card: Card) -> Hashable | None:
    """What calls must have in common to be computed as one; None for a call that is computed alone.

    Only predictions of one world without random draws are grouped, so a caller gets the same answer in every batch.
    """
    if not isinstance(call, PredictCall) or call.num_samples or not card.deterministic or card.max_batch < 2:
        return None
    if _num_worlds(call.history, card) is not None:
        return None
    groups = (*vars(call.history).values(), call.actions, call.exogenous or {})
    return call.level, call.images, tuple(_shapes(group) for group in groups)


def answer_calls(world: World, calls: Sequence[Call]) -> list[object]:
    """The answer to each call of one group, or its error; several as one batch."""
    if len(calls) > 1:
        try:
            batch = world.answer(stack_calls([call for call in calls if isinstance(call, PredictCall)]))
            return [world_of(batch, number) for number in range(len(calls))]
        except Exception:  # noqa: BLE001  # one call is invalid: each gets its own answer or error
            pass
    answers = list[object]()
    for call in calls:
        try:
            answers.append(world.answer(call))
        except Exception as error:  # noqa: BLE001  # the caller gets it
            answers.append(error)
    return answers


def answer_in_pieces(
    world: World, call: Call, card: Card, pieces: int, wanted: Callable[[], bool] = lambda: True
) -> object:
    """The answer to a call, computed in parts of its worlds or candidates.

    Args:
        world: answers.
        call: a prediction of a batch is split by worlds, a score by candidates. Others are not split.
        card: of the world.
        pieces: number of parts, at least 1.
        wanted: whether somebody still waits for the answer; checked before each part.

    Raises:
        CallerLeftError: nobody does.
    """
    parts = list[Call]()
    axis = 0
    if pieces > 1 and isinstance(call, PredictCall | ScoreCall):
        worlds = _num_worlds(call.history, card)
        axis = 1 if isinstance(call, ScoreCall) and worlds is not None else 0
        groups = [call.actions]
        if isinstance(call, PredictCall):
            groups += [*vars(call.history).values(), call.exogenous or {}]
        sizes = {np.shape(value)[axis : axis + 1] for group in groups for value in group.values()}
        # Sizes that differ are an error, which the world explains.
        if len(sizes) == 1 and (count := sum(sizes.pop())) > 1:
            indices = np.array_split(np.arange(count), min(pieces, count))
            if isinstance(call, ScoreCall):
                parts = [replace(call, actions=_candidates(call.actions, index, axis)) for index in indices]
            elif worlds == count:
                parts = [call_of(call, index) for index in indices]
    answers = list[Any]()
    for part in parts or [call]:
        if not wanted():
            raise CallerLeftError("the caller left before the answer.")
        answers.append(world.answer(part))
    if len(answers) == 1:
        return answers[0]
    return combine(answers, np.concatenate) if isinstance(call, PredictCall) else _joined(answers, axis)


def _counts(call: Call, card: Card) -> tuple[int, int, int, int, int]:
    """Worlds, candidates, samples, steps and observations of a call; as large as its arrays claim, valid or not."""
    observed = _num_observed(call, card)
    if isinstance(call, WhatIfCall | SurpriseCall):
        return 1, 1, 2, observed, observed
    worlds = _num_worlds(call.history, card) or 1
    axes = {signal.name: len(signal.shape) for signal in card.schema.actions}
    if isinstance(call, PlanCall):
        proposed, _ = _plans(call.proposals or {}, axes, several=True)
        _, sent = _plans(call.pending or {}, axes, several=False)
        return worlds, max(_PLANNED, proposed), 0, call.horizon + sent, observed
    candidates, steps = _plans(call.actions, axes, several=isinstance(call, ScoreCall))
    return worlds, candidates, call.num_samples if isinstance(call, PredictCall) else 0, max(1, steps), observed


def _plans(actions: Arrays, axes: Mapping[str, int], *, several: bool) -> tuple[int, int]:
    """Candidates and steps of action arrays, whose signals have this number of axes."""
    shapes = [(np.shape(value), axes.get(name, 1)) for name, value in actions.items()]
    steps = max([shape[-1 - own] for shape, own in shapes if len(shape) > own], default=0)
    return max([shape[-2 - own] for shape, own in shapes if several and len(shape) > own + 1], default=1), steps


def _num_observed(call: Call, card: Card) -> int:
    """H, the largest number of observations of a signal."""
    axes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    shapes = [(np.shape(value), axes.get(name, 1)) for name, value in _observations(call).items()]
    return max([shape[-1 - own] for shape, own in shapes if len(shape) > own], default=1)


def _num_worlds(history: History, card: Card) -> int | None:
    """W; None without an axis of worlds, or if the history is not valid."""
    shapes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    for name, value in history.observations.items():
        if name in shapes:
            return len(value) if np.ndim(value) == shapes[name] + 2 else None
    return None


def _observations(call: Call) -> Mapping[str, Any]:
    return (call.episode if isinstance(call, WhatIfCall | SurpriseCall) else call.history).observations


def _shapes(group: Arrays) -> tuple[object, ...]:
    return tuple((name, value.shape, value.dtype.char) for name, value in sorted(group.items()))


def _candidates(actions: Arrays, index: NDArray[np.integer], axis: int) -> Arrays:
    return {name: np.take(value, index, axis) for name, value in actions.items()}


def _joined(parts: Sequence[Scores], axis: int) -> Scores:
    """The scores of all candidates from those of parts."""
    return replace(
        parts[0],
        cost=np.concatenate([scores.cost for scores in parts], axis),
        violation=np.concatenate([scores.violation for scores in parts], axis),
        trust=np.array([scores.trust for scores in parts]).min(0),
    )
