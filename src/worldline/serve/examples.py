"""Examples of requests for the documentation, from the card of a served world. The world is not called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Final, final

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

_MAX_CONTEXT: Final = 4


@final
@dataclass(frozen=True, kw_only=True)
class Example:
    """A request that works.

    Args:
        request: the body as JSON; None without one.
        path: parameters of the path by name.
    """

    request: Any = None
    path: Mapping[str, str] = field(default_factory=dict)


NO_EXAMPLE: Final = Example()


def examples_of(hosted: HostedWorld) -> dict[str, Example]:
    """Examples by name of the operation. Names of operations without a body only have parameters of the path."""
    card, path = hosted.card, {"name": hosted.name}
    requests = {call.verb: _plain(call) for call in _calls(card)}
    requests |= {f"{verb}_session": _without(requests[verb]) for verb in ("predict", "plan") if verb in requests}
    seen = requests["predict"]["history"]["observations"]
    requests["observe_session"] = {"step": 0, "observations": {name: value[0] for name, value in seen.items()}}
    requests["create_session"] = {"world": hosted.name}
    other = f"{hosted.name[:90]}-2"
    if hosted.reference is not None:
        requests["add_world"] = {"name": other, "reference": hosted.reference}
        if (alias := Reference.parse(hosted.reference).alias) is not None:
            path["alias"] = alias
            requests["move_alias"] = {"version": hosted.version}
    encoded = {name: wire.encode_json_answer(request) for name, request in requests.items()}
    examples = dict.fromkeys(("describe_world", "get_session", "fork_session"), Example(path=path))
    examples["remove_world"] = Example(path={"name": other})
    return examples | {
        name: Example(request=msgspec.json.decode(body), path=path)
        for name, body in encoded.items()
        if len(body) <= MAX_BYTES
    }


def _plain(value: Any) -> Any:
    """The value with maps in place of dataclasses, without fields that have their default value."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if not is_dataclass(value):
        return value
    shown = {}
    for item in fields(value):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if isinstance(inner := getattr(value, item.name), np.ndarray) or inner != default:
            shown[item.name] = _plain(inner)
    return shown


def _without(request: Mapping[str, Any]) -> dict[str, Any]:
    """The call without what a session fills in."""
    return {name: value for name, value in request.items() if name not in FILLED_IN}


def _calls(card: Card) -> list[Call]:
    """A call of each verb that the world has."""
    schema = card.schema
    seen = [signal for signal in schema.observations if signal.name in {*card.inputs, *card.predicts}]
    length = min(max(card.context, 2), 2 if any(signal.kind is Kind.IMAGE for signal in seen) else _MAX_CONTEXT)
    future, exogenous = _arrays(schema.actions, STEPS), _arrays(schema.exogenous, STEPS)
    driven: dict[str, Any] = {"exogenous": exogenous} if exogenous else {}
    history = History(
        observations=_arrays(seen, length),
        actions=_arrays(schema.actions, length - 1),
        exogenous=_arrays(schema.exogenous, length - 1),
    )
    episode = Episode(observations=_arrays(seen, STEPS + 1), actions=future, exogenous=exogenous)
    goal = _goal([schema[name] for name in card.predicts], schema.actions)
    plan = PlanCall(history=history, goal=goal, horizon=STEPS, budget_s=1.0, **driven)
    return [
        PredictCall(history=history, actions=future, **driven),
        ScoreCall(history=history, actions=_arrays(schema.actions, 2, STEPS), goal=goal, **driven),
        *([plan] if card.action_conditioned else []),
        WhatIfCall(episode=episode, at=0, actions=future),
        SurpriseCall(episode=episode),
    ]


def _goal(predicted: Sequence[Signal], actions: Sequence[Signal]) -> Goal:
    """A target for the first vector; for a world that predicts none, smooth actions."""
    for signal in predicted:
        if signal.kind is Kind.VECTOR:
            low, high = _range(signal)
            tolerance = float(f"{(high - low).max() / 10:.4g}") or 1.0
            return Goal(targets={signal.name: _values(signal)}, tolerance={signal.name: tolerance})
    return Goal(costs=[Change(signal=signal.name, tolerance=1.0) for signal in actions if signal.kind is Kind.VECTOR])


def _arrays(signals: Sequence[Signal], *axes: int) -> dict[str, NDArray[Any]]:
    return {signal.name: _values(signal, *axes) for signal in signals}


def _values(signal: Signal, *axes: int) -> NDArray[Any]:
    """Values [*axes, *shape] in the middle of the range, which differ between steps."""
    steps = np.arange(np.prod(axes, dtype=int)).reshape(axes)
    if signal.kind is Kind.IMAGE:
        return np.full((*axes, *signal.shape), 128, np.uint8)
    if signal.kind is Kind.DISCRETE:
        return np.asarray(steps % (signal.num_values or 1))
    low, high = _range(signal)
    exact = low + (high - low) * (4 + steps[..., None] % 4) / 10
    short = np.array([float(f"{value:.4g}") for value in exact.flat]).reshape(exact.shape)
    return np.asarray(np.clip(short, low, high))


def _range(signal: Signal) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The bounds of a vector; one unit if a bound is missing."""
    low, high = np.array(signal.low or [-np.inf] * signal.size), np.array(signal.high or [np.inf] * signal.size)
    low = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 1, 0.0))
    return low, np.where(np.isfinite(high), high, low + 1)
