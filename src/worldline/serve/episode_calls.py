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
from worldline.schema import Kind, Role, Signal
from worldline.serve.limits import Limits
from worldline.serve.log_views import num_steps_of
from worldline.workflows.held_out import check_signals
from worldline.world.session import NO_HISTORY
from worldline.world.wire import Default

FIXED: Final[Mapping[str, Any]] = {"history": NO_HISTORY, "episode": Episode(observations={}, actions={}), "at": 0}
"""Fields of calls that the episode fills in."""
OPTIONAL: Final[Mapping[str, Default]] = {"actions": Default({}), "horizon": Default(1)}
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
        call: without what `FIXED` names. Without actions, it gets the logged ones. Without exogenous inputs, it gets
            the logged ones too, and the last ones again after the end of the episode.
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
            raise InputError(f"{stop + 1 - start} observations are too many, {room} fit. Give `at` and `steps`.")
        return SurpriseCall(episode=_episode(place, signals, start, stop))
    actions = {} if isinstance(call, PlanCall) else call.actions or _actions(card, place, at)
    if isinstance(call, WhatIfCall):
        room = min(room, MAX_KNOWN)
        start = max(0, at - room // 2)
        stop = min(num_steps, max(at + _length(actions), start + room - 1))
        return WhatIfCall(episode=_episode(place, signals, start, stop), at=at - start, actions=actions)
    if isinstance(call, ScoreCall) and not call.actions:
        actions = {name: value[None] for name, value in actions.items()}
    planned = call.horizon + _length(call.pending or {}) if isinstance(call, PlanCall) else 0
    count = min(planned or _length(actions, axis=int(isinstance(call, ScoreCall))), limits.horizon)
    history = _episode(place, signals, max(0, at + 1 - min(room, max(MIN_HISTORY, card.context + 1))), at).history()
    filled: dict[str, Any] = {"history": history, "exogenous": call.exogenous or _exogenous(card, place, at, count)}
    filled |= {"actions": actions} if actions else {}
    return replace(call, **filled)


def _signals(card: Card, place: EpisodePlace) -> list[Signal]:
    """The inputs of the world, and the other observations that are logged, without images."""
    logged = {signal.name for signal in place.store.schema.signals if signal.kind is not Kind.IMAGE}
    read = {*card.inputs, *(signal.name for signal in card.schema.observations if signal.name in logged)}
    inputs = (Role.ACTION, Role.EXOGENOUS)
    needed = [signal for signal in card.schema.signals if signal.role in inputs or signal.name in read]
    check_signals(place.store.schema, needed, f"the log {place.log!r}", "Choose a log of this world.")
    return needed


def _episode(place: EpisodePlace, signals: Sequence[Signal], first: int, last: int) -> Episode:
    """The observations `first` to `last` and the steps between them."""
    store, number = place.store, place.number
    arrays = grouped(signals, lambda s: store.read(s.name, number, first, last + (s.role is Role.OBSERVATION)))
    masks = {name: store.observed(name, number, first, last + 1) for name in arrays["observations"]}
    observed = {name: mask for name, mask in masks.items() if not mask.all()}
    ends = bool(store.terminated[number]) and last == store.num_steps[number]
    return Episode(**arrays, observed=observed, terminated=ends, step_s=store.step_s(number, first, last))


def _actions(card: Card, place: EpisodePlace, at: int) -> Arrays:
    """The logged actions of the next steps."""
    count = min(place.steps, int(place.store.num_steps[place.number]) - at)
    if count < 1:
        raise InputError(f"no actions are logged after observation {at}. Send actions, or an earlier `at`.")
    names = [signal.name for signal in card.schema.actions]
    return {name: place.store.read(name, place.number, at, at + count) for name in names}


def _exogenous(card: Card, place: EpisodePlace, at: int, count: int) -> Arrays | None:
    """The logged exogenous inputs of `count` steps; after the end of the episode, the last ones are repeated."""
    last, names = int(place.store.num_steps[place.number]) - 1, [signal.name for signal in card.schema.exogenous]
    if names and last < 0:
        raise InputError(f"the episode has no step, so {names[0]!r} is not known. Send it.")
    begin = min(at, last)
    stop = min(begin + count, last + 1)
    rows = np.minimum(at - begin + np.arange(count), stop - 1 - begin)
    return {name: place.store.read(name, place.number, begin, stop)[rows] for name in names} or None


def _length(arrays: Arrays, axis: int = 0) -> int:
    """The size of the first array along an axis; 0 without arrays, and 1 without that axis."""
    shapes = [np.shape(value) for value in arrays.values()][:1]
    return sum(shape[axis] if len(shape) > axis else 1 for shape in shapes)
