"""Examples of requests for the documentation, from the card of a served world. The world is not called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.catalog.aliases import Reference
from worldline.engines.base import Card
from worldline.episode import Episode, History
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.planning.costs import Change
from worldline.schema import Kind, Signal
from worldline.serve.hosting import HostedWorld
from worldline.world import wire
from worldline.world.session import FILLED_IN

MAX_BYTES: Final = 2**17
"""Larger requests, such as those with many images, are left out."""

STEPS: Final = 3
"""Steps of predictions and plans."""


def examples_of(hosted: HostedWorld) -> dict[str, Any]:
    """Bodies of requests as JSON, by name of the operation."""
    calls = _calls(hosted.card)
    bodies: dict[str, Any] = dict(calls)
    for verb in {"predict", "plan"} & calls.keys():
        bodies[f"{verb}_session"] = {name: value for name, value in vars(calls[verb]).items() if name not in FILLED_IN}
    seen = bodies["surprise"].episode.observations
    bodies["observe_session"] = {"step": 0, "observations": {name: value[0] for name, value in seen.items()}}
    bodies["create_session"] = {"world": hosted.name}
    if hosted.reference is not None:
        bodies["add_world"] = {"name": f"{hosted.name[:90]}-2", "reference": hosted.reference}
        if Reference.parse(hosted.reference).alias is not None:
            bodies["move_alias"] = {"version": hosted.version}
    encoded = {name: wire.encode_json_answer(body) for name, body in bodies.items()}
    return {name: _compact(msgspec.json.decode(body)) for name, body in encoded.items() if len(body) <= MAX_BYTES}


def _compact(value: Any) -> Any:
    """The value without null and empty maps and lists, which are defaults."""
    if not isinstance(value, dict):
        return value
    kept = {name: _compact(inner) for name, inner in value.items()}
    return {name: inner for name, inner in kept.items() if inner is not None and inner not in ({}, [])}


def _calls(card: Card) -> dict[str, Call]:
    """A call of each verb that the world has."""
    schema = card.schema
    seen = [signal for signal in schema.observations if signal.name in {*card.inputs, *card.predicts}]
    length = 2 if any(signal.kind is Kind.IMAGE for signal in seen) else max(card.context, 2)
    history = History(
        observations=_arrays(seen, length),
        actions=_arrays(schema.actions, length - 1),
        exogenous=_arrays(schema.exogenous, length - 1),
    )
    actions, exogenous = _arrays(schema.actions, STEPS), _arrays(schema.exogenous, STEPS)
    episode = Episode(observations=_arrays(seen, STEPS + 1), actions=actions, exogenous=exogenous)
    plans, goal = _arrays(schema.actions, 2, STEPS), _goal(card)
    calls: list[Call] = [
        PredictCall(history=history, actions=actions, exogenous=exogenous),
        ScoreCall(history=history, actions=plans, goal=goal, exogenous=exogenous),
        WhatIfCall(episode=episode, at=0, actions=actions),
        SurpriseCall(episode=episode),
    ]
    if card.action_conditioned:
        calls.append(PlanCall(history=history, goal=goal, horizon=STEPS, budget_s=1.0, exogenous=exogenous))
    return {call.verb: call for call in calls}


def _goal(card: Card) -> Goal:
    """A target for the first vector; for a world that predicts none, smooth actions."""
    for name in card.predicts:
        if card.schema[name].kind is Kind.VECTOR:
            return Goal(targets=_arrays([card.schema[name]]), tolerance={name: 1.0})
    actions = [signal.name for signal in card.schema.actions if signal.kind is Kind.VECTOR]
    return Goal(costs=[Change(signal=name, tolerance=1.0) for name in actions])


def _arrays(signals: Sequence[Signal], *axes: int) -> dict[str, NDArray[Any]]:
    """Per signal [*axes, *shape]: 0, or the nearest value within the bounds."""
    zeros = {signal.name: np.zeros((*axes, *signal.shape), signal.dtype) for signal in signals}
    return {signal.name: signal.bounded(zeros[signal.name]) for signal in signals}
