import datetime as dt

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldline.data.formats.tables.columns import read_table
from worldline.data.formats.tables.timestamps import read_times, time_names
from worldline.errors import DataError


def times_of(folder, header, cells, asked=None):
    rows = [",".join(map(str, cell)) if isinstance(cell, tuple) else f"{cell},0" for cell in cells]
    file = folder / "a.csv"
    file.write_text("\n".join([header if "," in header else f"{header},x", *rows]) + "\n")
    return read_times(read_table(file), asked)


@pytest.mark.parametrize(("header", "cells", "seconds", "start_s", "said"), [
    ("time", [0, 0.5, 1.25], [0, 0.5, 1.25], 0, "read as seconds"),
    ("Time [ms]", [0, 20, 50], [0, 0.02, 0.05], 0, "times in ms, the unit of its header"),
    ("time_us", [0, 20, 50], [0, 2e-5, 5e-5], 0, "times in us, the unit of its header"),
    ("t", [1.7e9, 1.7e9 + 0.5], [0, 0.5], 1.7e9, "s since 1970"),
    ("timestamp", [1700000000000, 1700000000020], [0, 0.02], 1.7e9, "ms since 1970"),
    ("timestamp", [1700000000000000, 1700000000000020], [0, 2e-5], 1.7e9, "us since 1970"),
    ("timestamp", [1700000000000000000, 1700000000000000020], [0, 2e-8], 1.7e9, "ns since 1970"),
    ("datetime", ["2024-01-01T00:00:00", "2024-01-01T00:00:00.25"], [0, 0.25], 1704067200, "dates"),
    ("date", ["2024/01/01 00:00", "2024/01/01 00:01"], [0, 60], 1704067200, "dates"),
    ("when", ["2024-01-01T01:00:00+01:00", "2024-01-01T00:01:00Z"], [0, 60], 1704067200, "dates"),
    ("Date", ["30.03.2025 23:59", "31.03.2025 00:01"], [0, 120], 1743379140, "read as dates."),
    ("Date", ["3/30/2025 11:59 PM", "3/31/2025 12:01 AM"], [0, 120], 1743379140, "read as dates."),
    ("Date", ["11.03.2025 23:59", "12.03.2025 00:01"], [0, 120], 1741737540, "dates, day first"),
    ("time", ["2025-03-30T01:59:00+01:00", "2025-03-30T03:00:00+02:00"], [0, 60], 1743296340, "dates"),
    ("time", ["23:59:00", "23:59:30"], [86340, 86370], 0, "times of day"),
])  # fmt: skip
def test_seconds(tmp_path, header, cells, seconds, start_s, said):
    times = times_of(tmp_path, header, cells)
    np.testing.assert_allclose(times.seconds, seconds, rtol=1e-12, atol=0)
    assert times.start_s == pytest.approx(start_s)
    assert said in times.assumption


def test_a_capital_t_is_a_temperature(tmp_path):
    assert times_of(tmp_path, "T", [20.0, 21.0]) is None
    assert times_of(tmp_path, "t", [20.0, 21.0]).seconds.tolist() == [20.0, 21.0]


def test_a_date_and_a_time_of_day_belong_together(tmp_path):
    times = times_of(tmp_path, "date,time", [("2024-01-01", "23:59:59"), ("2024-01-02", "00:00:01")])
    assert times.seconds.tolist() == [0, 2]
    assert times.is_date


def test_missing_times_are_nan(tmp_path):
    for cells in ([0, "", 2], [0, "soon", 2], ["2024/01/01 00:00", "soon", "2024/01/01 00:01"]):
        assert np.isnan(times_of(tmp_path, "time", cells).seconds).tolist() == [False, True, False]


def test_the_likeliest_name_comes_first_and_others_are_known(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("date,clock_ms,x,time\n2024-01-01,1,2,3\n")
    assert time_names(read_table(file).columns) == ["time", "date", "clock_ms"]
    assert read_times(read_table(file), "clock_ms").name == "clock_ms"


@pytest.mark.parametrize(("cells", "asked", "said"), [
    ([0, 1], "when", "no column of times 'when'"),
    (["2024/01/01 00:00", "soon", "later"], None, "row 1 .* 'soon'"),
    (["2024/01/01 00:00", "2024-01-01T00:00:00Z"], None, "zone"),
    (["true", "false"], None, "neither numbers nor dates"),
])  # fmt: skip
def test_what_is_no_time_is_refused(tmp_path, cells, asked, said):
    with pytest.raises(DataError, match=said):
        times_of(tmp_path, "time", cells, asked)


def test_no_column_of_times(tmp_path):
    assert times_of(tmp_path, "position", [0, 1]) is None


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.datetimes(dt.datetime(1975, 1, 1), dt.datetime(2100, 1, 1)),
    micros=st.lists(st.integers(0, 10**12), min_size=1, max_size=10),
)
def test_dates_keep_their_differences_to_the_microsecond(tmp_path_factory, start, micros):
    stamps = [(start + dt.timedelta(microseconds=m)).isoformat(timespec="microseconds") for m in [0, *micros]]
    times = times_of(tmp_path_factory.mktemp("times"), "time", stamps)
    assert np.round(times.seconds * 1e6).astype(int).tolist() == [0, *micros]
