"""Frozen dataclasses to JSON and back, strictly: an unknown key or a wrong type is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json as parse_json

from worldline.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def to_json(value: object) -> str:
    """JSON text of a frozen dataclass, indented, with every field; an infinite bound is `Infinity`."""
    return json.dumps(TypeAdapter(type(value)).dump_python(value, mode="json"), indent=2, ensure_ascii=False)


def from_json(cls: type[T], text: str | bytes, *, where: str | Path) -> T:
    """The `cls` that `text` describes.

    Args:
        cls: a frozen dataclass.
        text: JSON.
        where: the file or place, named in errors.

    Raises:
        ConfigError: malformed JSON, an unknown or missing key, a value of the wrong type or out of range.
    """
    adapter = TypeAdapter(cls)
    try:
        value = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(f"{where}: {place}: {first['msg']} (got {first['input']!r:.200}).") from error
    _refuse_unknown_keys(parse_json(text), adapter.dump_python(value, mode="json"), str(where))
    return value


def _refuse_unknown_keys(given: Any, kept: Any, where: str) -> None:
    """Raises where `given` has a key that validation dropped."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, inner in given.items():
            if key not in kept:
                raise ConfigError(f"{where}: {UnknownNameError('setting', key, kept)}")
            _refuse_unknown_keys(inner, kept[key], f"{where}: {key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (inner, same) in enumerate(zip(given, kept, strict=True)):
            _refuse_unknown_keys(inner, same, f"{where}[{number}]")
