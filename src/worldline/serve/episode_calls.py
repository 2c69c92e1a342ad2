"""Calls of a world about a logged episode, which fills in what the caller leaves out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np

from worldline.data.checks import grouped
from worldline.data.store import Store
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode
from worldline.errors import InputError
from worldline.planning.calls import Call, PlanCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.limits import Limits
from worldline.serve.log_views import num_steps_of
from worldline.workflows.held_out import check_signals
from worldline.world.session import NO_HISTORY

FROM_EPISODE: Final[Mapping[str, Any]] = {
    "history": NO_HISTORY,
    "episode": Episode(observations={}, actions={}),
    "at": 0,
}
"""Fields of calls that the episode fills in."""
OPTIONAL: Final = ("actions", "horizon")
"""Required fields of calls that may be left out here."""

MIN_HISTORY: Final = 128
"""Observations of a history, or those that the world needs if that is more; as in a session."""
MAX_KNOWN: Final = 2000
"""Observations around the present from which `what_if` infers hidden causes."""


@final
@dataclass(frozen=True, kw_only=True)
class EpisodePlace:
    """A step of a logged episode.

    Args:
        log: name of the log.
        store: has the episode.
        number: of the episode, from 0.
        at: number of the present observation; None for the last one with `steps` steps after it.
        steps: T, steps after it, at least 1.
    """

    log: str
    store: Store
    number: int
    at: int | None
    steps: int


def completed(call: Call, card: Card, place: EpisodePlace, limits: Limits) -> Call:
    """The call with what the episode knows. Reads the episode, so call it in a thread.

    Args:
        call: without what `FROM_EPISODE` names. Without actions, it gets the logged ones; those of single signals are
            added too, except to candidates of `score`. Exogenous inputs are the logged ones, and the last ones after
            the end of the episode.
        card: of the world.
        place: the present. Without `at`, `surprise` takes the whole episode.
        limits: of observations and images in one call.

    Raises:
        NotFoundError: there is no such episode.
        UnreadableError: the log lacks a signal of the world, or has another kind, shape or unit of it.
        InputError: there is no such step, or too many observations would be read.
    """
    num_steps = num_steps_of(place.store, place.number)
    at = max(0, num_steps - place.steps) if place.at is None else place.at
    if not 0 <= at <= num_steps:
        raise InputError(f"at is {at}. Give the number of an observation of the episode, from 0 to {num_steps}.")
    signals = _signals(card, place)
    pixels = sum(math.prod(signal.shape) for signal in signals if signal.kind is Kind.IMAGE)
    room = min(limits.horizon, limits.pixels // pixels if pixels else limits.horizon)
    if isinstance(call, SurpriseCall):
        start, stop = (0, num_steps) if place.at is None else (at, min(at + place.steps, num_steps))
        if stop + 1 - start > room:
            raise InputError(
                f"{stop + 1 - start} observations are too many; at most {room} fit. Give `at` and `steps`."
            )
        return SurpriseCall(episode=_episode(place, signals, start, stop))
    if isinstance(call, WhatIfCall):
        actions, room = _actions(call, card.schema, place, at, limits), min(room, MAX_KNOWN)
        start = max(0, at - room // 2)
        stop = min(num_steps, max(at + _length(actions, 0), start + room - 1))
        return WhatIfCall(episode=_episode(place, signals, start, stop), at=at - start, actions=actions)
    start = max(0, at + 1 - min(room, max(MIN_HISTORY, card.context + 1)))
    history = _episode(place, signals, start, at).history()
    if isinstance(call, PlanCall):
        count = call.horizon + _length(call.pending or {}, 0)
        return replace(call, history=history, exogenous=_exogenous(call.exogenous, card.schema, place, at, count))
    actions = _actions(call, card.schema, place, at, limits)
    count = min(_length(actions, int(isinstance(call, ScoreCall))), limits.horizon)
    exogenous = _exogenous(call.exogenous, card.schema, place, at, count)
    return replace(call, history=history, actions=actions, exogenous=exogenous)


def _signals(card: Card, place: EpisodePlace) -> list[Signal]:
    """The signals of the world that are read: its inputs, and what else is logged, without rewards and such images."""
    logged = {signal.name for signal in place.store.schema.signals}
    needed = [
        signal
        for signal in card.schema.signals
        if signal.name in card.inputs
        or signal.role in (Role.ACTION, Role.EXOGENOUS)
        or (signal.role is Role.OBSERVATION and signal.kind is not Kind.IMAGE and signal.name in logged)
    ]
    check_signals(place.store.schema, needed, f"the log {place.log!r}", "Choose a log of this world.")
    return needed


def _episode(place: EpisodePlace, signals: Sequence[Signal], first: int, last: int) -> Episode:
    """The observations `first` to `last` and the steps between them."""
    store, number = place.store, place.number
    arrays = grouped(signals, lambda s: store.read(s.name, number, first, last + (s.role is Role.OBSERVATION)))
    masks = {name: store.observed(name, number, first, last + 1) for name in arrays["observations"]}
    return Episode(
        **arrays,
        observed={name: mask for name, mask in masks.items() if not mask.all()},
        terminated=bool(store.terminated[number]) and last == store.num_steps[number],
        step_s=store.step_s(number, first, last),
    )


def _actions(call: Any, schema: Schema, place: EpisodePlace, at: int, limits: Limits) -> Arrays:
    """The actions of a call, with the logged ones where it has none."""
    if call.actions and isinstance(call, ScoreCall):
        return dict(call.actions)
    if call.actions:
        count = min(_length(call.actions, 0), limits.horizon)
        return {**_inputs(schema.actions, place, at, count, call.actions), **call.actions}
    count = min(place.steps, int(place.store.num_steps[place.number]) - at)
    if count < 1:
        raise InputError(f"no actions are logged after observation {at}. Send actions, or an earlier `at`.")
    logged = _inputs(schema.actions, place, at, count)
    return {name: value[None] for name, value in logged.items()} if isinstance(call, ScoreCall) else logged


def _exogenous(sent: Arrays | None, schema: Schema, place: EpisodePlace, at: int, count: int) -> Arrays | None:
    return {**_inputs(schema.exogenous, place, at, count, sent or {}), **(sent or {})} if schema.exogenous else sent


def _inputs(
    signals: Sequence[Signal], place: EpisodePlace, at: int, count: int, sent: Arrays | None = None
) -> dict[str, Any]:
    """The logged inputs of `count` steps from `at` on, [count, *shape], without those that the caller sent.

    After the end of the episode, the last ones are repeated.
    """
    last = int(place.store.num_steps[place.number]) - 1
    left = [signal.name for signal in signals if signal.name not in (sent or {})]
    if left and last < 0:
        raise InputError(f"the episode has no step, so {left[0]!r} is not known. Send it.")
    begin, rows = min(at, last), np.minimum(at + np.arange(count), last) - min(at, last)
    stop = begin + int(rows[-1]) + 1 if count else begin
    return {name: place.store.read(name, place.number, begin, stop)[rows] for name in left}


def _length(arrays: Arrays, axis: int) -> int:
    """The size of the first array along an axis; 0 without arrays, and 1 without that axis."""
    shapes = [np.shape(value) for value in arrays.values()][:1]
    return sum(shape[axis] if len(shape) > axis else 1 for shape in shapes)
