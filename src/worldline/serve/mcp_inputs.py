"""The arguments of the MCP tools: the fields of the verbs, in which one row stands for all steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError, UnknownNameError
from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
from worldline.schema import Signal
from worldline.world.wire import RULES, build, build_fields, convert
from worldline.world.wire_schemas import json_schemas

MAX_PLANS: Final = 8
"""Most plans that `compare_plans` takes."""

VERBS: Final[Mapping[str, tuple[type[Call], frozenset[str]]]] = {
    "predict": (PredictCall, frozenset({"history", "actions", "exogenous", "level"})),
    "compare_plans": (ScoreCall, frozenset({"history", "goal", "constraints", "exogenous"})),
    "plan": (PlanCall, frozenset({"history", "goal", "constraints", "horizon", "exogenous", "budget_s"})),
    "what_if": (WhatIfCall, frozenset({"episode", "at", "actions"})),
    "explain_surprise": (SurpriseCall, frozenset({"episode"})),
}
"""Per tool its verb, and the fields of the verb that it takes."""

_UNKNOWN: Final = {"costs", "in_steps", "discount", "risk", "quantile", "rewards", "terminated", "truncated", "seed"}
_HIDDEN: Final = _UNKNOWN | {"step_s", "EncodedArray"} | RULES.keys() - {"AtMost", "AtLeast", "Chance"}
"""Fields and rules that schemas leave out, because a language model reads all schemas before each answer."""

_Plans = Annotated[dict[str, Any], msgspec.Meta(min_length=1, max_length=MAX_PLANS)]
_ARRAY: Final = {
    "type": ["number", "array"],
    "description": "one row per step: a number, or a list of numbers for a vector; null is a missing observation",
}
_STEPS: Final = {"type": "integer", "description": "number of steps; default: the longest input. Last rows are held"}
_ROWS: Final = {"type": "object", "additionalProperties": {"$ref": "#/$defs/Array"}}
_PLANS: Final = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": MAX_PLANS,
    "additionalProperties": _ROWS,
    "description": "plan name -> action signal -> rows",
}


def input_schema(tool: str) -> dict[str, Any]:
    """The JSON schema of the arguments of a tool that calls a verb."""
    kind, shown = VERBS[tool]
    _, parts = json_schemas({"": (kind, {item.name for item in fields(kind)} - shown)}, {})
    text = json.dumps(_shortened({**parts, "Array": _ARRAY}))
    for name, (verb, _) in VERBS.items():
        text = text.replace(f"`{verb.__name__}`", f"`{name}`")
    definitions = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    schema = definitions.pop("")
    extra: dict[str, Any] = {"world": {"type": "string", "description": "name from list_worlds"}}
    extra |= {"steps": _STEPS} if tool in ("predict", "compare_plans", "what_if") else {}
    extra |= {"candidates": _PLANS} if tool == "compare_plans" else {}
    required = ["world", *schema["required"], *(["candidates"] if tool == "compare_plans" else [])]
    return {
        "type": "object",
        "properties": extra | schema["properties"],
        "required": required,
        "$defs": definitions,
        "additionalProperties": False,
    }


def _shortened(schema: Any) -> Any:
    """The schema without what is hidden."""
    if isinstance(schema, dict):
        return {name: _shortened(part) for name, part in schema.items() if name not in _HIDDEN}
    if isinstance(schema, list):
        names = (str(part.get("$ref", "")).rpartition("/")[2] if isinstance(part, dict) else "" for part in schema)
        return [_shortened(part) for part, name in zip(schema, names, strict=True) if name not in _HIDDEN]
    return schema


def call_of(tool: str, arguments: Mapping[str, Any], card: Card, limit: int) -> tuple[Call, list[str]]:
    """The call that the arguments of a tool ask for, and the names of its plans.

    Args:
        tool: that calls a verb.
        arguments: without the world.
        card: of the world.
        limit: largest number of steps.

    Raises:
        InputError: a value has the wrong type or shape, or there are too many steps.
        UnknownNameError: the world has no such signal.
    """
    kind, shown = VERBS[tool]
    named = dict(arguments)
    hidden = [item for item in fields(kind) if item.name not in shown - ({"actions"} & named.keys())]
    steps = convert(named.pop("steps", None), int | None, (tool, "steps"))
    asked: dict[str, Any] = {"": named.pop("actions")} if "actions" in shown & named.keys() else {}
    if tool == "compare_plans":
        asked = convert(named.pop("candidates", {}), _Plans, (tool, "candidates"))
    filled: dict[str, Any] = {item.name: {} if item.name == "actions" else item.default for item in hidden}
    call: Any = build_fields(kind, named, [], (tool,), filled)
    known: dict[str, Any] = {name: _past(card, getattr(call, name)) for name in {"history", "episode"} & shown}
    if not isinstance(call, SurpriseCall):
        count = call.horizon if isinstance(call, PlanCall) else steps
        plans = [build(Arrays, plan, [], (tool, "actions", name)) for name, plan in asked.items()]
        plans, exogenous = _futures(card, plans, getattr(call, "exogenous", None) or {}, count, limit)
        known |= {"exogenous": exogenous or None} if "exogenous" in shown else {}
        known |= {"actions": plans[0] if "actions" in shown else _stacked(card, asked, plans)} if plans else {}
    return replace(call, **known), list(asked)


def _past(card: Card, past: History | Episode) -> History | Episode:
    """The past with one row of inputs less than of observations; NaN is a missing observation."""
    observations = _rows(card.schema.observations, past.observations)
    steps = max(map(len, observations.values()), default=1) - 1
    observed = dict(past.observed)
    for name, value in observations.items():
        missing: Any = np.isnan(value.reshape(len(value), -1)).any(1) if value.dtype.kind == "f" else np.zeros(1, bool)
        if missing.any() and name not in observed:
            observed[name], observations[name] = ~missing, np.nan_to_num(value)
    actions = _rows(card.schema.actions, past.actions, steps)
    exogenous = _rows(card.schema.exogenous, past.exogenous, steps)
    return replace(past, observations=observations, actions=actions, exogenous=exogenous, observed=observed)


def _futures(
    card: Card, plans: Sequence[Arrays], exogenous: Arrays, steps: int | None, limit: int
) -> tuple[list[Arrays], Arrays]:
    """The actions of each plan and the exogenous inputs, all with the same number of rows."""
    plans = [_rows(card.schema.actions, plan) for plan in plans]
    exogenous = _rows(card.schema.exogenous, exogenous)
    longest = max((len(value) for group in (*plans, exogenous) for value in group.values()), default=0)
    count = longest if steps is None else steps
    if not 1 <= count <= limit:
        raise InputError(f"steps is {count}. Give steps between 1 and {limit}.")
    return [_rows(card.schema.actions, plan, count) for plan in plans], _rows(card.schema.exogenous, exogenous, count)


def _stacked(card: Card, names: Iterable[str], plans: Sequence[Arrays]) -> Arrays:
    """The actions of all plans, per signal [N, T, *shape]."""
    expected = {signal.name for signal in card.schema.actions}
    for name, plan in zip(names, plans, strict=True):
        if plan.keys() != expected:
            raise InputError(f"plan {name!r:.60} has actions {sorted(plan)}, expected {sorted(expected)}.")
    return {name: np.stack([plan[name] for plan in plans]) for name in expected}


def _rows(signals: Sequence[Signal], arrays: Arrays, count: int | None = None) -> dict[str, NDArray[Any]]:
    """Per signal [count, *shape], with the last row repeated; as many rows as there are for None."""
    known, tables = {signal.name: signal for signal in signals}, dict[str, NDArray[Any]]()
    for name, value in arrays.items():
        if name not in known:
            raise UnknownNameError("signal of this kind", name, known)
        shape, size = known[name].shape, known[name].size
        is_row = value.shape == shape or (size == 1 and value.ndim == 0)
        table = value.reshape(1, *shape) if is_row else value
        if size == 1 and value.ndim == 1:
            table = value.reshape(-1, *shape)
        rows = len(table) if table.ndim else 0
        if table.shape[1:] != shape or (count is not None and not min(count, 1) <= rows <= count):
            limit = "" if count is None else f", at most {count} steps"
            raise InputError(f"{name!r} has shape {value.shape}, expected one row of {shape} for each step{limit}.")
        tables[name] = table if count is None else table[np.minimum(np.arange(count), rows - 1)]
    return tables
