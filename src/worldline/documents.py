"""TOML and JSON that people write: bounded in size and depth, checked against types, with file and key in messages."""

from __future__ import annotations

import math
import re
import stat
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import msgspec

from worldline.errors import ConfigError

MAX_BYTES: Final = 2**20
"""Largest file."""
MAX_DEPTH: Final = 32
"""Largest number of tables and lists inside one another."""
MAX_POINTS: Final = 200_000
"""Largest number of points in keys and numbers of a TOML file. The parser takes half a second for as many keys."""

_SKIPPED: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL
)
"""Texts and comments of TOML."""


def read_document(path: Path | str, kind: Any, fix: str) -> Any:
    """The content of a TOML or JSON file; JSON begins with a brace.

    Args:
        path: a regular file of at most 1 MB.
        kind: a type of msgspec, or a union of them.
        fix: what to do about a content of another form, a sentence.

    Raises:
        ConfigError: there is no such file; it is too large or nested too deeply, is neither TOML nor JSON, has NaN or a
            whole number beyond 64 bits, or does not have this type.
    """
    return convert_document(parse_document(_text(Path(path)), str(path), fix), kind, str(path), fix)


def parse_document(text: str, where: str, fix: str = "Correct it.") -> dict[str, Any]:
    """The tree of a TOML or JSON text.

    Args:
        text: of at most 1 MB.
        where: its file, for messages.
        fix: as in `read_document`.

    Raises:
        ConfigError: as in `read_document`.
    """
    is_json = text.lstrip().startswith("{")
    if not is_json:
        _check_keys(text, where)
    try:
        tree: dict[str, Any] = msgspec.json.decode(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib raises other ones than its own for some numbers
        raise ConfigError(f"{where} is no {'JSON' if is_json else 'TOML'} file: {error}. {fix}") from error
    for key, value in _leaves(tree, where):
        if isinstance(value, float) and math.isnan(value):
            raise ConfigError(f"{where}: {key} is nan. Give a number, or leave it out.")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConfigError(f"{where}: {key} is a number of more than 64 bits. Give a smaller one.")
    return tree


def convert_document(tree: object, kind: Any, where: str, fix: str) -> Any:
    """The tree as this type. Arguments and errors as in `read_document`."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key, value = _located(deepcopy(tree), kind, place)
        raise ConfigError(f"{where}: {f'{key} is {value!r:.60}: ' if key else ''}{problem}. {fix}") from error


def _located(tree: Any, kind: Any, place: str) -> tuple[str, Any]:
    """The key of a wrong value, and the value. msgspec writes dots for the keys of mappings, so they are searched."""
    key, value = "", tree
    for name, number in re.findall(r"\.(\w+)|\[(?:(\d+)|\.\.\.)\]", place):
        step = int(number) if number else name or _wrong_key(tree, kind, value)
        key += f"[{step}]" if number else f".{step}"
        value = value[step]
    return key.removeprefix("."), value


def _wrong_key(tree: Any, kind: Any, mapping: dict[str, Any]) -> str:
    """The key in a mapping of the tree without which the tree has the type; the mapping keeps this key only."""
    for key, value in dict(mapping).items():
        mapping.clear()
        mapping[key] = value
        try:
            msgspec.convert(tree, kind)
        except msgspec.ValidationError:
            break
    return key


def _text(path: Path) -> str:
    """The text of a regular file."""
    try:
        is_regular = stat.S_ISREG(path.stat().st_mode)
        content = b""
        if is_regular:  # a pipe would wait for a writer, and some devices never end
            with path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', error)}. Name a TOML or JSON file.") from error
    if not is_regular or len(content) > MAX_BYTES:
        problem = f"has more than {MAX_BYTES} bytes" if is_regular else "is no regular file"
        raise ConfigError(f"{path} {problem}. Name a small TOML or JSON file.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}. Save it as UTF-8.") from error


def _check_keys(text: str, where: str) -> None:
    """Checks nesting and keys of a TOML text, for which its parser takes time and memory in their square."""
    bare, depth = _SKIPPED.sub("_", text), 0
    for sign in re.findall(r"[\[\]{}]", bare):
        depth = max(0, depth + (1 if sign in "[{" else -1))
        if depth > MAX_DEPTH:
            raise _too_deep(where)
    points = [piece.count(".") for piece in re.split(r"[\n=,\[\]{}]", bare)]
    if max(points) >= MAX_DEPTH:
        raise _too_deep(where)
    if sum(points) > MAX_POINTS:
        raise ConfigError(f"{where} has {sum(points)} points in keys and numbers. Write at most {MAX_POINTS}.")


def _leaves(value: Any, where: str, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The values of a tree with their keys, such as "loops[0].gain"."""
    if not isinstance(value, dict | list):
        yield key, value
        return
    if depth >= MAX_DEPTH:
        raise _too_deep(where)
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, where, f"{key}[{number}]", depth + 1)
        return
    for name, inner in value.items():
        yield from _leaves(inner, where, f"{key}.{name}" if key else name, depth + 1)


def _too_deep(where: str) -> ConfigError:
    return ConfigError(f"{where} has more than {MAX_DEPTH} tables or lists inside one another. Write a simpler file.")
