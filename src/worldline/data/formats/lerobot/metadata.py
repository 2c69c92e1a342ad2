"""Checked reading of untrusted LeRobot metadata: strict JSON, checked types, no paths outside the dataset."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.errors import DataError

FIX = "Download or copy the dataset again."


def within(root: Path, file: str) -> Path:
    """Returns the path of a file of the dataset.

    Args:
        root: of the dataset.
        file: the relative path in its metadata.

    Raises:
        DataError: the file is outside the dataset or does not exist.
    """
    path = root / file
    try:
        inside = not Path(file).is_absolute() and path.resolve().is_relative_to(root.resolve())
        exists = inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, or a loop of links
        raise DataError(f"the path is invalid ({error})", fix=FIX, file=file[:200]) from error
    if not inside:
        fix = "If a link leads there, copy the dataset with its links resolved (cp -rL)."
        raise DataError("the path leads out of the dataset's folder", fix=fix, file=file)
    if not exists:
        raise DataError("the file is missing", fix=FIX, file=file)
    return path


def read_json(path: Path, file: str) -> Any:
    """Reads a JSON file.

    Args:
        path: of the file.
        file: its name in errors.

    Raises:
        DataError: it is not JSON, or has a repeated key.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error})", fix=FIX, file=file) from error
    return parse_json(text, file)


def parse_json(text: bytes, file: str, place: str = "") -> Any:
    """Parses JSON in UTF-8.

    Args:
        text: of the file or line.
        file: its name in errors.
        place: of the line; prefix of the message.

    Raises:
        DataError: it is not JSON, or has a repeated key.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.100} occurs twice")
            seen[key] = value
        return seen

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error}"
        raise DataError(f"{place}invalid JSON ({words:.200})", fix=FIX, file=file) from error


class Checked:
    """A JSON object or row with type-checked access.

    Args:
        entries: the parsed value.
        file: for errors.
        place: of the object in the file, for errors.
    """

    def __init__(self, entries: Any, file: str, place: str = "") -> None:
        self._file, self._place = file, place
        if not isinstance(entries, Mapping):
            raise self.error(f"expected names with values, got {type(entries).__name__}")
        self.entries: Mapping[str, Any] = entries

    def error(self, problem: str) -> DataError:
        """Returns the problem as an error that names the place."""
        return DataError(f"{self._place}: {problem}" if self._place else problem, fix=FIX, file=self._file)

    def _get(self, key: str, expected: str, fits: Callable[[Any], bool]) -> Any:
        if key not in self.entries:
            raise self.error(f"{key!r} is missing")
        if not fits(value := self.entries[key]):
            raise self.error(f"{key!r} is {value!r:.80}; expected {expected}")
        return value

    def text(self, key: str) -> str:
        """Returns a text."""
        return str(self._get(key, "a text", lambda value: isinstance(value, str)))

    def whole(self, key: str) -> int:
        """Returns a whole number, at least 0."""
        return int(self._get(key, "a whole number, at least 0", lambda v: type(v) is int and v >= 0))

    def number(self, key: str) -> float:
        """Returns a finite number."""

        def fits(value: Any) -> bool:
            return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)

        return float(self._get(key, "a finite number", fits))

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Returns a JSON object."""
        value: Mapping[str, Any] = self._get(key, "names with values", lambda value: isinstance(value, Mapping))
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts; a single text becomes a list of one, and a missing entry an empty list."""
        value = self.entries.get(key) or []
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.error(f"{key!r} is {value!r:.80}; expected a list of texts")
        return tuple(value)

    def only(self, keys: Collection[str]) -> None:
        """Raises unless the keys are exactly these."""
        if wrong := sorted(set(keys) ^ self.entries.keys()):
            raise self.error(f"{wrong[0]!r:.100} is {'missing' if wrong[0] in keys else 'unknown'}")

    def flag(self, key: str) -> bool:
        """Returns a bool."""
        return bool(self._get(key, "true or false", lambda value: isinstance(value, bool)))

    def optional_whole(self, key: str) -> int | None:
        """Returns a whole number or None."""
        value: int | None = self._get(key, "a whole number", lambda value: value is None or type(value) is int)
        return value

    def flags(self, key: str, length: int) -> NDArray[np.bool_] | None:
        """Returns [length] bool or None."""
        value = self._list(key, length, bool)
        return None if value is None else np.array(value, np.bool_)

    def seconds(self, key: str, length: int) -> NDArray[np.float32] | None:
        """Returns [length] float32 or None."""
        value = self._list(key, length, float)
        return None if value is None else np.array(value, np.float32)

    def flat(self, key: str) -> Mapping[str, str | int | float]:
        """Returns texts and numbers by name, from JSON in a text."""
        value = parse_json(self.text(key).encode(), self._file, f"{self._place}: ")
        if not isinstance(value, dict) or not all(type(one) in (str, int, float) for one in value.values()):
            raise self.error(f"{key!r} is {value!r:.80}; expected names with texts and numbers")
        return value

    def _list(self, key: str, length: int, of: type) -> list[Any] | None:
        def fits(value: Any) -> bool:
            return value is None or (
                isinstance(value, list) and len(value) == length and {type(v) for v in value} <= {of}
            )

        value: list[Any] | None = self._get(key, f"a list of {length} of {of.__name__}", fits)
        return value
