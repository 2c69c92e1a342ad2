"""Limits of what is read of a file: its number of entries and the size of an array, checked before either is read."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from worldline.errors import DataError
from worldline.formatting import NBSP, size
from worldline.schema import Signal

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

SHARE: Final = 4
"""One array may take one part in this many of the memory."""
MAX_ARRAYS: Final = 4096
"""Arrays of an episode, or columns of a file, that are read."""
MAX_EPISODES: Final = 500_000
"""Episodes, or entries of another list, in a file."""
LIST_BYTES: Final = 100_000_000
"""Size of a list of episodes or tasks, decompressed."""
MAX_ROWS: Final = 10**9
"""Rows of an episode."""
EXPANSION: Final = 1000
"""A list of episodes may take this many times the size of its file: such lists compress, but not that much."""
ONE_HOT_ROWS: Final = 256
"""Rows of a discrete signal that are in memory at once, at least."""
EPISODE_BYTES: Final = 2000
"""Memory that an episode in a list takes until it is imported."""

_LISTS_EXPANSION = 100
"""Lists may expand this many times more than lists of episodes, since padding compresses well."""


def memory_bytes() -> int:
    """The memory of this machine, or the limit of the data of this process if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import resource
    except ImportError:  # Windows
        return memory
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit)


def check_size(
    num_bytes: int, what: str, *, file: Path | None = None, signal: str | None = None, stored_bytes: float = math.inf
) -> None:
    """Checks the declared size of an array, or of what is read of a file at once.

    Args:
        num_bytes: that it would take.
        what: is read, such as "the arrays in it".
        file: for the message.
        signal: for the message.
        stored_bytes: size of the file, if more than `EXPANSION` times this size is too much.

    Raises:
        DataError: it is larger than a quarter of the memory, or than a file of this size can hold.
    """
    own, shared = EXPANSION * stored_bytes, memory_bytes() // SHARE
    if num_bytes > (limit := int(min(own, shared))):
        problem = f"{what} would take {in_words(num_bytes)} of memory, and the limit is {in_words(limit)}"
        problem += " for a file of this size" if own < shared else ""
        fix = "Split the file, or correct the size that it declares."
        raise DataError(problem, fix=fix, file=file, signal=signal)


def check_entries(count: int, what: str, limit: int, *, file: Path) -> None:
    """Checks the number of entries of a file, before they are read.

    Args:
        count: of the entries; counting may stop beyond the limit.
        what: the entries are, in plural.
        limit: the largest number.
        file: for the message.

    Raises:
        DataError: there are more.
    """
    if count > limit:
        raise DataError(f"it has more than {limit} {what}, which is the limit", fix="Split the file.", file=file)


def check_list(num_bytes: int, file: Path) -> None:
    """Checks the size of a list of episodes or tasks, decompressed.

    Raises:
        DataError: it is larger than `LIST_BYTES`.
    """
    if num_bytes > LIST_BYTES:
        problem = f"its list would take {in_words(num_bytes)} of memory, and the limit is {in_words(LIST_BYTES)}"
        raise DataError(problem, fix="Split the file.", file=file)


def check_episodes(count: int, file: Path) -> None:
    """Checks the declared number of episodes in a file, before its list is read.

    Raises:
        DataError: there are too many, or too many for a file of this size.
    """
    check_entries(count, "episodes", MAX_EPISODES, file=file)
    check_size(EPISODE_BYTES * count, f"a list of {count} episodes", file=file, stored_bytes=file.stat().st_size)


def check_one_hot(signal: Signal, num_rows: int = ONE_HOT_ROWS) -> None:
    """Checks the declared number of values of a discrete signal, before rows get a column for each value.

    Raises:
        DataError: as in `check_size`.
    """
    if signal.num_values is not None:
        what = f"{num_rows} rows with a column for each of its {signal.num_values} values (num_values)"
        check_size(8 * num_rows * signal.num_values, what, signal=signal.name)


def in_words(num_bytes: int) -> str:
    """The size for a message, such as "1.6 GB"."""
    return size(num_bytes).replace(NBSP, " ")


def check_parquet(
    reader: parquet.ParquetFile, file: Path, names: Collection[str] | None = None, *, copies: int, least_bytes: int = 0
) -> None:
    """Checks the declared size of columns. Lists count with all of their values.

    Args:
        reader: the open file.
        file: for errors.
        names: of the columns that are read; None for all.
        copies: of a value that are in memory at once, until it is imported.
        least_bytes: memory that a value takes at least.

    Raises:
        DataError: the columns are too large together.
    """
    metadata, num_bytes, texts = reader.metadata, {False: 0, True: 0}, 0  # of lists: True
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    # A field of the table has several columns in the file if it has parts. Their paths may hold dots of its name.
    fields = [field for field in reader.schema_arrow for _ in range(_num_leaves(field.type))]
    for number, field in enumerate(fields):
        if names is not None and field.name not in names:
            continue
        kind, leaf = field.type, metadata.schema.column(number)
        width = 4 if leaf.physical_type in ("BOOLEAN", "INT32", "FLOAT") else 8
        declared = sum(group.column(number).num_values for group in groups)
        # A missing list of fixed length counts as one value there, but arrow allocates all of them.
        num_values = max(metadata.num_rows * _fixed_size(kind), declared)
        num_bytes[getattr(kind, "storage_type", kind).num_fields > 0] += max(copies * width, least_bytes) * num_values
        if leaf.physical_type == "BYTE_ARRAY":
            texts += sum(group.column(number).total_uncompressed_size for group in groups)
    check_size(num_bytes[True], "its lists", file=file, stored_bytes=_LISTS_EXPANSION * file.stat().st_size)
    check_size(texts, "its texts", file=file, stored_bytes=file.stat().st_size)
    check_size(sum(num_bytes.values()) + copies * texts, "the table", file=file)


def _num_leaves(kind: pa.DataType) -> int:
    """The columns of the file that hold a field of this type."""
    kind = getattr(kind, "storage_type", kind)  # of an extension of arrow
    return sum(_num_leaves(kind.field(number).type) for number in range(kind.num_fields)) or 1


def _fixed_size(kind: pa.DataType) -> int:
    """The values in a list of fixed length, which may be nested; 1 for other types."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)  # of an extension of arrow
    return int(kind.list_size) * _fixed_size(kind.value_type) if types.is_fixed_size_list(kind) else 1
