"""Reading of CSV files, Parquet files and frames into typed columns with masks of missing cells."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import check_parquet, check_size
from worldline.data.checks import Finding, warning
from worldline.data.formats.reading import UNREADABLE, Array, converted, duplicate, natural
from worldline.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE_SUFFIXES = (".csv", ".parquet")
MAX_COLUMNS = 4096
MAX_TEXT_BYTES = 10_000
"""A column of a Parquet file with a longer text is left out: it is neither a level nor a label."""
BYTES_A_CSV_BYTE, BYTES_A_CELL = 8, 32
"""Memory that a byte of a CSV file, and a number or text in a Parquet file, takes at least until it is imported."""
NULLS = ("", "NaN", "nan", "-nan", "NA", "N/A", "n/a", "#N/A", "NULL", "Null", "null", "None", "none")
"""Spellings of a missing cell in a CSV file; in columns of text only the empty one counts."""

_CSV_FIX = "Repair the line, or write the file again in UTF-8, with one header and as many cells in each row."
_LINE_BYTES = 1 << 24
_UNIT = re.compile(r"^(?P<name>.*\S)\s*(\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))$")
_DATE, _TIME = r"\d{4}-\d\d-\d\d(?:[T ].*)?", r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?"
_SEPARATORS = {",": r"[.'’ \u00a0\u202f]", ".": r"[,'’ \u00a0\u202f]"}
"""Separators of thousands, by decimal sign."""
_NUMBERS = {
    sign: rf"[+-]?(?:\d+|\d{{1,3}}({marks})\d{{3}}(?:\1\d{{3}})*)(?:[{sign}]\d+)?"
    for sign, marks in _SEPARATORS.items()
}


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
        findings: warnings about unused columns and parsed texts.
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
    problem = "the file cannot be read"
    if file.suffix.lower() == ".csv":
        with converted(problem, fix=_CSV_FIX, file=file, errors=(csv.Error, Warning, *UNREADABLE)):
            return table_of(*_read_csv(file))
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    with converted(problem, file=file, errors=(pa.ArrowException, *UNREADABLE)):
        # A text that is repeated in many rows takes the memory of one.
        texts = [field.name for field in parquet.read_schema(file) if str(field.type) in ("string", "large_string")]
        with parquet.ParquetFile(file, page_checksum_verification=True, read_dictionary=texts) as reader:
            check_parquet(reader, file, copies=8, least_bytes=BYTES_A_CELL)
            table = reader.read()
        table.validate(full=True)
        return table_of(table, file)


def _read_csv(file: Path) -> tuple[pd.DataFrame, Path, list[Finding]]:
    """Reads a CSV file with pandas: a missing cell is NA; ISO dates and times of day are parsed."""
    import pandas as pd

    check_size(BYTES_A_CSV_BYTE * file.stat().st_size, "the table", file=file)
    headers, form, is_whole = _form(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header
        frame = pd.read_csv(file, na_values=[*NULLS], dtype_backend="numpy_nullable", low_memory=False, **form)
    texts = [name for name in frame if pd.api.types.is_string_dtype(frame[name].dtype)]
    if any(frame[name].isna().any() for name in texts):  # words such as "none" count as texts there
        frame[texts] = pd.read_csv(file, na_values=[""], dtype=str, usecols=texts, **form)
    columns, findings = [frame[name] for name in frame], list[Finding]()
    for name in texts:
        has_commas = form["decimal"] == "," or (form["sep"] != "," and frame[name].str.contains(",").any())
        columns[name], problem = _parsed(frame[name], ",." if has_commas else ".,")
        if problem:
            fix, signal = "If this is wrong, write its numbers without separators of thousands.", headers[name]
            findings.append(warning(problem=problem, fix=fix, file=file.name, signal=name_and_unit(signal)[0]))
    if not is_whole:
        problem = "the last line has no line end; the file may be truncated and its last value wrong"
        fix = "Compare it with the original; if it is complete, add a line end."
        findings.append(warning(problem=problem, fix=fix, file=file.name))
    return pd.concat(columns, axis=1).set_axis(headers, axis=1), file, findings


def _form(file: Path) -> tuple[list[str], dict[str, Any], bool]:
    """Returns the headers of a CSV file, the options with which pandas reads it, and whether its last line ends."""
    with file.open("rb") as stream:
        head, first = stream.readline(_LINE_BYTES), stream.readline(_LINE_BYTES)
        stream.seek(-min(1, file.stat().st_size), 2)
        is_whole = stream.read() in b"\r\n"
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    with file.open(encoding="utf-8-sig", newline="") as lines:
        headers = next(csv.reader(lines, delimiter=delimiter), [])
    if not headers:
        raise ValueError("there is no header")
    _check_width(headers, file)
    form = {
        "sep": delimiter,
        "header": 0,
        "names": range(len(headers)),
        "index_col": False,
        "decimal": "," if delimiter != "," and re.search(rb"\d,\d", first) else ".",
        "keep_default_na": False,
        "skip_blank_lines": len(headers) > 1,  # with one column, empty lines are missing cells
    }
    return headers, form, is_whole


def _parsed(cells: pd.Series[Any], signs: str) -> tuple[pd.Series[Any], str]:
    """A column of texts as dates, times of day or numbers if all of its texts are such; a sentence about numbers.

    Args:
        cells: texts.
        signs: possible decimal signs; the separators of thousands, as in "1.900,5", follow from them.
    """
    import pandas as pd

    texts = pd.Series(cells[~cells.isin(NULLS)].dropna().unique(), dtype=object)
    first = str(texts.iloc[0]) if len(texts) else ""
    with suppress(ValueError):
        if re.fullmatch(_DATE, first):
            return pd.Series(pd.to_datetime(cells, format="ISO8601", utc=True)), ""
        if re.fullmatch(_TIME, first):
            return pd.Series(pd.to_timedelta(cells.where(cells.str.count(":") > 1, cells + ":00"))), ""
    fits = {sign: texts.str.fullmatch(_NUMBERS[sign]).astype(bool) for sign in signs}
    sign = next((sign for sign in signs if 2 * fits[sign].sum() > len(texts)), None)
    known = texts[fits[sign]] if sign is not None else texts[:0]
    plain = known.str.replace(_SEPARATORS[sign or "."], "", regex=True).str.replace(sign or ".", ".")
    changed = {text: number for text, number in zip(known, plain, strict=True) if text != number}
    if not changed:
        return cells, ""
    cells = cells.mask(cells.isin(NULLS)).map(lambda text: changed.get(text, text), na_action="ignore")
    cells = pd.to_numeric(cells).astype("Float64") if len(known) == len(texts) else cells
    text = max(changed, key=len)
    return cells, f"cells such as {text!r} are read as numbers, here as {changed[text]}"


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
    _check_width(headers, file)
    columns, noticed = dict[str, Column](), list(findings)
    for number, (name, unit) in enumerate(_names(headers, file)):
        cells: Any = raw.column(number) if is_arrow else raw.iloc[:, number]
        values, missing = _of_arrow(cells) if is_arrow else _of_pandas(cells)
        if not name or values is None:
            kind = cells.type if is_arrow else cells.dtype
            kind = f"text of more than {MAX_TEXT_BYTES} bytes" if "dictionary" in str(kind) else kind
            problem = f"the column has the unsupported type {kind}" if name else f"column {number + 1} has no name"
            fix = "If it is a signal, write it as numbers, texts or times, with a name."
            noticed.append(warning(problem=f"{problem} and is left out", fix=fix, file=file.name, signal=name or None))
        else:
            columns[name] = Column(name=name, header=headers[number], unit=unit, values=values, missing=missing)
    return ColumnTable(file=file, num_rows=len(raw), columns=columns, findings=tuple(noticed))


def _check_width(headers: Sequence[str], file: Path) -> None:
    """Checks the number of columns."""
    if len(headers) > MAX_COLUMNS:
        fix = "Keep the columns that the world needs; a picture or a spectrum belongs in one array (.npz, HDF5)."
        raise DataError(f"the table has {len(headers)} columns, and the limit is {MAX_COLUMNS}", fix=fix, file=file)


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
    if types.is_dictionary(kind) and _longest(cells) > MAX_TEXT_BYTES:
        return None, np.zeros(len(cells), np.bool_)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        lengths = compute.list_value_length(cells).drop_null().unique().to_pylist()
        return _rows_of(*_of_arrow(compute.list_flatten(cells)), lengths, cells.is_null().to_numpy().astype(np.bool_))
    has_gaps = types.is_integer(kind) or types.is_boolean(kind)  # NumPy cannot mark their missing cells
    return _of_pandas(cells.to_pandas(types_mapper=pd.ArrowDtype if has_gaps else None, date_as_object=False))


def _longest(cells: pa.ChunkedArray) -> int:
    """The bytes of the longest text in a column with a dictionary; 0 if it holds no texts."""
    from pyarrow import compute, types

    if not (types.is_string(cells.type.value_type) or types.is_large_string(cells.type.value_type)):
        return 0
    return max((compute.max(compute.binary_length(chunk.dictionary)).as_py() or 0 for chunk in cells.chunks), default=0)


def _of_pandas(cells: pd.Series[Any]) -> tuple[Array | None, NDArray[np.bool_]]:
    """Returns the values of a column, and a mask of missing ones; None instead of values for an unsupported type."""
    import pandas as pd

    if isinstance(cells.dtype, pd.CategoricalDtype):
        kind = cells.cat.categories.dtype
        cells = cells.astype(object if pd.api.types.is_string_dtype(kind) else kind)  # objects share repeated texts
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
        return _rows_of(parts, parts != parts, list(set(map(len, known))), missing)
    elif kind not in ("boolean", "integer", "floating", "mixed-integer-float", "timedelta", "timedelta64"):
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
