"""The prompt for a language model, and the parser of its answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import InputError, UnavailableError
from worldline.schema import Kind, Signal

PROMPT = (files(__package__) / "prompt.txt").read_text("utf-8")
"""The system message. The user message after it is the JSON object that it describes."""

PROMPT_HASH = hashlib.sha256(PROMPT.encode()).hexdigest()[:12]
"""Identifies the system message: a calibration holds for one version of it only."""

ROUNDING = 1e-4
"""Allowed excess over a bound, as a share of the range, or of the bound if there is only one."""

_MAX_CHARACTERS = 100_000
_MAX_OPENINGS = 10

PromptValue = int | list[float]


def describe_signals(signals: Sequence[Signal]) -> list[dict[str, Any]]:
    """A description of each signal as plain JSON values; unknown facts are left out."""
    return [{name: value for name, value in _facts(signal).items() if value is not None} for signal in signals]


def to_prompt_value(signal: Signal, value: NDArray[np.generic], *, digits: int) -> PromptValue:
    """A value [*shape] as plain JSON, rounded to `digits` significant digits.

    Raises:
        InputError: the value is not finite.
    """
    if signal.kind is Kind.DISCRETE:
        return int(value)
    numbers = [float(number) for number in np.ravel(value).tolist()]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"signal {signal.name!r} is {numbers}. Give finite numbers, or mark it as not observed.")
    return [float(f"{number:.{digits}g}") for number in numbers]


def answer_schema(signals: Sequence[Signal]) -> dict[str, Any]:
    """The JSON schema of an answer with these signals."""

    def kind(signal: Signal) -> dict[str, Any]:
        if signal.num_values is not None:
            return {"type": "integer", "minimum": 0, "maximum": signal.num_values - 1}
        return {"type": "array", "items": {"type": "number"}, "minItems": signal.size, "maxItems": signal.size}

    return {
        "type": "object",
        "properties": {signal.name: kind(signal) for signal in signals},
        "required": [signal.name for signal in signals],
        "additionalProperties": False,
    }


def read_answer(text: str, signals: Sequence[Signal]) -> Arrays:
    """The values [*shape] in an answer, per signal in its dtype. Text around the JSON object is ignored.

    Values beyond a bound by rounding are clipped to it, and periodic values are wrapped into their range. The request
    to answer again quotes the `UnavailableError`: its message is part of the prompt, so do not change its wording.

    Raises:
        UnavailableError: there is no JSON object, or a value is missing, has the wrong shape, or is out of bounds.
    """
    answer, names = _last_object(text), [signal.name for signal in signals]
    if set(answer) != set(names):
        raise UnavailableError(f"The JSON object has the keys {sorted(answer)}, and {names} are due.")
    return {signal.name: _value(signal, answer[signal.name]) for signal in signals}


def _facts(signal: Signal) -> dict[str, Any]:
    facts = {
        "name": signal.name,
        "role": signal.role.value,
        "entity": signal.entity,
        "unit": None if signal.unit == "?" else signal.unit,
    }
    if signal.kind is Kind.DISCRETE:
        return {**facts, "unit": None, "num_values": signal.num_values, "labels": list(signal.components) or None}
    return {
        **facts,
        "size": signal.size,
        "low": _bound(signal.low),
        "high": _bound(signal.high),
        "components": list(signal.components) or None,
        "period": signal.period,
    }


def _bound(bound: tuple[float, ...] | None) -> list[float | None] | None:
    """A bound with None for infinity, which JSON lacks."""
    return None if bound is None else [number if math.isfinite(number) else None for number in bound]


def _last_object(text: str) -> Mapping[str, Any]:
    """The last JSON object in a text. Answers are not nested, so it begins at the last opening brace."""
    decoder, end = json.JSONDecoder(), min(len(text), _MAX_CHARACTERS)
    for _ in range(_MAX_OPENINGS):
        end = text.rfind("{", 0, end)
        if end < 0:
            break
        try:
            answer = decoder.raw_decode(text, end)[0]
        except (ValueError, RecursionError):
            continue
        return dict(answer)
    raise UnavailableError("There is no JSON object in it.")


def _value(signal: Signal, answer: object) -> NDArray[np.generic]:
    kind: Any = Annotated[list[float], Meta(min_length=signal.size, max_length=signal.size)]
    if signal.num_values is not None:
        kind = Annotated[int, Meta(ge=0, lt=signal.num_values)]
    try:
        value = np.asarray(msgspec.convert(answer, kind), None if signal.num_values is None else signal.dtype)
    except (msgspec.ValidationError, OverflowError) as error:
        raise UnavailableError(f"{signal.name!r} is {answer!r:.100}. {error}.") from error
    if signal.num_values is not None:
        return value
    if not (np.abs(value) <= np.finfo(signal.dtype).max).all():
        raise UnavailableError(f"{signal.name!r} is {answer!r:.100}, and finite numbers are due.")
    low: NDArray[np.floating] = np.array(signal.low or -np.inf)
    high: NDArray[np.floating] = np.array(signal.high or np.inf)
    if signal.period is not None and signal.low is not None:
        value = low + np.mod(value - low, signal.period)
    beyond = np.maximum(low - value, value - high)
    if (beyond > ROUNDING * _extent(low, high)).any():
        raise UnavailableError(f"{signal.name!r} is {answer!r:.100}, and its bounds are {signal.low} to {signal.high}.")
    return np.asarray(np.clip(value, low, high), signal.dtype)


def _extent(low: NDArray[np.floating], high: NDArray[np.floating]) -> NDArray[np.floating]:
    """The range, or the absolute value of the only finite bound."""
    sizes = np.where(np.isfinite(low), np.abs(low), 0.0) + np.where(np.isfinite(high), np.abs(high), 0.0)
    return np.asarray(np.where(np.isfinite(low) & np.isfinite(high), np.abs(high - low), sizes))
