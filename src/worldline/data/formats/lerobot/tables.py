"""Reading of the Parquet files of a LeRobot dataset, which may be damaged, and of numbers in their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.parquet_size import check_parquet
from worldline.data.formats.reading import UNREADABLE, Array, converted
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

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
    with converted("the path is invalid", fix=FIX, file=file[:200]):  # too long, a zero byte, or a loop of links
        inside = not Path(file).is_absolute() and path.resolve().is_relative_to(root.resolve())
        exists = inside and path.is_file()
    if not inside:
        fix = "If a link leads there, copy the dataset with its links resolved (cp -rL)."
        raise DataError("the path leads out of the dataset's folder", fix=fix, file=file)
    if not exists:
        raise DataError("the file is missing", fix=FIX, file=file)
    return path


class ParquetRows:
    """The rows of a parquet file.

    Args:
        file: its path.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: the package pyarrow is not installed.
    """

    def __init__(self, file: Path) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "lerobot") from error
        self.file = file
        with self._damage("the file"):
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            self.names = tuple(self._parquet.schema_arrow.names)
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def error(self, problem: str, *, fix: str = FIX, signal: str | None = None, step: int | None = None) -> DataError:
        """Returns the problem as an error that names the file."""
        return DataError(problem, fix=fix, file=self.file, signal=signal, step=step)

    def read(self, names: Sequence[str]) -> pa.Table:
        """Returns columns of all rows.

        Args:
            names: of the columns.

        Raises:
            DataError: the file is damaged, or does not have exactly one column of each name.
        """
        with self._damage("the rows"):
            check_parquet(self._parquet, self.file, names, copies=2)
            # pyarrow treats names with dots as prefixes, so the exact columns are selected afterwards.
            table = self._parquet.read(columns=list(names), use_threads=False).select(list(names))
            table.validate(full=True)
        if len(table) != len(self):
            raise self.error(f"it has {len(table)} rows, but declares {len(self)}")
        return table

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns one column of all rows, and keeps it for the other episodes in the file."""
        if name not in self._columns:
            self._columns[name] = self.read([name]).column(0)
        return self._columns[name]

    def _damage(self, what: str) -> AbstractContextManager[None]:
        """Converts errors that pyarrow raises on a damaged file into a `DataError` that names the place."""
        import pyarrow as pa

        return converted(f"{what} cannot be read", fix=FIX, file=self.file, errors=(pa.ArrowException, *UNREADABLE))


def numbers(
    column: pa.ChunkedArray, shape: tuple[int, ...], error: Callable[..., DataError]
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns the numbers in cells of numbers or nested lists, and a mask [rows] of cells that are empty or have a NaN.

    Args:
        column: of a table.
        shape: of one cell; (1,) may be stored as a number or as a list of one.
        error: creates an error from a problem and the row (`step`).

    Raises:
        DataError: a cell has another shape, or does not hold numbers.
    """
    import pyarrow as pa

    cells = column.combine_chunks()
    present = np.flatnonzero(~np.asarray(cells.is_null()))
    flat, dimensions = cells.drop_null(), list(shape)
    if shape == (1,) and not pa.types.is_nested(flat.type):
        dimensions = []
    for size in dimensions:
        kind = flat.type
        if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise error(f"a cell is {column.type}; expected a list of shape {shape}")
        lengths = np.asarray(flat.value_lengths().fill_null(-1))
        if wrong := np.flatnonzero(lengths != size).tolist():
            step = int(present[wrong[0] * len(present) // max(len(lengths), 1)])
            raise error(f"a cell has {lengths[wrong[0]]} numbers, but shape {shape} needs {size}", step=step)
        flat = flat.flatten()
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)):
        raise error(f"its cells hold {flat.type}; expected numbers of shape {shape}")
    dtype = np.dtype(flat.type.to_pandas_dtype())
    known = flat.fill_null(False if dtype.kind == "b" else 0).to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    values = np.zeros((len(cells), *shape), dtype)
    values[present] = known.reshape(-1, *shape)
    missing = np.ones(len(cells), np.bool_)
    missing[present] = np.asarray(flat.is_null(), np.bool_).reshape(len(present), -1).any(1)
    return values, missing | (values != values).reshape(len(cells), -1).any(1)


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """The rows of an episode in a file."""

    rows: ParquetRows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def column(self, key: str) -> pa.ChunkedArray:
        """Returns one column of these rows.

        Raises:
            DataError: it is missing or damaged.
        """
        if key not in self.rows.names:
            raise self.rows.error("the column is missing", signal=key)
        return self.rows.column(key).slice(self.start, len(self))

    def numbers(self, key: str, shape: tuple[int, ...], signal: str) -> tuple[Array, NDArray[np.bool_]]:
        """Returns the numbers in a column, and a mask of missing ones; see `numbers`.

        Args:
            key: of the column.
            shape: of a cell.
            signal: its name in errors.

        Raises:
            DataError: it is missing or damaged, or does not hold such numbers.
        """
        return numbers(self.column(key), shape, partial(self.rows.error, signal=signal))

    def known(self, key: str, kinds: str = "biuf") -> Array:
        """Returns a column of single numbers without missing values.

        Args:
            key: of the column.
            kinds: of dtypes that it may have.

        Raises:
            DataError: it is missing or damaged, has missing values, or another dtype.
        """
        values, missing = self.numbers(key, (1,), key)
        if gaps := np.flatnonzero(missing).tolist():
            raise self.rows.error("the cell is empty", signal=key, step=gaps[0])
        if values.dtype.kind not in kinds:
            raise self.rows.error(f"the column holds {values.dtype}; expected whole numbers", signal=key)
        return values.reshape(-1)


class DataFiles:
    """The parquet files of a dataset; the last one stays open.

    Args:
        root: of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last: tuple[str, ParquetRows, Array, tuple[Array, ...]] | None = None

    def locate(self, file: str, number: int, num_rows: int) -> RowRange:
        """Finds the rows of an episode.

        Args:
            file: that holds them, relative to the dataset.
            number: the `episode_index` of its rows.
            num_rows: from the list of episodes.

        Raises:
            DataError: the file cannot be read, or its rows differ from the list.
        """
        if self._last is None or self._last[0] != file:
            rows = ParquetRows(within(self._root, file))
            all_rows = RowRange(rows=rows, start=0, stop=len(rows))
            indices = all_rows.known("episode_index", "iu")
            self._last = (file, rows, indices, np.unique(indices, return_index=True, return_counts=True))
        _, rows, indices, (known, firsts, counts) = self._last
        at = int(np.searchsorted(known, number))
        start, count = (int(firsts[at]), int(counts[at])) if at < len(known) and known[at] == number else (0, 0)
        if count != num_rows or not count or (indices[start : start + count] != number).any():
            problem = f"the file has {count} rows of episode_index {number}, but the list has {num_rows} in a row"
            raise rows.error(problem)
        return RowRange(rows=rows, start=start, stop=start + count)
