"""Strict conversion between frozen dataclasses and JSON: an unknown key or a wrong type is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json as parse_json

from worldline.errors import ConfigError, UnknownNameError

__all__ = ["from_json", "replace_at", "require_at_least", "spelled", "to_json", "to_strict_json"]

T = TypeVar("T")

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
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(f"{where}: {place}: {first['msg']} (got {first['input']!r:.200}).") from error
    _refuse_unknown_keys(parse_json(text), adapter.dump_python(value, mode="json"), str(where))
    return value


def replace_at(config: T, values: Mapping[str, object]) -> T:
    """The frozen dataclass with other values; a dot separates the names of nested fields, as in `predictor.width`.

    All values of a dataclass are replaced together, so that its checks see no mixture of old and new values.
    """
    fields = {path: value for path, value in values.items() if "." not in path}
    nested = dict[str, dict[str, object]]()
    for path in values.keys() - fields.keys():
        first, _, rest = path.partition(".")
        nested.setdefault(first, {})[rest] = values[path]
    fields |= {first: replace_at(getattr(config, first), inner) for first, inner in nested.items()}
    changed: T = replace(cast("Any", config), **fields)
    return changed


def require_at_least(minimum: int, config: object, *names: str) -> None:
    """Checks fields of a configuration.

    Raises:
        ConfigError: one of them is below `minimum`.
    """
    for name in names:
        if (value := getattr(config, name)) < minimum:
            raise ConfigError(f"{name} is {value}. It must be at least {minimum}.")


def _tree(value: object) -> Any:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _validated(adapter: Any, text: str | bytes) -> Any:
    """Validates; "NaN", "Infinity" and "-Infinity" are read as numbers if the field is a float."""
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        found = [one for one in error.errors() if one["type"] == "float_type" and str(one["input"]) in _SPELLED]
        if not found:
            raise
        tree = parse_json(text)
        for one in found:
            *path, last = one["loc"]
            reduce(getitem, path, tree)[last] = _SPELLED[one["input"]]
        return adapter.validate_json(json.dumps(tree), strict=True)


def _refuse_unknown_keys(given: Any, kept: Any, where: str) -> None:
    """Raises if `given` has a key that validation dropped."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, inner in given.items():
            if key not in kept:
                raise ConfigError(f"{where}: {UnknownNameError('setting', key, kept)}")
            _refuse_unknown_keys(inner, kept[key], f"{where}: {key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (inner, same) in enumerate(zip(given, kept, strict=True)):
            _refuse_unknown_keys(inner, same, f"{where}[{number}]")
