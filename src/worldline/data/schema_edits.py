"""Corrections of a schema: roles, units, bounds, kinds and entities, from a command or Python.

Edits are fields by signal, such as {"heater": {"role": "action", "low": 0}}. The role "ignore" leaves a signal out. The
key "" holds what concerns the whole schema: its `step_s`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from worldline.data.read_options import SchemaEdits as SchemaEdits
from worldline.data.roles import ColumnGuess
from worldline.errors import ConfigError, UnknownNameError
from worldline.schema import Kind, Role, Schema, Signal

IGNORE: Final = "ignore"
WHOLE: Final = ""


class _SignalEdit(msgspec.Struct, forbid_unknown_fields=True):
    """The types of the fields that an edit may have."""

    role: Literal["observation", "action", "exogenous", "reward", "ignore"] = "ignore"
    unit: str = ""
    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    kind: Kind = Kind.VECTOR
    num_values: int | None = None
    components: tuple[str, ...] = ()
    entity: str | None = None
    period: float | None = None


EDITABLE: Final = _SignalEdit.__struct_fields__
_CHOICES: Final = {"role": (*Role, IGNORE), "kind": tuple(Kind)}


def merged(*several: SchemaEdits) -> SchemaEdits:
    """The edits together; later ones replace earlier ones of the same field."""
    together: dict[str, dict[str, Any]] = {}
    for edits in several:
        for name, values in edits.items():
            together.setdefault(name, {}).update(values)
    return together


def parse_edits(texts: Sequence[str], names: Collection[str]) -> SchemaEdits:
    """The edits in texts such as "heater=action", "heater.unit=%", "power.low=0" and "step_s=60".

    Args:
        texts: of the command line. Several numbers or names are separated by commas; "none" removes a value.
        names: of the signals, which may contain dots.

    Raises:
        ConfigError: a text is no edit.
    """
    edits: dict[str, dict[str, Any]] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not NAME=ROLE or NAME.FIELD=VALUE.")
        name, _, field = (left, "", "role") if left in names else left.rpartition(".")
        if left == "step_s" and left not in names:
            name, field = WHOLE, left
        elif not name:
            name, field = left, "role"
        edits.setdefault(name, {})[field] = _value(field, value.strip())
    return edits


def apply_edits(schema: Schema, edits: SchemaEdits, columns: Iterable[ColumnGuess] = (), *, where: str = "") -> Schema:
    """The corrected schema; signals keep their order, and new ones come last.

    An action that had no bounds gets the logged range.

    Args:
        schema: to correct.
        edits: as described above.
        columns: of the logs, which also know the signals that were left out.
        where: the file or option, for errors.

    Raises:
        ConfigError: an edit is wrong.
    """
    start, known = f"{where}: " if where else "", {column.name: column for column in columns}
    signals: dict[str, Signal] = {signal.name: signal for signal in schema.signals}
    for name, values in ((name, values) for name, values in edits.items() if name != WHOLE):
        if name not in signals and name not in known:
            raise ConfigError(f"{start}{UnknownNameError('column', name, {*signals, *known})}")
        if values.get("role") == IGNORE:
            signals.pop(name, None)
        elif (before := signals.get(name) or known[name].signal) is None:
            raise ConfigError(f"{start}{name} cannot be a signal: {known[name].guess.reason}.")
        else:
            try:
                signals[name] = _changed(before, values, known.get(name))
            except ConfigError as error:
                raise ConfigError(f"{start}{error}") from error
    whole = edits.get(WHOLE, {})
    if unknown := [key for key in whole if key != "step_s"]:
        raise ConfigError(f"{start}no setting is called {unknown[0]!r}; known: step_s.")
    step_s = whole.get("step_s", schema.step_s)
    if not (step_s is None or (isinstance(step_s, int | float) and step_s > 0 and math.isfinite(step_s))):
        raise ConfigError(f"{start}step_s must be a positive number of seconds, not {step_s!r}.")
    return replace(schema, signals=tuple(signals.values()), step_s=None if step_s is None else float(step_s))


def edit_command(store: Path | str, edits: Iterable[str]) -> str:
    """The command line that corrects the schema of a store.

    Args:
        store: its folder.
        edits: such as "heater=action".
    """
    return shlex.join(["worldline", "schema", str(store), *edits])


def _value(field: str, text: str) -> Any:
    """The value of a field; `apply_edits` reports a text that is no number."""
    if field in ("role", "kind", "unit") or field not in (*EDITABLE, "step_s"):
        return text
    if text.lower() in ("none", ""):
        return () if field == "components" else None
    if field == "entity":
        return text
    parts = [part.strip() for part in text.split(",")]
    if field == "components":
        return parts
    try:
        numbers = [int(part) if field == "num_values" else float(part) for part in parts]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else numbers


def _check(name: str, field: str, value: object) -> None:
    """Checks the type of a field, whatever the signal is."""
    try:
        msgspec.convert({field: value}, _SignalEdit)
    except msgspec.ValidationError as error:
        names = _CHOICES.get(field, ()) if field in EDITABLE else EDITABLE
        known = f" (known: {', '.join(names)})" if names else ""
        problem = f"{name}: {field} is {value!r}: {str(error).partition(' - at')[0]}{known}."
        raise ConfigError(problem) from error


def _changed(signal: Signal, values: Mapping[str, Any], column: ColumnGuess | None) -> Signal:
    """The signal with other fields, and with what follows from them."""
    for field, value in values.items():
        _check(signal.name, field, value)
    role, kind = Role(values.get("role", signal.role)), Kind(values.get("kind", signal.kind))
    new = (_of_kind(signal, kind, column) if kind is not signal.kind else {}) | {**values, "role": role, "kind": kind}
    if kind is Kind.DISCRETE and new.get("num_values", signal.num_values) is None:
        raise ConfigError(f"{signal.name}: a discrete signal needs num_values. Set {signal.name}.num_values too.")
    size = math.prod(new.get("shape", signal.shape))
    for bound in {"low", "high"} & {name for name, value in new.items() if value is not None}:
        limit = new[bound]
        new[bound] = tuple(map(float, limit)) if isinstance(limit, list | tuple) else (float(limit),) * size
    is_new_action = role is Role.ACTION and signal.role is not Role.ACTION and kind is Kind.VECTOR
    if is_new_action and column is not None and len(column.low) == size:
        new = _logged_bounds(signal, column) | new
    if "components" in new:
        new["components"] = tuple(new["components"])
    return replace(signal, **new)


def _of_kind(signal: Signal, kind: Kind, column: ColumnGuess | None) -> dict[str, Any]:
    """The fields that follow from another kind."""
    if Kind.IMAGE in (kind, signal.kind):
        raise ConfigError(f"{signal.name}: kind is {signal.kind} and cannot become {kind}. Import other logs.")
    plain = {"low": None, "high": None, "period": None, "components": ()}
    if kind is Kind.VECTOR:
        return {**plain, "shape": (1,), "unit": "?", "precision": "float64", "num_values": None}
    highest = column.high[0] if column is not None and column.high else math.nan
    num_values = max(2, int(highest) + 1) if highest < 1e6 else None
    return {**plain, "shape": (), "unit": "1", "precision": "float32", "num_values": num_values}


def _logged_bounds(signal: Signal, column: ColumnGuess) -> dict[str, Any]:
    """The logged range, for the bounds that the signal lacks."""
    logged = {"low": column.low, "high": column.high}
    unset = {name: ends for name, ends in logged.items() if getattr(signal, name) is None}
    return {name: ends for name, ends in unset.items() if all(map(math.isfinite, ends))}
