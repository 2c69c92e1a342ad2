"""Reading of CSV files with pandas: delimiter, decimal sign, dates, and numbers with separators of thousands."""

from __future__ import annotations

import csv
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldline.data.array_size import check_size
from worldline.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NULLS = ("", "NaN", "nan", "-nan", "NA", "N/A", "n/a", "#N/A", "NULL", "Null", "null", "None", "none")
"""Spellings of a missing cell; in columns of text only the empty one counts."""
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


def read_csv(file: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """Returns the columns of a CSV file, and a sentence about each column whose numbers had separators of thousands.

    A missing cell is NA; ISO dates and times of day are parsed.

    Raises:
        DataError: a row has more or fewer cells than the header.
        ValueError: the file is no table, or not UTF-8.
    """
    import pandas as pd

    check_size(BYTES_A_CSV_BYTE * file.stat().st_size, "the table", file=file)
    with file.open("rb") as stream:
        head, first = stream.readline(_LINE_BYTES), stream.readline(_LINE_BYTES)
    delimiter = max(",;\t", key=lambda mark: head.count(mark.encode()))
    with file.open(encoding="utf-8-sig", newline="") as lines:
        headers = next(csv.reader(lines, delimiter=delimiter), [])
    if not headers:
        raise ValueError("there is no header")
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
            frame = pd.read_csv(file, na_values=[*NULLS], dtype_backend="numpy_nullable", low_memory=False, **form)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _check_rows(file, delimiter, len(headers))
        raise ValueError(str(error)) from error
    if frame.iloc[:, -1].isna().any():  # pandas fills short rows
        _check_rows(file, delimiter, len(headers))
    texts = [name for name in frame if pd.api.types.is_string_dtype(frame[name].dtype)]
    if any(frame[name].isna().any() for name in texts):  # words such as "none" count as texts there
        frame[texts] = pd.read_csv(file, na_values=[""], dtype=str, usecols=texts, **form)
    columns, notes = [frame[name] for name in frame], dict[str, str]()
    for name in texts:
        columns[name], notes[headers[name]] = _parsed(frame[name], delimiter, form["decimal"])
    return pd.concat(columns, axis=1).set_axis(headers, axis=1), {
        header: note for header, note in notes.items() if note
    }


def _check_rows(file: Path, delimiter: str, width: int) -> None:
    """Raises if a row has more or fewer cells than the header."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=delimiter)
        for row in rows:
            if row and len(row) != width:
                problem = f"line {rows.line_num} has {len(row)} cells, and the header has {width}"
                raise DataError(problem, fix=CSV_FIX, file=file)


def _parsed(cells: pd.Series[Any], delimiter: str, decimal: str) -> tuple[pd.Series[Any], str]:
    """A column of texts as dates, times of day or numbers if all of its texts are such; a sentence about numbers."""
    import pandas as pd

    texts = cells.dropna()
    first = str(texts.iloc[0]) if len(texts) else ""
    with suppress(ValueError):
        if re.fullmatch(_DATE, first):
            return pd.Series(pd.to_datetime(cells, format="ISO8601", utc=True)), ""
        if re.fullmatch(_TIME, first):
            return pd.Series(pd.to_timedelta(cells.where(cells.str.count(":") > 1, cells + ":00"))), ""
    has_commas = delimiter != "," and cells.str.contains(",").any()
    for sign in ",." if decimal == "," or has_commas else ".,":
        if (parsed := _without_separators(cells, sign)) is not None:
            return parsed
    return cells, ""


def _without_separators(cells: pd.Series[Any], sign: str) -> tuple[pd.Series[Any], str] | None:
    """Texts such as "1.900,5" as numbers, with a sentence; None if most texts are no numbers with this decimal sign."""
    import pandas as pd

    texts = pd.Series(cells[~cells.isin(NULLS)].dropna().unique(), dtype=object)
    fits = texts.str.fullmatch(_NUMBERS[sign]).astype(bool)
    if 2 * fits.sum() <= len(texts):
        return None
    plain = texts[fits].str.replace(_SEPARATORS[sign], "", regex=True).str.replace(sign, ".")
    changed = {text: number for text, number in zip(texts[fits], plain, strict=True) if text != number}
    if not changed:
        return cells, ""
    cells = cells.mask(cells.isin(NULLS)).map(lambda text: changed.get(text, text), na_action="ignore")
    text = max(changed, key=len)
    cells = pd.to_numeric(cells).astype("Float64") if fits.all() else cells
    return cells, f"cells such as {text!r} are read as numbers, here as {changed[text]}"
