"""Checked reading of untrusted LeRobot metadata: strict JSON, checked types, no paths outside the dataset."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from worldline.data.formats.reading import converted, duplicate
from worldline.errors import DataError

FIX = "Download or copy the dataset again."
WHOLE: Final = Annotated[int, msgspec.Meta(ge=0)]
NUMBER: Final = Annotated[float, msgspec.Meta(gt=-1e300, lt=1e300)]
"""A finite number."""


def within(root: Path, file: str) -> Path:
    """Returns the path of a file of the dataset.

    Args:
        root: of the dataset.
        file: the relative path in its metadata.

    Raises:
        DataError: the file is outside the dataset or does not exist.
    """
    path = root / file
    with converted("the path is invalid", fix=FIX, file=file[:200]):  # too long, a zero byte, or a loop of links
        inside = not Path(file).is_absolute() and path.resolve().is_relative_to(root.resolve())
        exists = inside and path.is_file()
    if not inside:
        fix = "If a link leads there, copy the dataset with its links resolved (cp -rL)."
        raise DataError("the path leads out of the dataset's folder", fix=fix, file=file)
    if not exists:
        raise DataError("the file is missing", fix=FIX, file=file)
    return path


def read_text(path: Path, file: str) -> bytes:
    """Reads a file.

    Args:
        path: of the file.
        file: its name in errors.

    Raises:
        DataError: it cannot be read.
    """
    with converted("the file cannot be read", fix=FIX, file=file):
        return path.read_bytes()


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
        if twice := duplicate(key for key, _ in pairs):
            raise ValueError(f"the key {twice!r:.100} occurs twice")
        return dict(pairs)

    with converted(f"{place}invalid JSON", fix=FIX, file=file):
        return json.loads(text.decode("utf-8"), object_pairs_hook=distinct)


class Checked:
    """A JSON object or row with type-checked access.

    Args:
        entries: the parsed value.
        file: for errors.
        place: of the object in the file, for errors.
    """

    def __init__(self, entries: Any, file: str, place: str = "") -> None:
        self.file, self._place = file, place
        if not isinstance(entries, Mapping):
            raise self.error(f"expected names with values, got {type(entries).__name__}")
        self.entries: Mapping[str, Any] = entries

    def error(self, problem: str) -> DataError:
        """Returns the problem as an error that names the place."""
        return DataError(f"{self._place}: {problem}" if self._place else problem, fix=FIX, file=self.file)

    def get(self, key: str, kind: Any) -> Any:
        """Returns an entry.

        Args:
            key: its name.
            kind: its type, as for `msgspec.convert`.

        Raises:
            DataError: it is missing, or has another type.
        """
        if key not in self.entries:
            raise self.error(f"{key!r} is missing")
        try:
            return msgspec.convert(self.entries[key], kind)
        except msgspec.ValidationError as error:
            raise self.error(f"{key!r} is {self.entries[key]!r:.80}: {error}") from error

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts; a single text becomes a list of one, and a missing entry an empty list."""
        value: str | list[str] | None = self.get(key, str | list[str] | None) if key in self.entries else None
        return (value,) if isinstance(value, str) else tuple(value or ())

    def only(self, keys: Collection[str]) -> None:
        """Raises unless the keys are exactly these."""
        if wrong := sorted(set(keys) ^ self.entries.keys()):
            raise self.error(f"{wrong[0]!r:.100} is {'missing' if wrong[0] in keys else 'unknown'}")

    def flat(self, key: str) -> Mapping[str, str | int | float]:
        """Returns texts and numbers by name, from JSON in a text."""
        found = Checked(
            {key: parse_json(self.get(key, str).encode(), self.file, f"{self._place}: ")}, self.file, self._place
        )
        names: dict[str, str | int | float] = found.get(key, dict[str, str | int | float])
        return names


def list_of(kind: type, length: int) -> Any:
    """The type of a list of this length, or None."""
    return Annotated[list[kind], msgspec.Meta(min_length=length, max_length=length)] | None  # type: ignore[valid-type]
