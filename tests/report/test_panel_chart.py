from __future__ import annotations

import re

import numpy as np

from worldline.plots.signal_chart import signal_chart, time_axis
from worldline.report.page import show
from worldline.report.store_page import still
from worldline.schema import Kind, Role, Signal

AXIS = time_axis(4, 0.5)
HEIGHT = Signal(name="height<", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m", components=("a", "b"))


def paths(html: str, style: str) -> list[str]:
    return re.findall(rf'<path class="{style}" d="([^"]*)"', html)


def test_curves_gaps_and_their_words() -> None:
    values = np.array([[0.0, 1.0]] * 5)
    observed = np.array([True, True, False, True, False])
    html = show(signal_chart(HEIGHT, values, observed, AXIS))
    (first,) = paths(html, "line world")
    assert first.count("M") == 2
    assert first.startswith("M0.0 1000.0L250.0 1000.0")
    assert html.count('class="gap"') == 2
    assert "nan" not in html
    assert "height&lt; [m]" in html
    assert "40.0\u00a0% missing" in html
    assert "a 0 to 0\u00a0m; b 1 to 1\u00a0m" in html
    assert ">a</span>" in html


def test_nothing_observed_is_said() -> None:
    html = show(signal_chart(HEIGHT, np.zeros((5, 2)), np.zeros(5, bool), AXIS))
    assert "not observed" in html
    assert paths(html, "line world") == [""]


def test_a_missing_frame_keeps_its_shape() -> None:
    assert "aspect-ratio:7/5" in show(still(None, (5, 7, 3), "a", "0 s"))
    assert 'class="pixels"' in show(still(np.zeros((5, 7, 1), np.uint8), (5, 7, 1), "a", "0 s"))
    assert 'class="photo"' in show(still(np.zeros((500, 7, 4), np.uint8), (500, 7, 4), "a", "0 s"))


def test_names_of_a_discrete_signal_are_its_axis() -> None:
    mode = Signal(name="mode", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2, components=("off", "on"))
    html = show(signal_chart(mode, np.array([0, 1, 1, 0]), np.ones(4, bool), AXIS))
    assert ">off</span>" in html
    assert '"ticks": [[0.0, "off"], [1.0, "on"]]' in html
