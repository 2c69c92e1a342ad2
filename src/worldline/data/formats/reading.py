"""What the importers share: missing values, drafts and the loop over episodes, and errors that name their place."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tokenize import TokenError
from typing import Final, TypeVar
from zipfile import BadZipFile

import numpy as np
from msgspec import DecodeError
from numpy.typing import NDArray

from worldline.data.checks import Finding
from worldline.data.infer import FOREIGN_ENDS as FOREIGN_ENDS
from worldline.data.store import SCHEMA_FILE
from worldline.errors import DataError

Array = NDArray[np.generic]
Metadata = dict[str, str | int | float]
K = TypeVar("K")
V = TypeVar("V")

UNREADABLE = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, EOFError, SyntaxError),
    *(struct.error, zlib.error, BadZipFile, DecodeError, TokenError),  # TokenError: of the header of an npz array
)
"""Exceptions of libraries for damaged files; they include `DataError` (a `ValueError`)."""

DAMAGED = "Restore the file from a copy, or write it again."
UNKNOWN_FIX = "Actions and other inputs must be known. Repair the log, or end the episode before this step."
FLAGS = ("terminated", "truncated")
TIMES = ("time", "timestamp")
MASK_PREFIX = "observed."


def filled(values: Array, known: NDArray[np.bool_]) -> Array:
    """Replaces each missing row by the last known one, else by the first known one, else by 0.

    Args:
        values: [rows, ...].
        known: [rows] bool.
    """
    if known.all():
        return values
    if not known.any():
        return np.zeros_like(values)
    return values[np.maximum.accumulate(np.where(known, np.arange(len(known)), np.argmax(known)))]


def natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Returns a sort key that puts frame_9 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts if part)


def unread(folder: Path, used: Collection[Path], what: str) -> list[str]:
    """Returns a sentence on the files of a folder that are not read.

    Args:
        folder: of the logs, or a single file.
        used: the files that are read.
        what: the other files are, such as "not tables".
    """
    if not folder.is_dir() or folder in used:
        return []
    others = sorted(path.name for path in folder.iterdir() if path not in used and path.name != SCHEMA_FILE)
    return [f"Not read, because they are {what}: {', '.join(others)}."] if others else []


def reason(error: Exception | None) -> str:
    """Returns the message of an exception in one line."""
    return error.problem if isinstance(error, DataError) else f"{type(error).__name__}: {error}".replace("\n", " ")


MAX_UNREADABLE: Final = 1000
"""Items that are tried, if all of them are unreadable."""


@contextmanager
def converted(
    problem: str,
    *,
    fix: str = DAMAGED,
    file: Path | str | None = None,
    signal: str | None = None,
    errors: tuple[type[Exception], ...] = UNREADABLE,
) -> Iterator[None]:
    """Converts an exception that a library raises on damaged data into a `DataError`.

    Args:
        problem: what cannot be done.
        fix: as in `DataError`.
        file: as in `DataError`.
        signal: as in `DataError`.
        errors: the exceptions; a `DataError` is raised unchanged.

    Raises:
        DataError: the problem, with the message of the exception.
    """
    try:
        yield
    except DataError:
        raise
    except errors as error:
        raise DataError(f"{problem} ({reason(error):.300})", fix=fix, file=file, signal=signal) from error


def readable(items: Iterable[K], read: Callable[[K], V], *, what: str, file: Path) -> Iterator[tuple[K, V]]:
    """Yields each item with what was read of it, without the unreadable ones, which `Logs.read` reports.

    Args:
        items: such as files.
        read: reads one of them.
        what: the items are, in plural.
        file: for errors without a file.

    Raises:
        DataError: none can be read, or none of the first `MAX_UNREADABLE`; the first reason.
    """
    failure, count, is_any = None, 0, False
    for item in items:
        try:
            content = read(item)
        except UNREADABLE as error:
            failure, count = failure or error, count + 1
            if count == MAX_UNREADABLE and not is_any:
                break
        else:
            is_any = True
            yield item, content
    if failure is not None and not is_any:
        first = failure if isinstance(failure, DataError) else DataError(reason(failure), fix=DAMAGED)
        problem = f"none of the first {count} {what} can be read; the first: {first.problem}"
        problem = problem if count == MAX_UNREADABLE else problem.replace("of the first", "of the", 1)
        raise replace(Finding.of(first, file=str(first.file or file)), problem=problem).error() from failure


def duplicate(names: Iterable[str]) -> str | None:
    """Returns the first name that occurs twice; None if there is none."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def flag_at_end(flags: Array, name: str, *, fix: str) -> bool:
    """Whether an end flag is set in the last row.

    Args:
        flags: [rows, ...]; NaN does not count as set.
        name: of the flag.
        fix: as in `DataError`.

    Raises:
        DataError: the flag is set in an earlier row.
    """
    rows = np.atleast_1d(flags)
    is_set = ((rows != 0) & (rows == rows)).reshape(len(rows), -1).any(1)
    if early := np.flatnonzero(is_set[:-1]).tolist():
        raise DataError(f"{name} is set before the end", fix=fix, step=early[0])
    return bool(is_set[-1:].any())
