"""Examples of requests for the documentation, from the card and the logged ranges of a served world.

The world is not called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.catalog.aliases import Reference
from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.planning.base import Goal
from worldline.planning.calls import CALLS, Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.schema import Kind, Signal
from worldline.serve.episode_calls import FIXED, OPTIONAL
from worldline.serve.hosting import HostedWorld
from worldline.world import wire
from worldline.world.session import FILLED_IN

MAX_BYTES: Final = 2**17
"""Larger requests, such as those with many images, are left out."""

Ranges = Mapping[str, NDArray[np.floating]]

STEPS: Final = 3
"""Steps of predictions and plans."""


def examples_of(hosted: HostedWorld) -> dict[str, Any]:
    """Bodies of requests as JSON, by name of the operation."""
    bodies: dict[str, Any] = {call.verb: vars(call) for call in _calls(hosted.card, hosted.ranges)}
    for verb in {"predict", "plan"} & bodies.keys():
        bodies[f"{verb}_session"] = {name: value for name, value in bodies[verb].items() if name not in FILLED_IN}
    seen = bodies["surprise"]["episode"].observations
    bodies["observe_session"] = {"step": 0, "observations": {name: value[0] for name, value in seen.items()}}
    bodies["create_session"] = {"world": hosted.name}
    for verb in CALLS.keys() & bodies.keys():
        filled = {*FIXED, *OPTIONAL, "exogenous"}
        bodies[f"{verb}_episode"] = {name: value for name, value in bodies[verb].items() if name not in filled}
    if hosted.reference is not None:
        bodies["add_world"] = {"name": f"{hosted.name[:90]}-2", "reference": hosted.reference}
        if Reference.parse(hosted.reference).alias is not None:
            bodies["move_alias"] = {"version": hosted.version}
    encoded = ((name, wire.encode_json_answer(body)) for name, body in bodies.items())
    return {name: json.loads(body, object_hook=_without_empty) for name, body in encoded if len(body) <= MAX_BYTES}


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """The value without null and empty maps and lists, which are defaults."""
    return {name: inner for name, inner in value.items() if inner not in (None, {}, [])}


def _calls(card: Card, ranges: Ranges) -> list[Call]:
    """A call of each verb that the world has."""
    schema, arrays = card.schema, partial(_arrays, ranges)
    seen = [signal for signal in schema.observations if signal.name in {*card.inputs, *card.predicts}]
    num_known = 2 if any(signal.kind is Kind.IMAGE for signal in seen) else max(card.context, 2)
    length = max(num_known, STEPS + 1)
    whole = Episode(
        observations=arrays(seen, length),
        actions=arrays(schema.actions, length - 1),
        exogenous=arrays(schema.exogenous, length - 1),
    )
    history, episode = whole.history(length=num_known), whole.last(STEPS + 1)
    future: dict[str, Any] = {"history": history, "exogenous": episode.exogenous}
    lower, higher = (arrays(schema.actions, STEPS, share=share) for share in (0.25, 0.75))
    plans = {name: np.stack([lower[name], higher[name]]) for name in lower}
    calls: list[Call] = [
        PredictCall(**future, actions=episode.actions),
        WhatIfCall(episode=episode, at=0, actions=episode.actions),
        SurpriseCall(episode=episode),
    ]
    vectors = [signal for signal in seen if signal.kind is Kind.VECTOR and signal.name in card.predicts]
    if vectors:
        goal = Goal(targets=_arrays(ranges, vectors[:1], share=0.6))
        calls.append(ScoreCall(**future, actions=plans, goal=goal))
        if card.action_conditioned:
            calls.append(PlanCall(**future, goal=goal, horizon=STEPS, budget_s=1.0))
    return calls


def _arrays(ranges: Ranges, signals: Sequence[Signal], *axes: int, share: float = 0.5) -> dict[str, NDArray[Any]]:
    """Per signal [*axes, *shape]: the value at this share of the logged range, else 0; within the bounds."""
    values = {}
    for signal in signals:
        value = np.zeros(signal.shape, signal.dtype)
        if signal.name in ranges:
            low, high = ranges[signal.name]
            value = np.array([float(f"{number:.3g}") for number in low + share * (high - low)])  # short
        values[signal.name] = np.broadcast_to(signal.bounded(value), (*axes, *signal.shape))
    return values
