"""Examples of requests for the documentation, from the card and the logged ranges of a served world.

The world is not called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
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

Ranges = Mapping[str, NDArray[np.floating]]

STEPS: Final = 3
"""Steps of predictions and plans."""


def examples_of(hosted: HostedWorld) -> dict[str, Any]:
    """Bodies of requests as JSON, by name of the operation."""
    calls = _calls(hosted.card, hosted.ranges)
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
    """The value without null and empty maps and lists, which are defaults, and numbers without the noise of float32."""
    if isinstance(value, list):
        return [_compact(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if not isinstance(value, dict):
        return value
    kept = {name: _compact(inner) for name, inner in value.items()}
    return {name: inner for name, inner in kept.items() if inner is not None and inner not in ({}, [])}


def _calls(card: Card, ranges: Ranges) -> dict[str, Call]:
    """A call of each verb that the world has."""
    arrays = partial(_arrays, ranges)
    schema = card.schema
    seen = [signal for signal in schema.observations if signal.name in {*card.inputs, *card.predicts}]
    length = 2 if any(signal.kind is Kind.IMAGE for signal in seen) else max(card.context, 2)
    history = History(
        observations=arrays(seen, length),
        actions=arrays(schema.actions, length - 1),
        exogenous=arrays(schema.exogenous, length - 1),
    )
    actions, exogenous = arrays(schema.actions, STEPS), arrays(schema.exogenous, STEPS)
    episode = Episode(observations=arrays(seen, STEPS + 1), actions=actions, exogenous=exogenous)
    lower, higher = (arrays(schema.actions, STEPS, share=share) for share in (0.25, 0.75))
    plans, goal = {name: np.stack([lower[name], higher[name]]) for name in lower}, _goal(card, ranges)
    calls: list[Call] = [
        PredictCall(history=history, actions=actions, exogenous=exogenous),
        ScoreCall(history=history, actions=plans, goal=goal, exogenous=exogenous),
        WhatIfCall(episode=episode, at=0, actions=actions),
        SurpriseCall(episode=episode),
    ]
    if card.action_conditioned:
        calls.append(PlanCall(history=history, goal=goal, horizon=STEPS, budget_s=1.0, exogenous=exogenous))
    return {call.verb: call for call in calls}


def _goal(card: Card, ranges: Ranges) -> Goal:
    """A target for the first vector; for a world that predicts none, smooth actions."""
    for name in card.predicts:
        if card.schema[name].kind is Kind.VECTOR:
            size = float(np.diff(ranges[name], axis=0).max()) if name in ranges else 0.0
            tolerance = {name: _short(size / 20) if size else 1.0}
            return Goal(targets=_arrays(ranges, [card.schema[name]], share=0.6), tolerance=tolerance)
    actions = [signal.name for signal in card.schema.actions if signal.kind is Kind.VECTOR]
    return Goal(costs=[Change(signal=name, tolerance=1.0) for name in actions])


def _arrays(ranges: Ranges, signals: Sequence[Signal], *axes: int, share: float = 0.5) -> dict[str, NDArray[Any]]:
    """Per signal [*axes, *shape]: the value at this share of the logged range, else 0; within the bounds."""
    values = {}
    for signal in signals:
        value = np.zeros((*axes, *signal.shape), signal.dtype)
        if signal.name in ranges:
            low, high = ranges[signal.name]
            value[...] = np.vectorize(_short)(low + share * (high - low)).reshape(signal.shape)
        values[signal.name] = signal.bounded(value)
    return values


def _short(value: float) -> float:
    """The value with three significant digits."""
    return float(f"{value:.3g}")
