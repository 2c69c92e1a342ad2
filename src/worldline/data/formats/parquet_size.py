"""The check of the size of a Parquet file, made with its metadata before values are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from worldline.data.array_size import check_size

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import parquet

_LISTS_EXPANSION = 100
"""Lists may expand this many times more than lists of episodes, since padding compresses well."""


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
    groups = [reader.metadata.row_group(number) for number in range(reader.metadata.num_row_groups)]
    num_rows = max(reader.metadata.num_rows, sum(group.num_rows for group in groups))
    leaves = [(field, *leaf) for field in reader.schema_arrow for leaf in _leaves(field.type)]
    num_bytes = {False: 0, True: 0}  # of lists: True
    for number, (field, per_row, per_value, width) in enumerate(leaves):
        if names is None or field.name in names:
            is_list = getattr(field.type, "storage_type", field.type).num_fields > 0
            declared = sum(group.column(number).num_values for group in groups) if is_list else num_rows
            # A missing list of fixed length counts as one value there, but arrow allocates all of them.
            num_values = max(num_rows * per_row, declared * per_value)
            num_bytes[is_list] += max(copies * width, least_bytes) * num_values
    check_size(num_bytes[True], "its lists", file=file, stored_bytes=_LISTS_EXPANSION * file.stat().st_size)
    check_size(sum(num_bytes.values()), "the table", file=file)


def _leaves(
    kind: pa.DataType, per_row: int = 1, per_value: int = 1, in_list: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Yields for each column of the file that holds a part of a column of the table: three numbers.

    They are the values that a row takes if its list is missing, the same of a value in a list, and bytes of a value.
    """
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)  # of an extension of arrow
    if types.is_fixed_size_list(kind):
        per_row, per_value = (per_row, per_value * kind.list_size) if in_list else (per_row * kind.list_size, per_value)
    elif kind.num_fields and not types.is_struct(kind):
        in_list = True
    for number in range(kind.num_fields):
        yield from _leaves(kind.field(number).type, per_row, per_value, in_list)
    if not kind.num_fields:
        try:
            yield per_row, per_value, -(-kind.bit_width // 8)
        except ValueError:  # texts have any length
            yield per_row, per_value, 8
