import datetime as dt
import decimal
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from worldline.data.checks import Severity
from worldline.data.formats.tables.columns import read_table, tables_in
from worldline.errors import DataError, MissingExtraError


def write(folder, text, name="a.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_columns_have_types_units_and_masks(tmp_path):
    lines = ["t,x [m],air (degC),on,mode,q[0],group/y", "0,1.5,,true,a,1,2", "1,,3,,b,2,3", "2,NaN,4,False,,2,4"]
    table = read_table(write(tmp_path, "\n".join(lines) + "\n"))
    assert [(c.name, c.unit, c.values.dtype.kind) for c in table.columns.values()] == [
        ("t", None, "i"),
        ("x", "m", "f"),
        ("air", "degC", "i"),
        ("on", None, "b"),
        ("mode", None, "O"),
        ("q[0]", None, "i"),
        ("group.y", None, "i"),
    ]
    assert table.columns["x"].missing.tolist() == [False, True, True]
    assert table.columns["on"].missing.tolist() == [False, True, False]
    assert table.columns["mode"].missing.tolist() == [False, False, True]
    assert (table.num_rows, table.findings) == (3, ())


def test_csv_dates_and_words_for_missing_cells_are_read_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    lines = ["at,clock,valve", "2024-05-31T12:00:00.25Z,1:05,None", "2024-06-01 00:00Z,1:06,", ",1:07,shut"]
    at, clock, valve = read_table(write(tmp_path, "\n".join(lines) + "\n")).columns.values()
    assert at.values[:2].astype("M8[ms]").tolist() == [
        dt.datetime(2024, 5, 31, 12, 0, 0, 250_000),
        dt.datetime(2024, 6, 1),
    ]
    assert at.missing.tolist() == [False, False, True]
    assert (clock.values / np.timedelta64(1, "m")).tolist() == [65, 66, 67]
    assert (valve.values.tolist(), valve.missing.tolist()) == (["None", "", "shut"], [False, True, False])
    with pytest.raises(MissingExtraError, match="pyarrow"):
        read_table(write(tmp_path, "", "a.parquet"))


def test_parquet_columns_of_every_kind(tmp_path):
    columns = {
        "list": pa.array([[1.0, 2.0], None, [3.0, None]]),
        "fixed": pa.array([[1, 2], [3, 4], [3, 5]], pa.list_(pa.int32(), 2)),
        "stamp": pa.array([1, None, 3], pa.timestamp("us", tz="UTC")),
        "word": pa.array(["a", "b", None]).dictionary_encode(),
        "decimal": [decimal.Decimal("1.5")] * 3,
        "flag": [True, None, False],
        "struct": [{"a": 1}] * 3,
        "clock": [dt.time(1, 2)] * 3,
        "byte": pa.array([1, None, 3], pa.uint8()),
        "bytes": [b"1"] * 3,
        "ragged": [[1.0], [1.0, 2.0], []],
        "nothing": pa.nulls(3),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert {finding.signal for finding in table.findings} == {"struct", "bytes", "ragged"}
    assert all(finding.severity is Severity.WARNING for finding in table.findings)
    kinds = {name: (column.values.dtype.str[1:], column.missing.tolist()) for name, column in table.columns.items()}
    assert kinds == {
        "list": ("f8", [False, True, True]),
        "fixed": ("i4", [False, False, False]),
        "stamp": ("M8[us]", [False, True, False]),
        "word": ("O", [False, False, True]),
        "decimal": ("f8", [False, False, False]),
        "flag": ("b1", [False, True, False]),
        "clock": ("m8[us]", [False, False, False]),
        "byte": ("u1", [False, True, False]),
        "nothing": ("O", [True, True, True]),
    }
    assert table.columns["fixed"].values.tolist() == [[1, 2], [3, 4], [3, 5]]


@pytest.mark.parametrize(("text", "said"), [
    ("a,b\n1,2\n3,4,5\n", "line 3, saw 3"),
    ("a,b\n1,2,3\n4,5,6\n", "Length of header or names does not match length of data"),
    ("a,b,a\n1,2,3\n", "the columns 'a', 'a' would all get the name 'a'"),
    (b"a,b\n1,x\n2,\xff\n", "'utf-8' codec can't decode byte 0xff.*write the file again in UTF-8"),
    (b"a\xff,b\n1,2\n", "'utf-8' codec can't decode byte 0xff"),
    ("", "cannot be read"),
    ("a,b".encode("utf-16"), "write the file again in UTF-8"),
    ("x [m],x (m),x [m] \n1,2,3\n", "all get the name"),
])  # fmt: skip
def test_a_damaged_csv_names_the_place(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as caught:
        read_table(write(tmp_path, text))
    assert "a.csv" in str(caught.value)


def test_names_that_differ_by_unit_alone_keep_their_headers(tmp_path):
    table = read_table(write(tmp_path, "air [g/m3],air [K]\n1,2\n"))
    assert [(c.name, c.unit) for c in table.columns.values()] == [("air [g.m3]", "g/m3"), ("air [K]", "K")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_units_are_kept_exactly_and_names_lose_their_slashes(tmp_path, suffix):
    units = {"arm/speed": "m/s", "inflow": "m3/s", "pump": "l/min", "share": "1/1", "path": "a\\b", "dot": ".5 N"}
    headers = [f"{name} [{unit}]" for name, unit in units.items()] + ["[m/s]", "gain ( dB/m )"]
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        write(tmp_path, ",".join(headers) + "\n" + ",".join("1" for _ in headers) + "\n")
    else:
        parquet.write_table(pa.table({header: [1.0] for header in headers}), path)
    found = {column.name: column.unit for column in read_table(path).columns.values()}
    due = {name.replace("/", "."): unit for name, unit in units.items()}
    assert found == due | {"[m.s]": None, "gain": "dB/m"}


def test_a_line_without_an_end_and_a_column_without_a_name_are_warned_of(tmp_path):
    table = read_table(write(tmp_path, ",a\n0,1.5\n1,1.2"))
    assert list(table.columns) == ["a"]
    assert [f.severity for f in table.findings] == [Severity.WARNING] * 2
    assert "no line end" in str(table.findings[0])
    assert "column 1 has no name" in str(table.findings[1])


def test_empty_lines_of_a_single_column_are_missing_cells(tmp_path):
    assert read_table(write(tmp_path, "a\n1\n\n3\n")).columns["a"].missing.tolist() == [False, True, False]
    assert read_table(write(tmp_path, "a,b\n1,2\n\n3,4\n")).num_rows == 2


def test_semicolons_and_quoted_lines(tmp_path):
    table = read_table(write(tmp_path, 'a;b\n1;"x\ny"\n2;z\n'))
    assert table.columns["b"].values.tolist() == ["x\ny", "z"]


def test_tables_in_a_folder_are_sorted_and_hidden_files_left(tmp_path):
    for name in ("b.CSV", "a.parquet", ".c.csv", "d.txt"):
        write(tmp_path, "a\n1\n", name)
    assert [file.name for file in tables_in(tmp_path)] == ["a.parquet", "b.CSV"]
    assert tables_in(tmp_path / "d.txt") == []


@pytest.mark.parametrize(("text", "values", "problem"), [
    ("p [bar];q\n1.900,5;1\n950,25;2\n-1.234.567;3\nNA;4\n", [1900.5, 950.25, -1234567, None], "'-1.234.567'"),
    ("p;q\n950;1\n7,5;2\n", [950, 7.5], "'7,5' are read as numbers, here as 7.5"),
    ("p;q\n1,5;1.900\n", [1.5], "'1.900' are read as numbers, here as 1900"),
    ('p,q\n"1,900.5",1\n"2,000",2\n', [1900.5, 2000], "'1,900.5' are read as numbers, here as 1900.5"),
    ("p;q\n1 900,5;1\n2\u00a0000;2\n3’000;3\n", [1900.5, 2000, 3000], "here as 1900.5"),
    ("p;q\n1.900,5;1\n1,900.5;2\n", ["1.900,5", "1,900.5"], ""),
    ("p;q\n01.02.2024;1\n192.168.1.10;2\n1.2.3;3\n1,5;4\n", ["01.02.2024", "192.168.1.10", "1.2.3", "1,5"], ""),
    ("p;q\n1.900;1\nerr;2\n2.755;3\n", ["1.900", "err", "2.755"], ""),
])  # fmt: skip
def test_separators_of_thousands(tmp_path, text, values, problem):
    table = read_table(write(tmp_path, text))
    column = table.columns["p"]
    expected = [0 if value is None else value for value in values]
    assert column.values.tolist() == expected
    assert column.missing.tolist() == [value is None for value in values]
    assert [problem in finding.problem for finding in table.findings] == ([True] if problem else [])
