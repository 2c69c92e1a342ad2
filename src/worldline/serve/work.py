"""The computation of calls in batches and in pieces."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import History
from worldline.planning.calls import Call, PredictCall, ScoreCall
from worldline.serve.scheduler import CallerLeftError
from worldline.world.base import World
from worldline.world.batches import combine, stack_calls, world_of


def group_of(call: Call, card: Card) -> Hashable | None:
    """What calls must have in common to be computed as one; None for a call that is computed alone.

    Only predictions of one world without random draws are grouped, so a caller gets the same answer in every batch.
    """
    if not isinstance(call, PredictCall) or call.num_samples or not card.deterministic or card.max_batch < 2:
        return None
    if _has_worlds(call.history, card):
        return None
    groups = (*vars(call.history).values(), call.actions, call.exogenous or {})
    shapes = (tuple((name, value.shape, value.dtype.char) for name, value in sorted(group.items())) for group in groups)
    return call.level, call.images, *shapes


def answer_calls(
    world: World, calls: Sequence[Call], card: Card, pieces: int = 1, wanted: Callable[[], bool] = lambda: True
) -> list[object]:
    """The answer to each call of one group, or its error; several as one batch. For the rest see `answer_in_pieces`."""
    if len(calls) > 1:
        try:
            batch = world.answer(stack_calls([call for call in calls if isinstance(call, PredictCall)]))
            return [world_of(batch, number) for number in range(len(calls))]
        except Exception:  # noqa: BLE001  # one call is invalid: each gets its own answer or error
            pass
    answers = list[object]()
    for call in calls:
        try:
            answers.append(answer_in_pieces(world, call, card, pieces, wanted))
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
    answers, axis = list[Any](), 0
    parts: list[Call] = [call]
    if isinstance(call, PredictCall | ScoreCall):
        has_worlds = _has_worlds(call.history, card)
        axis = int(has_worlds and isinstance(call, ScoreCall))
        if has_worlds or isinstance(call, ScoreCall):
            parts = _parts(call, pieces, axis)
    for part in parts:
        if not wanted():
            raise CallerLeftError("the caller left before the answer.")
        answers.append(world.answer(part))
    if len(answers) == 1:
        return answers[0]
    if isinstance(call, PredictCall):
        return combine(answers, np.concatenate)
    return replace(
        answers[0],
        cost=np.concatenate([scores.cost for scores in answers], axis),
        violation=np.concatenate([scores.violation for scores in answers], axis),
        trust=np.min([scores.trust for scores in answers], 0),
    )


def _parts(call: PredictCall | ScoreCall, pieces: int, axis: int) -> list[Call]:
    """Parts of a call along an axis. If sizes differ, so do those of a part, which the world explains."""
    count = min((np.shape(value)[axis : axis + 1] or (1,) for value in call.actions.values()), default=(1,))[0]
    pieces = max(1, min(pieces, count))

    def part(number: int) -> Call:
        def cut(value: NDArray[np.generic]) -> Any:
            return np.array_split(value, pieces, axis)[number]

        actions = {name: cut(value) for name, value in call.actions.items()}
        if isinstance(call, ScoreCall):
            return replace(call, actions=actions)
        exogenous = call.exogenous and {name: cut(value) for name, value in call.exogenous.items()}
        return replace(call, history=call.history.map(cut), actions=actions, exogenous=exogenous)

    return [part(number) for number in range(pieces)] if pieces > 1 else [call]


def _has_worlds(history: History, card: Card) -> bool:
    """Whether the arrays have an axis of worlds; False if the history is not valid."""
    axes = {signal.name: len(signal.shape) for signal in card.schema.observations}
    known = [np.ndim(value) - axes[name] for name, value in history.observations.items() if name in axes]
    return known[:1] == [2]
