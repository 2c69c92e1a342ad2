"""Strict conversion between frozen dataclasses, JSON and TOML: an unknown key or a wrong type is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json as parse_json

from worldline.errors import ConfigError, UnknownNameError

__all__ = [
    "BoundedConfig",
    "Bounds",
    "Depth",
    "Positive",
    "Share",
    "Size",
    "SizeOrZero",
    "Weight",
    "from_json",
    "replace_at",
    "spelled",
    "to_json",
    "to_strict_json",
    "to_toml",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits of a number in a `BoundedConfig`, as in `Annotated[int, Bounds(at_least=2, at_most=100)]`."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        limits = ((name.replace("_", " "), limit) for name, limit in vars(self).items())
        return " and ".join(f"{words} {limit}" for words, limit in limits if math.isfinite(limit))


Size = Annotated[int, Bounds(at_least=1, at_most=100_000)]
"""A width or another size of an array."""
SizeOrZero = Annotated[int, Bounds(at_least=0, at_most=100_000)]
"""A size, or 0 for none."""
Depth = Annotated[int, Bounds(at_least=1, at_most=100)]
"""A number of layers or other modules. Their count takes time and memory even while they have no weights."""
Weight = Annotated[float, Bounds(at_least=0)]
"""A number that is not negative."""
Positive = Annotated[float, Bounds(above=0)]
"""A number above 0."""
Share = Annotated[float, Bounds(at_least=0, below=1)]
"""A share, in [0, 1)."""


class BoundedConfig:
    """Base of frozen dataclasses that check their values against the `Bounds` or `Literal` types of their fields.

    A file of settings is untrusted. Its numbers are checked here before anything of their size is built, so each whole
    number that becomes a size needs an upper bound.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                raise ConfigError(f"{name} is {value!r}. Choose {' or '.join(map(repr, get_args(hint)))}.")
            for bounds in getattr(hint, "__metadata__", ()):
                if isinstance(bounds, Bounds) and value not in bounds:
                    raise ConfigError(f"{name} is {value}. It must be {bounds}.")


_SPELLED: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: object) -> str:
    """JSON text of a frozen dataclass, indented, with every field; an infinite bound is `Infinity`."""
    return json.dumps(_tree(value), indent=2, ensure_ascii=False)


def to_strict_json(value: object) -> str:
    """As `to_json`, but valid standard JSON: numbers that are not finite become text. `from_json` reads both."""
    return json.dumps(spelled(_tree(value)), indent=2, ensure_ascii=False, allow_nan=False)


def spelled(tree: Any) -> Any:
    """The tree with numbers that are not finite as text: "NaN", "Infinity" and "-Infinity"."""
    if isinstance(tree, dict):
        return {key: spelled(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [spelled(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return "NaN" if math.isnan(tree) else "Infinity" if tree > 0 else "-Infinity"
    return tree


def from_json(cls: type[T], text: str | bytes, *, where: str | Path) -> T:
    """The `cls` that `text` describes.

    Args:
        cls: a frozen dataclass.
        text: JSON, as `to_json` or `to_strict_json` writes it.
        where: the file or place, named in errors.

    Raises:
        ConfigError: malformed JSON, an unknown or missing key, a value of the wrong type or out of range.
    """
    adapter = TypeAdapter(cls)
    try:
        value: T = _validated(adapter, text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":  # raised by the class; it names the value
            raise ConfigError(": ".join(filter(None, (str(where), place, str(first["ctx"]["error"]))))) from error
        place = place or "the document"
        raise ConfigError(f"{where}: {place}: {first['msg']} (got {first['input']!r:.200}).") from error
    _refuse_unknown_keys(parse_json(text), adapter.dump_python(value, mode="json"), str(where))
    return value


def replace_at(config: T, values: Mapping[str, object], *, where: str = "settings") -> T:
    """The frozen dataclass with other values; a dot separates the names of nested fields, as in `predictor.width`.

    All values of a dataclass are replaced together, so that its checks see no mixture of old and new values. A value is
    checked against the type of its field. Another `kind` of a part starts from the defaults of this kind.

    Args:
        config: of any type that `to_json` writes.
        values: JSON values or dataclasses, by name, by dotted path, or in nested mappings.
        where: path of `config`, named in errors.

    Raises:
        UnknownNameError: there is no such field; the message suggests the nearest and lists the fields there.
        ConfigError: a value has the wrong type or is out of range.
    """
    changes = nested(values)
    _check_names(config, changes, where)
    text = json.dumps(merged(_tree(config), changes), default=lambda value: _plain(value, where))
    return from_json(type(config), text, where=where)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as nested mappings of JSON values: a dot in a name separates the names of nested fields."""
    tree = dict[str, Any]()
    for path, value in values.items():
        first, _, rest = path.partition(".")
        inner = {rest: value} if rest else _tree(value) if is_dataclass(value) else value
        tree[first] = merged(tree.get(first), nested(inner)) if isinstance(inner, Mapping) else inner
    return tree


def merged(base: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings with other values; values of another `kind` replace the whole mapping."""
    if not isinstance(base, Mapping) or ("kind" in base and values.get("kind", base["kind"]) != base["kind"]):
        return dict(values)
    inner = {
        name: merged(base.get(name), value) if isinstance(value, Mapping) else value for name, value in values.items()
    }
    return {**base, **inner}


def _plain(value: object, where: str) -> object:
    """A NumPy number as a Python number."""
    if not hasattr(value, "item"):
        raise ConfigError(f"{where}: {value!r} is no setting. Use text, numbers, truth values, lists and mappings.")
    return value.item()


def _check_names(config: Any, values: Mapping[str, Any], where: str) -> None:
    """Raises for a name that no field has; those of a part of another kind are checked when it is built."""
    if values.get("kind", getattr(config, "kind", None)) != getattr(config, "kind", None):
        return
    for name, value in values.items():
        if name not in {field.name for field in fields(config)}:
            raise _unknown_field(config, name, where)
        if is_dataclass(part := getattr(config, name)) and isinstance(value, Mapping):
            _check_names(part, value, f"{where}.{name}")


def _unknown_field(config: Any, name: str, where: str) -> UnknownNameError:
    """The error for a field that a dataclass lacks; it also suggests nested fields of this name."""
    own = [f"{where}.{field.name}" for field in fields(config)]
    deeper = [path for path in _paths(config, where) if path.rpartition(".")[2] == name]
    return UnknownNameError("setting", f"{where}.{name}", {*own, *deeper})


def _paths(config: Any, where: str) -> Iterator[str]:
    """The path of every field, nested fields included."""
    for field in fields(config):
        yield (path := f"{where}.{field.name}")
        if is_dataclass(part := getattr(config, field.name)):
            yield from _paths(part, path)


def to_toml(values: Mapping[str, Any], path: str = "") -> str:
    """TOML text of nested mappings of JSON values. None is left out, because TOML has no such value.

    Args:
        values: by name.
        path: of the table that holds the values.
    """
    lines = [f"\n[{path}]"] if path else []
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    for name, value in values.items():
        if name not in tables and value is not None:
            lines.append(f"{_toml_key(name)} = {_toml_value(value)}")
    prefix = f"{path}." if path else ""
    return "\n".join([*lines, *(to_toml(inner, prefix + _toml_key(name)) for name, inner in tables.items())])


def _toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, Mapping):  # in a list
        return "{" + ", ".join(f"{_toml_key(name)} = {_toml_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, float):  # JSON has no "nan" and "inf"
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON need not escape DEL


def _tree(value: object) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _validated(adapter: Any, text: str | bytes) -> Any:
    """Validates; "NaN", "Infinity" and "-Infinity" are read as numbers if the field is a float."""
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        flaws = [flaw for flaw in error.errors() if flaw["type"] == "float_type" and str(flaw["input"]) in _SPELLED]
        if not flaws:
            raise
        tree = parse_json(text)
        for flaw in flaws:
            *path, last = flaw["loc"]
            reduce(getitem, path, tree)[last] = _SPELLED[flaw["input"]]
        return adapter.validate_json(json.dumps(tree), strict=True)


def _refuse_unknown_keys(document: Any, kept: Any, where: str) -> None:
    """Raises if `document` has a key that validation dropped."""
    if isinstance(document, dict) and isinstance(kept, dict):
        for key, inner in document.items():
            if key not in kept:
                raise ConfigError(f"{where}: {UnknownNameError('setting', key, kept)}")
            _refuse_unknown_keys(inner, kept[key], f"{where}: {key}")
    elif isinstance(document, list) and isinstance(kept, list):
        for number, (inner, same) in enumerate(zip(document, kept, strict=True)):
            _refuse_unknown_keys(inner, same, f"{where}[{number}]")
