from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tests.audit.toy_reports import SCHEMA

from worldline.audit.forecast_measurements import sample_forecasts
from worldline.episode import Episode
from worldline.plots.charts import ChartLine, LineChart
from worldline.world.base import World

Worlds = Mapping[str, Callable[..., World]]


def drawn(chart: LineChart, style: str) -> ChartLine:
    """The line of this style."""
    return next(line for line in chart.lines if line.style == style)


def test_sample_forecasts_name_components_and_hold_what_happened(episodes: list[Episode], worlds: Worlds) -> None:
    cases, rivals = {"typical": (episodes[4], 2), "late": (episodes[1], 6)}, {"place": worlds["still"]()}
    place, lengths = [SCHEMA["place"]], {"context": 3, "horizon": 5, "level": 0.8}
    found = sample_forecasts(worlds["exact"](lambda level: level), cases, place, **lengths, rivals=rivals)
    assert {name: [chart.title for chart in charts] for name, charts in found.charts.items()} == {
        "place · x": list(cases),
        "place · y": list(cases),
    }
    for k, charts in enumerate(found.charts.values()):
        true = episodes[4].observations["place"][:8, k].tolist()
        assert drawn(charts[0], "real").y == true
        world = drawn(charts[0], "world")
        assert world.y == pytest.approx(true[2:])
        assert world.low == pytest.approx([true[2], *(value - 0.8 for value in true[3:])])
        assert drawn(charts[0], "soft").y == [true[2]] * 6
        assert charts[0].x_label == "minutes from now"
    late = drawn(found.charts["place · x"][1], "real")
    assert late.y[:3] == episodes[1].observations["place"][4:7, 0].tolist()
    assert late.x[:3] == [-10, -5, 0]
    plain = sample_forecasts(worlds["exact"](), cases, place, **lengths)
    assert (plain.level, plain.has_rival) == (None, False)


def test_a_band_without_an_end_is_not_drawn(episodes: list[Episode], worlds: Worlds) -> None:
    endless, cases = worlds["exact"](lambda level: float("inf")), {"typical": (episodes[4], 2)}
    found = sample_forecasts(endless, cases, [SCHEMA["place"]], context=3, horizon=5, level=0.8)
    assert not any(len(line.low) for charts in found.charts.values() for line in charts[0].lines)
