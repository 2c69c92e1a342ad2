"""Reading of CSV files with pandas, and typed columns of pandas frames."""

from __future__ import annotations

import csv
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.array_size import check_size
from worldline.data.checks import Finding, warning
from worldline.data.formats.reading import Array
from worldline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NULLS = ("", "NaN", "nan", "-nan", "NA", "N/A", "n/a", "#N/A", "NULL", "Null", "null", "None", "none")
"""Spellings of a missing cell in a CSV file; in columns of text only the empty one counts."""
CSV_FIX = "Repair the line, or write the file again in UTF-8, with one header and as many cells in each row."
BYTES_A_CSV_BYTE = 8
"""Memory that a byte of a CSV file takes until it is imported."""

_LINE_BYTES = 1 << 24
_SEPARATORS = {",": r"[.'’ \u00a0\u202f]", ".": r"[,'’ \u00a0\u202f]"}
"""Separators of thousands, by decimal sign."""
_NUMBERS = {
    sign: rf"[+-]?(?:\d+|\d{{1,3}}({marks})\d{{3}}(?:\1\d{{3}})*)(?:[{sign}]\d+)?"
    for sign, marks in _SEPARATORS.items()
}
_DATE, _TIME = r"\d{4}-\d\d-\d\d(?:[T ].*)?", r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?"


def read_csv(file: Path) -> tuple[pd.DataFrame, list[Finding]]:
    """Returns the columns of a CSV file in UTF-8; a missing cell is NA, ISO dates and times of day are parsed.

    So are numbers with separators of thousands, such as "1.900,5"; the findings name their columns.

    Raises:
        DataError: the text is not UTF-8, or a row has more or fewer cells than the header.
        ValueError: the file is no table.
    """
    import pandas as pd

    check_size(BYTES_A_CSV_BYTE * file.stat().st_size, "the table", file=file)
    with file.open("rb") as stream:
        head, first = stream.readline(_LINE_BYTES), stream.readline(_LINE_BYTES)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError("the text is encoded in UTF-16", fix="Save it again in UTF-8.", file=file)
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    headers = _headers(file, delimiter)
    form: dict[str, Any] = {
        "sep": delimiter,
        "header": 0,
        "names": range(len(headers)),
        "index_col": False,
        "decimal": "," if delimiter != "," and re.search(rb"\d,\d", first) else ".",
        "keep_default_na": False,
        "skip_blank_lines": len(headers) > 1,  # with one column, empty lines are missing cells
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # cells beyond the header
            frame = pd.read_csv(
                file,
                na_values=list(NULLS),
                dtype_backend="numpy_nullable",
                low_memory=False,
                **form,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        _check_rows(file, delimiter, len(headers))
        raise
    if frame.iloc[:, -1].isna().any():  # pandas fills short rows
        _check_rows(file, delimiter, len(headers))
    texts = [name for name in frame if pd.api.types.is_string_dtype(frame[name].dtype)]
    if any(frame[name].isna().any() for name in texts):  # words such as "none" count as texts there
        frame[texts] = pd.read_csv(file, na_values=[""], dtype=str, usecols=texts, **form)
    parsed = {
        name: _parsed(frame[name], delimiter, form["decimal"]) if name in texts else (frame[name], "") for name in frame
    }
    fix = "If this is wrong, write its numbers without separators of thousands."
    findings = [
        warning(problem=problem, fix=fix, file=file.name, signal=headers[name])
        for name, (_, problem) in parsed.items()
        if problem
    ]
    return pd.concat([cells for cells, _ in parsed.values()], axis=1).set_axis(headers, axis=1), findings


def _headers(file: Path, delimiter: str) -> list[str]:
    """The cells of the first line; raises if a line is not UTF-8."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.isascii():
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    problem = f"line {number} is not UTF-8 text ({error.reason} at byte {error.start})"
                    raise DataError(problem, fix=CSV_FIX, file=file) from error
    with file.open(encoding="utf-8-sig", newline="") as stream:
        headers = next(csv.reader(stream, delimiter=delimiter), None)
    if not headers:
        raise ValueError("there is no header")
    return headers


def _check_rows(file: Path, delimiter: str, width: int) -> None:
    """Raises if a row has more or fewer cells than the header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=delimiter)
        for row in rows:
            if row and len(row) != width:
                problem = f"line {rows.line_num} has {len(row)} cells, and the header has {width}"
                raise DataError(problem, fix=CSV_FIX, file=file)


def _parsed(cells: pd.Series[Any], delimiter: str, decimal: str) -> tuple[pd.Series[Any], str]:
    """A column of texts; dates, times of day or numbers if all of its texts are such. See `_with_numbers`."""
    import pandas as pd

    texts = cells.dropna()
    first = str(texts.iloc[0]) if len(texts) else ""
    with suppress(ValueError):
        if re.fullmatch(_DATE, first):
            return pd.Series(pd.to_datetime(cells, format="ISO8601", utc=True)), ""
        if re.fullmatch(_TIME, first):
            return pd.Series(pd.to_timedelta(cells.where(cells.str.count(":") > 1, cells + ":00"))), ""
    return _with_numbers(cells, delimiter, decimal)


def _with_numbers(cells: pd.Series[Any], delimiter: str, decimal: str) -> tuple[pd.Series[Any], str]:
    """A column of texts with its numbers without separators of thousands; as numbers if it has no other texts.

    Args:
        cells: texts.
        delimiter: between cells; other ones than a comma suggest decimal commas.
        decimal: decimal sign of the first row.

    Returns:
        The column and a sentence about it; unchanged and empty if most of its texts are no such numbers.
    """
    import pandas as pd

    texts = pd.Series(cells[~cells.isin(NULLS)].dropna().unique(), dtype=object)
    has_commas = delimiter != "," and texts.str.contains(",").any()
    signs = ",." if decimal == "," or has_commas else ".,"
    fits = {sign: texts.str.fullmatch(_NUMBERS[sign]).astype(np.bool_) for sign in signs}
    for sign in signs:
        if 2 * fits[sign].sum() > len(texts):
            known = texts[fits[sign]]
            numbers = known.str.replace(_SEPARATORS[sign], "", regex=True).str.replace(sign, ".")
            if not (changed := {text: number for text, number in zip(known, numbers, strict=True) if text != number}):
                return cells, ""
            cells = cells.mask(cells.isin(NULLS)).map(lambda text: changed.get(text, text), na_action="ignore")
            text = max(changed, key=len)
            cells = pd.to_numeric(cells).astype("Float64") if fits[sign].all() else cells
            return cells, f"cells such as {text!r} are read as numbers, here as {changed[text]}"
    if 2 * (fits[","] | fits["."]).sum() > len(texts):
        return cells, "some numbers have a comma as decimal sign and others a point, so its cells are read as texts"
    return cells, ""


def values_of(cells: pd.Series[Any]) -> tuple[Array | None, NDArray[np.bool_]]:
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
        return _lists(known, missing)
    elif kind not in ("boolean", "integer", "floating", "mixed-integer-float", "timedelta", "timedelta64"):
        return None, missing
    known = known.infer_objects()
    dtype = getattr(known.dtype, "numpy_dtype", known.dtype)  # of a nullable type
    values = np.zeros(len(cells), dtype)
    values[~missing] = known.to_numpy(dtype)
    return values, missing


def _lists(known: pd.Series[Any], missing: NDArray[np.bool_]) -> tuple[Array | None, NDArray[np.bool_]]:
    """Lists of numbers of equal length as [rows, n]; a list with a missing number is missing."""
    lengths = {len(cell) for cell in known}
    parts = np.array(known.tolist()) if len(lengths) == 1 else np.zeros(0, object)
    if parts.dtype.kind not in "iuf" or not parts.size:
        return None, missing
    return rows_of(parts, parts != parts, missing)


def rows_of(parts: Array, holes: NDArray[np.bool_], missing: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """Returns lists as [rows, n], and a mask [rows] of lists that are missing or have a missing number.

    Args:
        parts: [known rows, n].
        holes: [known rows, n] bool, True for missing numbers.
        missing: [rows] bool, True for missing lists.
    """
    values, gone = np.zeros((len(missing), parts.shape[1]), parts.dtype), missing.copy()
    values[~missing], gone[~missing] = parts, holes.any(1)
    return values, gone
