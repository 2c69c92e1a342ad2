"""Reading of CSV files, Parquet files and frames into typed columns with masks of missing cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, warning
from worldline.data.formats.parquet_size import check_parquet
from worldline.data.formats.reading import UNREADABLE, Array, converted, duplicate, natural
from worldline.data.formats.tables.csv_files import CSV_FIX, read_csv
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE_SUFFIXES = (".csv", ".parquet")
MAX_COLUMNS = 4096
BYTES_A_CELL = 32
"""Memory that a number or text in a Parquet file takes at least until it is imported."""

_UNIT = re.compile(r"^(?P<name>.*\S)\s*(\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))$")
_NUMBERS = ("boolean", "integer", "floating", "mixed-integer-float", "timedelta", "timedelta64")
"""Kinds of cells, as pandas names them, that need no conversion."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Args:
        name: of the signal: the header without unit and slashes.
        header: as in the file.
        unit: from a header such as "temperature [degC]"; None without a unit.
        values: [rows], or [rows, n] for lists of equal length: numbers, bool, datetime64, timedelta64 or str objects.
        missing: [rows] bool; where True, the value has no meaning.
    """

    name: str
    header: str
    unit: str | None
    values: Array
    missing: NDArray[np.bool_]

    @property
    def is_text(self) -> bool:
        """Whether it holds texts and at least one cell is not missing."""
        return self.values.dtype.kind == "O" and not self.is_empty

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers or bools and at least one cell is not missing."""
        return self.values.dtype.kind in "biuf" and not self.is_empty

    @property
    def is_empty(self) -> bool:
        """Whether every cell is missing."""
        return bool(self.missing.all())


@dataclass(frozen=True, kw_only=True)
class ColumnTable:
    """One file.

    Args:
        file: its path.
        num_rows: without the header.
        columns: by name, in order.
        findings: warnings about unused columns and a truncated end.
    """

    file: Path
    num_rows: int
    columns: Mapping[str, Column]
    findings: tuple[Finding, ...] = ()


def tables_in(path: Path) -> list[Path]:
    """Returns the CSV and Parquet files of a folder in natural order, or the file itself if it is one."""
    files = [path] if path.is_file() else sorted(path.iterdir(), key=natural)
    return [file for file in files if file.suffix.lower() in TABLE_SUFFIXES and file.is_file() and file.name[0] != "."]


def read_table(file: Path) -> ColumnTable:
    """Reads a CSV file (UTF-8, with a header) or a Parquet file.

    Args:
        file: its suffix decides the format.

    Raises:
        DataError: it cannot be read.
        MissingExtraError: the package pyarrow is not installed.
    """
    if file.suffix.lower() == ".csv":
        with converted("the file cannot be read", fix=CSV_FIX, file=file, errors=(csv.Error, *UNREADABLE)):
            frame, notes = read_csv(file)
            return table_of(frame, file, [*_thousands(notes, file), *_truncated(file)])
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    fix = "Write the file again; it may be truncated or damaged."
    with converted("the file cannot be read", fix=fix, file=file, errors=(pa.ArrowException, *UNREADABLE)):
        with parquet.ParquetFile(file, page_checksum_verification=True) as reader:
            check_parquet(reader, file, copies=8, least_bytes=BYTES_A_CELL)
            table = reader.read()
        table.validate(full=True)
        return table_of(table, file)


def _thousands(notes: Mapping[str, str], file: Path) -> list[Finding]:
    """A warning for each column whose numbers had separators of thousands."""
    fix = "If this is wrong, write its numbers without separators of thousands."
    named = {name_and_unit(header)[0]: problem for header, problem in notes.items()}
    return [warning(problem=problem, fix=fix, file=file.name, signal=name) for name, problem in named.items()]


def _truncated(file: Path) -> list[Finding]:
    """A warning if the last line has no line end, since its last cell may have lost digits."""
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        if stream.read(1) in (b"\n", b"\r"):
            return []
    problem = "the last line has no line end; the file may be truncated and its last value wrong"
    fix = "Compare it with the original; if it is complete, add a line end."
    return [warning(problem=problem, fix=fix, file=file.name)]


def table_of(raw: pa.Table | pd.DataFrame, file: Path, findings: Iterable[Finding] = ()) -> ColumnTable:
    """Returns the typed columns of a table.

    Args:
        raw: an Arrow table or a pandas frame.
        file: its path or name.
        findings: of reading it.

    Raises:
        DataError: two columns have the same name, a text is not UTF-8, or there are more than `MAX_COLUMNS`.
    """
    is_arrow = hasattr(raw, "column_names")
    headers = [str(header) for header in (raw.column_names if is_arrow else raw.columns)]
    if len(headers) > MAX_COLUMNS:
        fix = "Keep the columns that the world needs; a picture or a spectrum belongs in one array (.npz, HDF5)."
        raise DataError(f"the table has {len(headers)} columns, and the limit is {MAX_COLUMNS}", fix=fix, file=file)
    columns, noticed = dict[str, Column](), list(findings)
    for number, (name, unit) in enumerate(_names(headers, file)):
        cells: Any = raw.column(number) if is_arrow else raw.iloc[:, number]
        values, missing = _of_arrow(cells) if is_arrow else _of_pandas(cells)
        if not name:
            problem, fix = f"column {number + 1} has no name and is left out", "If it is a signal, name it."
            noticed.append(warning(problem=problem, fix=fix, file=file.name))
        elif values is None:
            problem = f"the column has the unsupported type {cells.type if is_arrow else cells.dtype} and is left out"
            fix = "If it is a signal, write it as numbers, texts or times."
            noticed.append(warning(problem=problem, fix=fix, file=file.name, signal=name))
        else:
            columns[name] = Column(name=name, header=headers[number], unit=unit, values=values, missing=missing)
    return ColumnTable(file=file, num_rows=len(raw), columns=columns, findings=tuple(noticed))


def _names(headers: Sequence[str], file: Path) -> list[tuple[str, str | None]]:
    """Names and units of all columns; if names are equal without their units, the headers become the names."""
    parts = [name_and_unit(header) for header in headers]
    counts = Counter(name for name, _ in parts)
    named = [(n if counts[n] == 1 else _clean(h), unit) for h, (n, unit) in zip(headers, parts, strict=True)]
    if twice := duplicate(name for name, _ in named if name):
        alike = ", ".join(repr(header) for header in headers if _clean(header) == twice)
        problem = f"the columns {alike} would all get the name {twice!r}"
        raise DataError(problem, fix="Give each column a unique name.", file=file, signal=twice)
    return named


def name_and_unit(header: str) -> tuple[str, str | None]:
    """Returns name and unit of a header; only the name is cleaned, since units may have slashes."""
    if (parts := _UNIT.match(header.strip())) and (name := _clean(parts["name"])):
        unit = (parts["square"] or parts["round"]).strip()
        if not unit.isdigit():  # "joint[2]" has an index, not a unit
            return name, unit
    return _clean(header), None


def _clean(header: str) -> str:
    """Returns the header as a signal name, without slashes and leading dots."""
    return re.sub(r"[/\\\0]", ".", header).strip().lstrip(".")


def as_numbers(texts: Array, missing: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns texts as numbers, and a mask [rows] of texts that are not numbers, without missing cells."""
    import pandas as pd

    numbers = pd.to_numeric(pd.Series(texts, dtype=object).mask(missing, "0"), errors="coerce").to_numpy(np.float64)
    bad = np.isnan(numbers) & ~missing
    return np.where(bad, 0.0, numbers), bad


def _of_arrow(cells: pa.ChunkedArray) -> tuple[Array | None, NDArray[np.bool_]]:
    """As `_of_pandas`, for a column of Arrow."""
    import pandas as pd
    from pyarrow import compute, types

    kind = cells.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        missing = cells.is_null().to_numpy().astype(np.bool_)
        parts, holes = _of_arrow(compute.list_flatten(cells))
        return _rows_of(parts, holes, compute.list_value_length(cells).drop_null().unique().to_pylist(), missing)
    has_gaps = types.is_integer(kind) or types.is_boolean(kind)  # NumPy cannot mark their missing cells
    return _of_pandas(cells.to_pandas(types_mapper=pd.ArrowDtype if has_gaps else None, date_as_object=False))


def _of_pandas(cells: pd.Series[Any]) -> tuple[Array | None, NDArray[np.bool_]]:
    """Returns the values of a column, and a mask of missing ones; None instead of values for an unsupported type."""
    import pandas as pd

    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(cells.cat.categories.dtype)
    missing, kind = cells.isna().to_numpy(np.bool_), pd.api.types.infer_dtype(cells, skipna=True)
    known = cells[~missing]
    if kind in ("string", "empty"):
        texts = cells.astype(object).where(~missing, "").to_numpy(object)
        return texts, missing | (texts == "")
    if kind in ("date", "datetime", "datetime64"):
        known = pd.Series(pd.to_datetime(known, utc=True)).dt.tz_localize(None)
    elif kind == "time":
        known = pd.Series(pd.to_timedelta(known.astype(str)))
    elif kind == "decimal":
        known = known.astype(np.float64)
    elif kind.startswith("mixed") and all(np.ndim(cell) == 1 for cell in known):
        parts = np.concatenate([*known])
        return _rows_of(parts, parts != parts, [*{len(cell) for cell in known}], missing)
    elif kind not in _NUMBERS:
        return None, missing
    known = known.infer_objects()
    dtype = getattr(known.dtype, "numpy_dtype", known.dtype)  # of a nullable type
    values = np.zeros(len(cells), dtype)
    values[~missing] = known.to_numpy(dtype)
    return values, missing


def _rows_of(
    parts: Array | None, holes: NDArray[np.bool_], lengths: Sequence[int], missing: NDArray[np.bool_]
) -> tuple[Array | None, NDArray[np.bool_]]:
    """Lists of numbers of equal length as [rows, n]; a list with a missing number is missing.

    Args:
        parts: the numbers of all lists, one after the other.
        holes: True for missing numbers.
        lengths: of the lists, different ones.
        missing: [rows] bool, True for missing lists.
    """
    if parts is None or parts.dtype.kind not in "iuf" or len(lengths) != 1 or lengths[0] < 1:
        return None, missing
    values, gone = np.zeros((len(missing), lengths[0]), parts.dtype), missing.copy()
    values[~missing], gone[~missing] = parts.reshape(-1, *lengths), holes.reshape(-1, *lengths).any(1)
    return values, gone
