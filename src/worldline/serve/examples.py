"""Examples of requests and answers for the documentation, from the card of a served world."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, Final, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.catalog.aliases import Reference
from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.planning.base import Goal
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.planning.costs import Change
from worldline.schema import Kind, Signal
from worldline.serve.hosting import HostedWorld
from worldline.serve.problems import fault_text
from worldline.serve.world_views import AliasView, WorldList, summary_of, view_of
from worldline.world import wire
from worldline.world.base import World
from worldline.world.session import FILLED_IN, Session, SessionView

MAX_BYTES: Final = 2**17
"""Larger requests and answers, such as those with many images, are left out."""

STEPS: Final = 3
"""Steps of predictions and plans."""

_MAX_CONTEXT: Final = 4
_logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class Example:
    """A request that works, and its answer.

    Args:
        request: the body as JSON; None without one.
        answer: as JSON; None if it is not shown.
        path: parameters of the path by name.
    """

    request: Any = None
    answer: Any = None
    path: Mapping[str, str] = field(default_factory=dict)


NO_EXAMPLE: Final = Example()


def examples_of(hosted: HostedWorld) -> dict[str, Example]:
    """Examples by name of the operation. A call that the world does not answer has none.

    Calls the world, so call it in a worker. A world whose calls have a price is not called, and answers are left out.
    """
    version, world = hosted.current()
    card = world.describe()
    verbs = _calls(card)
    predict, plan, *_ = verbs
    first = {name: value[0] for name, value in predict.history.observations.items()}
    view = SessionView(
        id="jz0yHwXgV5yHcZ8eOoC5Nw",
        world=hosted.name,
        version=version,
        step=1,
        expires=1_800_000_000.0,
        alarms=(),
        widening={},
    )
    calls: dict[str, tuple[Any, Callable[[], object]]] = {
        call.verb: (call, partial(world.answer, call)) for call in verbs
    }
    calls |= {
        "list_worlds": (None, lambda: WorldList(worlds=(summary_of(hosted),))),
        "describe_world": (None, lambda: view_of(hosted)),
        "create_session": ({"world": hosted.name}, lambda: replace(view, step=0)),
        "get_session": (None, lambda: view),
        "observe_session": ({"step": 0, "observations": first}, lambda: view),
        "predict_session": (_without(predict), lambda: _session(world, first).answer(predict)),
        "plan_session": (_without(plan), lambda: _session(world, first).answer(plan)),
        "fork_session": (None, lambda: replace(view, id="QxC1p2nGd0vHkP7y2m4s3A")),
        **_administration(hosted),
    }
    path, is_free = {"name": hosted.name}, card.call is None or not card.call.price
    if hosted.reference is not None and (alias := Reference.parse(hosted.reference).alias) is not None:
        path["alias"] = alias
    found = {name: _example(given, answer if is_free else None, path) for name, (given, answer) in calls.items()}
    if "remove_world" in found:
        found["remove_world"] = Example(path={"name": _second_name(hosted)})
    return {name: one for name, one in found.items() if one is not NO_EXAMPLE}


def _example(given: Any, answer: Callable[[], object] | None, path: Mapping[str, str]) -> Example:
    try:
        request = None if given is None else _json(_without_defaults(given))
        shown = None if answer is None else _json(answer())
    except Exception as error:  # noqa: BLE001  # documentation must not depend on the ability of a world
        _logger.info("an example is left out: %s", fault_text(error))
        return NO_EXAMPLE
    return NO_EXAMPLE if request is ... else Example(request=request, answer=None if shown is ... else shown, path=path)


def _json(value: object) -> Any:
    """The value as JSON; `...` if it is too large."""
    encoded = wire.encode_json_answer(value)
    return msgspec.json.decode(encoded) if len(encoded) <= MAX_BYTES else ...


def _without_defaults(value: Any) -> Any:
    """The value with maps in place of dataclasses, without fields that have their default value."""
    if isinstance(value, Mapping):
        return {name: _without_defaults(one) for name, one in value.items()}
    if not is_dataclass(value) or type(value).__name__ in wire.RULES:
        return value
    found = {}
    for item in fields(value):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if isinstance(one := getattr(value, item.name), np.ndarray) or one != default:
            found[item.name] = _without_defaults(one)
    return found


def _administration(hosted: HostedWorld) -> dict[str, tuple[Any, Callable[[], object]]]:
    """Requests that serve the world under a second name, and point its alias to where it already points."""
    if hosted.reference is None:
        return {}
    added = {"name": _second_name(hosted), "reference": hosted.reference}
    found: dict[str, tuple[Any, Callable[[], object]]] = {
        "add_world": (added, lambda: replace(summary_of(hosted), name=_second_name(hosted))),
        "remove_world": (None, lambda: None),
    }
    if (alias := Reference.parse(hosted.reference).alias) is not None and hosted.version is not None:
        view = AliasView(name=hosted.name, alias=alias, version=hosted.version)
        found["move_alias"] = ({"version": hosted.version}, lambda: view)
    return found


def _second_name(hosted: HostedWorld) -> str:
    return f"{hosted.name[:90]}-2"


def _session(world: World, first: Arrays) -> Session:
    session = Session(world, num_kept=world.describe().context + 2)
    session.observe(first)
    return session


def _without(call: Call) -> dict[str, Any]:
    """The call without what a session fills in."""
    return {name: value for name, value in _without_defaults(call).items() if name not in FILLED_IN}


def _calls(card: Card) -> tuple[PredictCall, PlanCall, ScoreCall, WhatIfCall, SurpriseCall]:
    """A call of each verb."""
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
    return (
        PredictCall(history=history, actions=future, **driven),
        PlanCall(history=history, goal=goal, horizon=STEPS, budget_s=1.0, **driven),
        ScoreCall(history=history, actions=_arrays(schema.actions, 2, STEPS), goal=goal, **driven),
        WhatIfCall(episode=episode, at=0, actions=future),
        SurpriseCall(episode=episode),
    )


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
