"""Checked reading of untrusted LeRobot files: metadata in JSON, and numbers, texts and images in Parquet cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.reading import UNREADABLE, Array, converted, duplicate
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

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


def read_bytes(root: Path, file: str) -> bytes:
    """Reads a file of the dataset.

    Args:
        root: of the dataset.
        file: the relative path.

    Raises:
        DataError: it is missing or cannot be read.
    """
    path = within(root, file)
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

    def optional_list(self, key: str, kind: Any, length: int) -> Any:
        """Returns a list of this length, or None.

        Args:
            key: its name.
            kind: its type, such as `list[float]`.
            length: of the list.

        Raises:
            DataError: it is missing, or has another type or length.
        """
        values: list[Any] | None = self.get(key, kind | None)
        if values is not None and len(values) != length:
            raise self.error(f"{key!r} has {len(values)} values; expected {length}")
        return values

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
        parsed = parse_json(self.get(key, str).encode(), self.file, f"{self._place}: ")
        checked = Checked({key: parsed}, self.file, self._place)
        names: dict[str, str | int | float] = checked.get(key, dict[str, str | int | float])
        return names


def read_object(root: Path, file: str) -> Checked:
    """Reads a JSON object from a file of the dataset.

    Args:
        root: of the dataset.
        file: the relative path.

    Raises:
        DataError: the file is missing, cannot be read, or does not hold a JSON object.
    """
    return Checked(parse_json(read_bytes(root, file), file), file)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers.

    Args:
        values: [rows, *shape] in the dtype of the file; 0 for empty cells.
        missing: [rows] bool, True if a component is empty or NaN.
        empty: [rows] bool, True if a component is empty.
    """

    values: Array
    missing: NDArray[np.bool_]
    empty: NDArray[np.bool_]


class ParquetRows:
    """The rows of a parquet file.

    Args:
        file: its path.

    Raises:
        DataError: it cannot be read, or a column name occurs twice.
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
        if twice := duplicate(self.names):
            raise self.error(f"the column {twice!r} occurs twice", fix="Remove or rename one of them.")
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return int(self._parquet.metadata.num_rows)

    def error(self, problem: str, *, fix: str = FIX, signal: str | None = None, step: int | None = None) -> DataError:
        """Returns the problem as an error that names the file."""
        return DataError(problem, fix=fix, file=self.file, signal=signal, step=step)

    def read(self, names: Sequence[str]) -> pa.Table:
        """Returns columns of all rows.

        Args:
            names: of existing columns.

        Raises:
            DataError: the file is damaged.
        """
        with self._damage("the rows"):
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


def numbers(column: pa.ChunkedArray, shape: tuple[int, ...], error: Callable[..., DataError]) -> Numbers:
    """Converts a column of numbers, or of nested lists of numbers.

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
    empty = np.ones(len(cells), np.bool_)
    empty[present] = np.asarray(flat.is_null(), np.bool_).reshape(len(present), -1).any(1)
    is_nan = values.reshape(len(cells), -1) != values.reshape(len(cells), -1)
    return Numbers(values=values, missing=empty | is_nan.any(1), empty=empty)


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

    def numbers(self, key: str, shape: tuple[int, ...], signal: str) -> Numbers:
        """Returns the numbers in a column.

        Args:
            key: of the column.
            shape: of a cell.
            signal: its name in errors.

        Raises:
            DataError: it is missing or damaged, or does not hold such numbers.
        """
        return numbers(self.column(key), shape, partial(self.rows.error, signal=signal))

    def known(self, key: str) -> Array:
        """Returns a column of single numbers without missing values.

        Raises:
            DataError: it is missing or damaged, or has missing values.
        """
        column = self.numbers(key, (1,), key)
        if gaps := np.flatnonzero(column.missing).tolist():
            raise self.rows.error("the cell is empty", signal=key, step=gaps[0])
        return column.values.reshape(-1)

    def whole(self, key: str) -> NDArray[np.int64]:
        """Returns a column of whole numbers without missing values.

        Raises:
            DataError: it is missing or damaged, or holds other values.
        """
        values = self.known(key)
        if values.dtype.kind not in "iu":
            raise self.rows.error(f"the column holds {values.dtype}; expected whole numbers", signal=key)
        return values.astype(np.int64)


class DataFiles:
    """The parquet files of a dataset; the last one stays open.

    Args:
        root: of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last: tuple[str, ParquetRows, NDArray[np.int64]] | None = None

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
            self._last = (file, rows, all_rows.whole("episode_index"))
        _, rows, numbers_of_rows = self._last
        where = np.flatnonzero(numbers_of_rows == number)
        if len(where) != num_rows or not len(where):
            problem = f"the file has {len(where)} rows of episode_index {number}, but the list has {num_rows}"
            raise rows.error(problem, step=min(len(where), num_rows))
        if where[-1] - where[0] + 1 != len(where):
            step = int(np.flatnonzero(np.diff(where) != 1)[0]) + 1
            raise rows.error("its rows are interleaved with other episodes", step=step)
        return RowRange(rows=rows, start=int(where[0]), stop=int(where[-1]) + 1)
