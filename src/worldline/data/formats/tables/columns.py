"""Reading of CSV and Parquet files into typed columns with masks of missing cells."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, warning
from worldline.data.formats.parquet_size import check_parquet
from worldline.data.formats.reading import UNREADABLE, Array, converted, duplicate, natural
from worldline.data.formats.tables.frames import CSV_FIX, read_csv, rows_of, values_of
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE_SUFFIXES = (".csv", ".parquet")
MAX_COLUMNS = 4096

_UNIT = re.compile(r"^(?P<name>.*\S)\s*(\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))$")
_PARQUET_FIX = "Write the file again; it may be truncated or damaged."
BYTES_A_CELL = 32
"""Memory that a number or text in a Parquet file takes at least until it is imported."""


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
        DataError: it cannot be read; the message names the line or column.
        MissingExtraError: the package pyarrow is not installed.
    """
    if file.suffix.lower() == ".csv":
        with converted("the file cannot be read", fix=CSV_FIX, file=file, errors=(csv.Error, *UNREADABLE)):
            frame, findings = read_csv(file)
            named = (replace(finding, signal=name_and_unit(str(finding.signal))[0]) for finding in findings)
            return table_of(frame, file, [*named, *_cut(file)])
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    with converted("the file cannot be read", fix=_PARQUET_FIX, file=file, errors=(pa.ArrowException, *UNREADABLE)):
        return table_of(_read_parquet(file), file)


def table_of(raw: pa.Table | pd.DataFrame, file: Path, findings: Iterable[Finding] = ()) -> ColumnTable:
    """Returns the typed columns of a table.

    Args:
        raw: an Arrow table or a pandas frame.
        file: its path or name.
        findings: of reading it.

    Raises:
        DataError: two columns have the same name, a text is not UTF-8, or there are more than `MAX_COLUMNS`.
    """
    headers = list(raw.column_names if hasattr(raw, "column_names") else map(str, raw.columns))
    if len(headers) > MAX_COLUMNS:
        fix = "Keep the columns that the world needs; a picture or a spectrum belongs in one array (.npz, HDF5)."
        raise DataError(f"the table has {len(headers)} columns, and the limit is {MAX_COLUMNS}", fix=fix, file=file)
    columns = [_column(header, cells, file) for header, cells in zip(headers, _cells(raw), strict=True)]
    noticed = list(findings)
    for number, header in enumerate(headers, 1):
        if not _clean(header):
            problem = f"column {number} has no name and is left out"
            noticed.append(warning(problem=problem, fix="If it is a signal, name it.", file=file.name))
    kept = {column.name: column for column in _distinct([c for c in columns if isinstance(c, Column) and c.name], file)}
    noticed += [column for column in columns if isinstance(column, Finding)]
    return ColumnTable(file=file, num_rows=len(raw), columns=kept, findings=tuple(noticed))


def as_numbers(column: Column) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Parses texts as numbers; also returns a mask [rows] of texts that are not numbers, without missing cells.

    Args:
        column: of texts.
    """
    import pandas as pd

    texts = pd.Series(column.values, dtype=object).where(~column.missing, "0")
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    bad = np.isnan(numbers) & ~column.missing
    return np.where(bad, 0.0, numbers), bad


def _read_parquet(file: Path) -> pa.Table:
    from pyarrow import parquet

    with parquet.ParquetFile(file, page_checksum_verification=True) as reader:
        check_parquet(reader, file, copies=8, least_bytes=BYTES_A_CELL)
        table = reader.read()
    table.validate(full=True)
    return table


def _clean(header: str) -> str:
    """Returns the header as a signal name, without slashes and leading dots."""
    return re.sub(r"[/\\\0]", ".", header).strip().lstrip(".")


def name_and_unit(header: str) -> tuple[str, str | None]:
    """Returns name and unit of a header; only the name is cleaned, since units may have slashes."""
    if (parts := _UNIT.match(header.strip())) and (name := _clean(parts["name"])):
        unit = (parts["square"] or parts["round"]).strip()
        if not unit.isdigit():  # "joint[2]" has an index, not a unit
            return name, unit
    return _clean(header), None


def _cells(raw: Any) -> list[Any]:
    """The columns of an Arrow table or of a pandas frame, whose names may repeat."""
    return list(raw.columns) if hasattr(raw, "column_names") else [raw.iloc[:, k] for k in range(raw.shape[1])]


def _column(header: str, cells: Any, file: Path) -> Column | Finding:
    """Returns the column, or a warning if no signal can hold its type."""
    kind, (values, missing) = (
        (cells.type, _values(cells)) if hasattr(cells, "type") else (cells.dtype, values_of(cells))
    )
    name, unit = name_and_unit(header)
    if values is None:
        fix = "If it is a signal, write it as numbers, texts or times."
        problem = f"the column has the unsupported type {kind} and is left out"
        return warning(problem=problem, fix=fix, file=file.name, signal=name)
    return Column(name=name, header=header, unit=unit, values=values, missing=missing)


def _values(cells: pa.ChunkedArray) -> tuple[Array | None, NDArray[np.bool_]]:
    """As `values_of`, for a column of Arrow."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import types

    kind = cells.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(cells, cells.is_null().to_numpy().astype(np.bool_))
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_nested(kind):
        return None, np.zeros(0, np.bool_)
    if types.is_dictionary(kind):
        return _values(cells.cast(kind.value_type))
    if types.is_decimal(kind):
        cells = cells.cast(pa.float64())
    elif types.is_time(kind):
        ticks = cells.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
        cells = ticks.cast(pa.int64()).cast(pa.duration(kind.unit))
    has_gaps = types.is_integer(kind) or types.is_boolean(kind)  # NumPy cannot mark their missing cells
    return values_of(cells.to_pandas(types_mapper=pd.ArrowDtype if has_gaps else None, date_as_object=False))


def _lists(cells: Any, missing: NDArray[np.bool_]) -> tuple[Array | None, NDArray[np.bool_]]:
    """Lists of numbers of equal length as [rows, n]; a list with a missing number is missing."""
    from pyarrow import compute, types

    kind = cells.type.value_type
    lengths = compute.list_value_length(cells).drop_null().unique().to_pylist()
    if not (types.is_integer(kind) or types.is_floating(kind)) or len(lengths) != 1 or lengths[0] < 1:
        return None, missing
    parts, holes = _values(compute.list_flatten(cells))
    assert parts is not None
    return rows_of(parts.reshape(-1, *lengths), holes.reshape(-1, *lengths), missing)


def _cut(file: Path) -> Iterator[Finding]:
    """Yields a warning if the last line has no line end, since its last cell may have lost digits."""
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        if stream.read(1) not in (b"\n", b"\r"):
            problem = "the last line has no line end; the file may be truncated and its last value wrong"
            fix = "Compare it with the original; if it is complete, add a line end."
            yield warning(problem=problem, fix=fix, file=file.name)


def _distinct(columns: Sequence[Column], file: Path) -> list[Column]:
    """Returns the columns; if names are equal without their units, the headers become the names."""
    counts = Counter(column.name for column in columns)
    own = [c if counts[c.name] == 1 else replace(c, name=_clean(c.header), header=_clean(c.header)) for c in columns]
    if twice := duplicate(column.name for column in own):
        headers = ", ".join(repr(column.header) for column in columns if _clean(column.header) == twice)
        problem = f"the columns {headers} would all get the name {twice!r}"
        raise DataError(problem, fix="Give each column a unique name.", file=file, signal=twice)
    return own
