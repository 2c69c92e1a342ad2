"""The computation of calls in batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from worldline.engines.base import Card
from worldline.planning.calls import Call, PredictCall
from worldline.world.base import World
from worldline.world.batches import stack_calls, world_of

Encode = Callable[[object], object] | None
"""Maps an answer to the result of a call, in the worker; None for the answer itself."""


def group_of(call: Call, card: Card) -> Hashable | None:
    """What calls must have in common to be computed as one; None for a call that is computed alone.

    Only predictions of one world without random draws are grouped, so a caller gets the same answer in every batch.
    """
    if not isinstance(call, PredictCall) or call.num_samples or not card.deterministic or card.max_batch < 2:
        return None
    axes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    known = [np.ndim(value) - axes[name] for name, value in call.history.observations.items() if name in axes]
    if known[:1] == [2]:  # of several worlds
        return None
    groups = (*vars(call.history).values(), call.actions, call.exogenous or {})
    shapes = (tuple((name, value.shape, value.dtype.char) for name, value in sorted(group.items())) for group in groups)
    return call.level, call.images, *shapes


def answer_calls(world: World, work: Sequence[tuple[Call, Encode]]) -> list[object]:
    """The result of each call of one group, or its error; several are computed as one batch."""
    answers, results = list[object](), list[object]()
    if len(work) > 1:
        with suppress(Exception):  # one call is invalid: each gets its own answer or error
            batch = world.answer(stack_calls([call for call, _ in work if isinstance(call, PredictCall)]))
            answers = [world_of(batch, number) for number in range(len(work))]
    for number, (call, encode) in enumerate(work):
        try:
            answer: Any = answers[number] if answers else world.answer(call)
            results.append(answer if encode is None else encode(answer))
        except Exception as error:  # noqa: BLE001  # any error is the answer to this caller; the worker and other calls go on
            results.append(error)
    return results
