"""What a call costs, before it begins: memory, steps and time. The first two are limited, the third chooses workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, final

import numpy as np

from worldline.engines.base import Card
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.schema import Kind, Signal
from worldline.serve.limits import Limits
from worldline.serve.problems import TooLargeError
from worldline.serve.scheduler import Lane

QUICK_S: Final = 0.05
"""Longest estimated time of calls that are computed beside predictions."""
STEP_S: Final = 1e-3
"""Time of an observation or a predicted step, if the card has no measured call."""
VECTOR: Final = 64
"""Rollouts that take about as long together as one."""

_COPIES: Final = 5
"""Arrays of the size of a rollout that exist at the same time."""
_BYTES_PER_NUMBER: Final = 128
"""Memory of a number of an answer: arrays, and in JSON a Python object and its text."""
_PLANNED: Final = 1024
"""Candidates of a search that are assumed to exist at the same time. Engines roll out larger populations in parts."""

AnyCall = TypeVar("AnyCall", bound=Call)


@final
@dataclass(frozen=True, kw_only=True)
class CallCosts:
    """What a call costs, before it begins.

    Args:
        num_bytes: estimated memory.
        steps: predicted steps, over all worlds and candidates; of a plan, those of one candidate.
        lane: the workers for its estimated time.
    """

    num_bytes: int
    steps: int
    lane: Lane


def costs_of(call: Call, card: Card, limits: Limits) -> CallCosts:
    """The costs of a call, as large as its arrays claim, valid or not.

    Raises:
        TooLargeError: the call exceeds a limit: steps, candidates, pixels or memory.
    """
    past = call.episode if isinstance(call, WhatIfCall | SurpriseCall) else call.history
    _, worlds, observed = _lead(card.schema.observations, past.observations)
    candidates, steps = _ahead(call, card, observed)
    samples = call.num_samples if isinstance(call, PredictCall) else 2 * isinstance(call, WhatIfCall)
    is_plan = isinstance(call, PlanCall)  # whose search has a time limit instead
    rollouts = worlds * max(1, samples) * (1 if is_plan else candidates)
    num_bytes = math.ceil(worlds * _bytes_per_world(call, card, candidates, samples, steps, observed))
    images = [value.size for value in past.observations.values() if getattr(value, "dtype", None) == np.uint8]
    for what, number, limit in (
        ("observations", observed, limits.horizon),
        ("steps", steps, limits.what_if if isinstance(call, WhatIfCall) else limits.horizon),
        ("candidates over all worlds", worlds * candidates, limits.candidates),
        ("steps over all worlds, candidates and samples", steps * rollouts, limits.steps),
        ("values in images", sum(images), limits.pixels),
        ("bytes of memory, as estimated", num_bytes, limits.call_bytes),
    ):
        if number > limit:
            raise TooLargeError(f"the call needs {number} {what}. This service accepts {limit}: send less at once.")
    length = (observed + steps * (not is_plan)) * max(1.0, rollouts / VECTOR)
    lane = lane_for(card, length, call.budget_s if isinstance(call, PlanCall) else 0.0)
    return CallCosts(num_bytes=num_bytes, steps=steps * rollouts // max(1, samples), lane=lane)


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


def lane_for(card: Card, length: float, search_s: float | None = 0.0) -> Lane:
    """The workers for a call, by its estimated time.

    Args:
        card: its measured call gives the time of a step.
        length: observations and steps that follow one another, times the rollouts beyond `VECTOR`; of a plan, its
            observations.
        search_s: time limit of the search of a plan; None for no limit.
    """
    step_s = STEP_S
    if card.call is not None and card.call.latency_s > 0:
        step_s = card.call.latency_s / (card.context + max(card.band_horizon, 1))
    seconds = length * step_s + (math.inf if search_s is None else search_s)
    return Lane.QUICK if seconds <= QUICK_S else Lane.SLOW


def _lead(signals: Sequence[Signal], arrays: Mapping[str, Any]) -> list[int]:
    """The largest sizes of the last three axes before those of the signals, at least 1: [W, N, T] or [1, W, H]."""
    own = {signal.name: len(signal.shape) for signal in signals}
    shapes = [np.shape(value)[: max(0, np.ndim(value) - own.get(name, 1))][-3:] for name, value in arrays.items()]
    return [max(sizes) for sizes in zip((1, 1, 1), *((1, 1, 1)[len(shape) :] + shape for shape in shapes), strict=True)]


def _ahead(call: Call, card: Card, observed: int) -> tuple[int, int]:
    """Candidates and predicted steps of a call."""
    if isinstance(call, SurpriseCall):
        return 1, observed
    if isinstance(call, PlanCall):
        proposals, pending = (_lead(card.schema.actions, plans or {}) for plans in (call.proposals, call.pending))
        return max(_PLANNED, proposals[1]), call.horizon + pending[2] * bool(call.pending)
    _, candidates, steps = _lead(card.schema.actions, call.actions)
    return candidates if isinstance(call, ScoreCall) else 1, steps


def _bytes_per_world(call: Call, card: Card, candidates: int, samples: int, steps: int, observed: int) -> float:
    """The estimated memory of a call for each of its worlds."""
    values = sum(math.prod(card.schema[name].shape) for name in card.predicts)
    # The measured memory is that of a rollout of `band_horizon` steps. An observation takes as much as a step.
    per_step = values * 8 * _COPIES + card.bytes_per_candidate / max(card.band_horizon, 1)
    num_bytes = (candidates * steps + observed) * per_step
    if isinstance(call, ScoreCall | PlanCall):
        return num_bytes + candidates * (len(call.constraints) + len(call.goal.costs)) * 8 * _COPIES
    num_bytes += steps * (3 + samples) * values * _BYTES_PER_NUMBER  # mean, low, high
    if isinstance(call, PredictCall) and call.images:
        shown = [math.prod(signal.shape) for signal in card.schema.observations if signal.kind is Kind.IMAGE]
        num_bytes += steps * sum(shown) * _COPIES
    return num_bytes
