"""The memory that reading logs may take, checked against declared sizes before anything is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from worldline.errors import DataError
from worldline.formatting import NBSP, size

DEFAULT_SHARE: Final = 4
"""By default one part in this many of the memory may be used."""
MAX_SCHEMA_BYTES: Final = 1 << 24
"""Largest `schema.json`."""
MAX_COLUMNS: Final = 4096
"""Largest number of columns of a table."""

COPIES: Final = 2
"""An array and its conversion are in memory at once."""

_max_bytes: ContextVar[int | None] = ContextVar("max_bytes", default=None)


@contextmanager
def reading_budget(max_bytes: int | None) -> Iterator[None]:
    """Sets the largest size of what is read at once, in bytes; None for a quarter of the memory."""
    token = _max_bytes.set(max_bytes)
    try:
        yield
    finally:
        _max_bytes.reset(token)


def budget() -> int:
    """The largest size of what is read at once, bytes."""
    found = _max_bytes.get()
    return found if found is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // DEFAULT_SHARE


_SPLIT: Final = "Split it into smaller files."


def check_size(num_bytes: int, what: str, *, file: Path | None = None, fix: str = _SPLIT) -> None:
    """Checks a declared size against the budget.

    Args:
        num_bytes: that reading would take.
        what: is read, such as "the arrays in it".
        file: for the message.
        fix: what the user can do instead of raising the limit.

    Raises:
        DataError: it is larger than the budget.
    """
    if num_bytes > budget():
        raise DataError(
            f"{what} would take {_sized(num_bytes)} of memory, and the limit is {_sized(budget())}",
            fix=f"{fix} If you trust it, raise the limit: worldline import --max-bytes.",
            file=file,
        )


class SizeSum:
    """The size of what is kept of many files or arrays at once, against the budget.

    Args:
        what: is kept, such as "the summaries of the files".
        fix: as for `check_size`.
    """

    def __init__(self, what: str, fix: str = "Import fewer files at once.") -> None:
        self._what, self._fix, self._sum = what, fix, 0

    def add(self, num_bytes: int) -> None:
        """Adds the size of one file or array.

        Raises:
            DataError: the sum is larger than the budget.
        """
        self._sum += num_bytes
        check_size(self._sum, self._what, fix=self._fix)


def check_columns(count: int, file: Path) -> None:
    """Checks the number of columns of a table.

    Raises:
        DataError: there are more than `MAX_COLUMNS`.
    """
    if count > MAX_COLUMNS:
        raise DataError(
            f"the table has {count} columns, and the limit is {MAX_COLUMNS}",
            fix="Keep the columns that the world needs; a picture or a spectrum belongs in one array (.npz, HDF5).",
            file=file,
        )


def read_schema_text(file: Path) -> bytes:
    """The content of a `schema.json`.

    Raises:
        DataError: it is larger than `MAX_SCHEMA_BYTES`.
    """
    if (num_bytes := file.stat().st_size) > MAX_SCHEMA_BYTES:
        raise DataError(
            f"the schema has {_sized(num_bytes)}, and the limit is {_sized(MAX_SCHEMA_BYTES)}",
            fix="Check whether it is a schema; remove it to have the signals inferred.",
            file=file,
        )
    return file.read_bytes()


def _sized(num_bytes: int) -> str:
    """The size in words, such as "1.6 GB"."""
    return size(num_bytes).replace(NBSP, " ")
