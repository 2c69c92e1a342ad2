"""Reading of the Parquet files of a LeRobot dataset, which may be damaged, and of numbers in their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import MAX_EPISODES, check_entries, check_list, check_parquet
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
        if Path(file).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
            fix = "If a link leads there, copy the dataset with its links resolved (cp -rL)."
            raise DataError("the path leads out of the dataset's folder", fix=fix, file=file)
        if not path.is_file():
            raise DataError("the file is missing", fix=FIX, file=file)
    return path


class ParquetRows:
    """The rows of a parquet file. Texts are kept once each, because a small file may repeat a long one.

    Args:
        file: its path.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: the package pyarrow is not installed.
    """

    def __init__(self, file: Path) -> None:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtraError("pyarrow", "lerobot") from error
        self.file = file
        with self._reading():
            schema = parquet.read_schema(file)
            texts = [field.name for field in schema if str(field.type) in ("string", "large_string")]
            self._parquet = parquet.ParquetFile(
                file, page_checksum_verification=True, pre_buffer=False, read_dictionary=texts
            )
        self.names = tuple(schema.names)
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def error(self, problem: str, *, fix: str = FIX, signal: str | None = None, step: int | None = None) -> DataError:
        """Returns the problem as an error that names the file."""
        return DataError(problem, fix=fix, file=self.file, signal=signal, step=step)

    def _reading(self) -> AbstractContextManager[None]:
        """Converts errors of pyarrow into a `DataError` that names the file."""
        import pyarrow as pa

        return converted("the rows cannot be read", fix=FIX, file=self.file, errors=(pa.ArrowException, *UNREADABLE))

    def _read(self, names: Sequence[str]) -> pa.Table:
        """Returns columns of all rows."""
        with self._reading():
            check_parquet(self._parquet, self.file, names, copies=2)
            # pyarrow treats names with dots as prefixes, so the exact columns are selected afterwards.
            table = self._parquet.read(columns=list(names), use_threads=False).select(list(names))
            table.validate(full=True)
        if len(table) != len(self):
            raise self.error(f"it has {len(table)} rows, but declares {len(self)}")
        return table

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns one column of all rows, and keeps it for the other episodes in the file.

        Raises:
            DataError: it is missing or damaged.
        """
        if name not in self.names:
            raise self.error("the column is missing", signal=name)
        if name not in self._columns:
            self._columns[name] = self._read([name]).column(0)
        return self._columns[name]

    def read_list(self, names: Sequence[str]) -> pa.Table:
        """Returns columns of a list of episodes or tasks.

        Raises:
            DataError: they are missing, damaged or too large.
        """
        check_entries(len(self), "entries", MAX_EPISODES, file=self.file)
        check_list(self._num_bytes(names), self.file)
        table = self._read(names)
        with self._reading():
            check_list(sum(_expanded(column) for column in table.columns), self.file)
        return table

    def _num_bytes(self, names: Sequence[str]) -> int:
        """Returns the declared size of columns."""
        groups = [self._parquet.metadata.row_group(number) for number in range(self._parquet.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in names)


def _expanded(column: pa.ChunkedArray) -> int:
    """Returns the size of all texts of a column, and of its other values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(part).as_py() or 0 for part in lengths)


@dataclass(frozen=True, kw_only=True)
class RowRange:
    """The rows of an episode in a file."""

    rows: ParquetRows
    start: int
    length: int

    def column(self, key: str) -> pa.ChunkedArray:
        """Returns one column of these rows."""
        return self.rows.column(key).slice(self.start, self.length)

    def numbers(self, key: str, shape: tuple[int, ...], signal: str) -> tuple[Array, NDArray[np.bool_]]:
        """Returns the numbers in cells of numbers or nested lists, and a mask [rows] of missing ones, also NaN.

        Args:
            key: of the column.
            shape: of one cell; (1,) may be stored as a number or as a list of one.
            signal: its name in errors.

        Raises:
            DataError: it is missing or damaged, a cell has another shape, or does not hold numbers.
        """
        import pyarrow as pa

        lists = (pa.ListArray, pa.LargeListArray, pa.FixedSizeListArray)
        cells = self.column(key).combine_chunks()
        present, flat, sizes = ~np.asarray(cells.is_null()), cells.drop_null(), list[int]()
        with converted(f"a cell does not have shape {shape}", fix=FIX, file=self.rows.file, signal=signal):
            while isinstance(flat, lists):
                lengths = np.unique(np.asarray(flat.value_lengths().fill_null(-1)))
                sizes.append(int(lengths[0]) if len(lengths) == 1 else -1)
                flat = flat.flatten()
            dtype = np.dtype(flat.type.to_pandas_dtype())
            is_alike = sizes == list(shape) or (not sizes and shape == (1,)) or not present.any()
            if dtype.kind not in "biuf" or not is_alike:
                raise ValueError(f"it is {cells.type}, with {sizes} numbers; -1 if they differ")
            values, missing = np.zeros((len(cells), *shape), dtype), np.ones(len(cells), np.bool_)
            known = flat.fill_null(False if dtype.kind == "b" else 0).to_numpy(zero_copy_only=False)
            values[present] = known.astype(dtype, copy=False).reshape(-1, *shape)
            missing[present] = np.asarray(flat.is_null(), np.bool_).reshape(-1, math.prod(shape)).any(1)
        return values, missing | (values != values).reshape(len(cells), -1).any(1)

    def known(self, key: str, kinds: str = "biuf") -> Array:
        """Returns a column of single numbers without missing values.

        Args:
            key: of the column.
            kinds: of dtypes that it may have.

        Raises:
            DataError: it is missing or damaged, has missing values, or another dtype.
        """
        values, missing = self.numbers(key, (1,), key)
        if missing.any() or values.dtype.kind not in kinds:
            step = int(np.argmax(missing)) if missing.any() else None
            problem = f"it holds {values.dtype}, and {missing.sum()} cells are empty"
            raise self.rows.error(problem, signal=key, step=step)
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
            indices = RowRange(rows=rows, start=0, length=len(rows)).known("episode_index", "iu")
            # Once for all episodes of the file, so that time does not grow with the square of their number.
            self._last = file, rows, indices, np.unique(indices, return_index=True, return_counts=True)
        _, rows, indices, (known, firsts, counts) = self._last
        at = int(np.searchsorted(known, number))
        start, count = (int(firsts[at]), int(counts[at])) if at < len(known) and known[at] == number else (0, 0)
        if count != num_rows or not count or (indices[start : start + count] != number).any():
            problem = f"the file has {count} rows of episode_index {number}, but the list has {num_rows} in a row"
            raise rows.error(problem)
        return RowRange(rows=rows, start=start, length=num_rows)
