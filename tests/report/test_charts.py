from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.formatting import percent
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart
from worldline.plots.ticks import log_ticks, nice_ticks, zero_ticks
from worldline.report.page import show


def chart(line: ChartLine) -> str:
    return show(LineChart(title="t", alt="what it shows", x_label="step", y_label="loss", lines=[line]))


def points(html: str, style: str) -> list[tuple[float, float]]:
    """The corners of the first path of this class."""
    found = re.search(rf'<path class="{style}" d="([^"]*)"', html)
    corners: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLHV])([\d. -]+)", found[1]):
        values = [float(one) for one in numbers.split()]
        x, y = corners[-1] if corners else (0.0, 0.0)
        corners.append({"H": (values[0], y), "V": (x, values[0])}.get(command, (values[0], values[-1])))
    return corners


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_enclose_and_rise(low: float, size: float, count: int) -> None:
    ticks = nice_ticks(low, low + size, count)
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low + 1e-6 * (size + abs(low))
    assert ticks[-1] >= low + size - 1e-6 * (size + abs(low))
    assert 2 <= len(ticks) <= 2 * count + 2


@given(st.floats(1e-8, 1e6), st.floats(1.0, 1e8))
def test_log_ticks_enclose_and_rise(low: float, factor: float) -> None:
    ticks = log_ticks(low, low * factor)
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low * 1.001
    assert ticks[-1] >= low * factor * 0.999
    assert 2 <= len(ticks) <= 8


def test_a_hair_below_zero_gets_no_axis_of_its_own() -> None:
    assert zero_ticks([-0.001], [2.0])[0] == 0
    assert zero_ticks([-1.0], [2.0])[0] < 0


def test_a_line_goes_through_its_points() -> None:
    html = chart(ChartLine(label="l", style="world", x=[0, 5, 10], y=[0.0, 1.0, 2.0]))
    assert points(html, "line world") == [(0, 1000), (500, 500), (1000, 0)]
    assert 'role="img" aria-label="what it shows"' in html


def test_a_band_surrounds_its_line() -> None:
    html = chart(ChartLine(label="l", style="world", x=[0, 1], y=[1.0, 1.0], low=[0.0, 0.0], high=[2.0, 2.0]))
    assert points(html, "band world") == [(0, 0), (1000, 0), (1000, 1000), (0, 1000)]


def test_long_lines_are_thinned_and_keep_both_ends() -> None:
    count = 5000
    html = chart(ChartLine(label="l", style="world", x=range(count), y=[float(k) for k in range(count)]))
    drawn = points(html, "line world")
    assert len(drawn) <= 401
    assert (drawn[0][0], drawn[-1][0]) == (0, 1000)


def test_dots_and_whiskers_sit_where_the_figures_are() -> None:
    row = Dot(label="<me>", value=0.5, low=0.25, high=0.75, text="half", style="world", target=0.9)
    html = show(IntervalChart(title="t", alt="a", rows=[row], ticks=[0.0, 0.5, 1.0], show=percent))
    assert points(html, "dot world") == [(500, 500), (500, 500)]
    assert points(html, "whisker world") == [(250, 500), (750, 500)]
    assert points(html, "target")[0][0] == 900
    assert "&lt;me&gt;" in html
    assert "<me>" not in html


@pytest.mark.parametrize("beyond", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("equal", [False, True])
def test_what_lies_nowhere_is_left_out(beyond: float, equal: bool) -> None:
    line = ChartLine(label="way", x=(0.0, 1.0, beyond, 3.0), y=(0.0, 1.0, 2.0, 3.0), style="world")
    drawn = show(LineChart(title="t", alt="a", x_label="x", y_label="y", lines=[line], equal=equal))
    assert "nan" not in re.findall(r'd="([^"]*)"', drawn)[-1]
    assert len(re.findall("M", re.findall(r'class="line world" d="([^"]*)"', drawn)[-1])) == 2


def test_the_interactive_chart_has_the_axes_of_the_drawing_and_no_numbers_that_json_lacks() -> None:
    line = ChartLine(label="way", x=(0.0, 1.0), y=(math.nan, 2.0), low=(-math.inf, 1.0), high=(1.0, 3.0), style="world")
    chart = LineChart(title="t", alt="a", x_label="x", y_label="y", lines=[line], now=0.5)
    data = chart.data
    assert (data["x"], data["y"]) == ([0.0, 1.0], [1.0, 3.0])
    assert (data["lines"][0]["y"], data["lines"][0]["low"]) == ([None, 2.0], [None, 1.0])
    assert data["now"] == 0.5
    assert LineChart(title="t", alt="a", x_label="x", y_label="y", lines=[line], equal=True).data is None


def test_a_logarithmic_chart_has_the_same_ticks_with_and_without_script() -> None:
    line = ChartLine(label="loss", x=(0, 1), y=(1.0, 0.0004), style="world")
    chart = LineChart(title="t", alt="a", x_label="x", y_label="", lines=[line], log=True)
    assert chart.data["ticks"] == [[float(y), text] for y, text in chart.y_marks]
    assert [y for y, _ in chart.data["ticks"]] == pytest.approx([1e-4, 1e-3, 0.01, 0.1, 1.0])
