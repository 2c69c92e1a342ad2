from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from worldline.audit.forecast_measurements import sample_forecasts
from worldline.episode import Episode
from worldline.world.base import World


def test_sample_forecasts_name_components_and_hold_what_happened(
    episodes: list[Episode], worlds: Mapping[str, Callable[..., World]]
) -> None:
    cases, rivals = {"typical": (episodes[4], 2), "late": (episodes[1], 6)}, {"place": worlds["still"]()}
    found = sample_forecasts(
        worlds["exact"](lambda level: level), cases, context=3, horizon=5, level=0.8, rivals=rivals
    )
    parts = [(sample.case, sample.signal, sample.component) for sample in found.samples]
    assert parts == [(case, "place", part) for case in cases for part in "xy"]
    for k, sample in enumerate(found.samples[:2]):
        place = episodes[4].observations["place"][:, k]
        assert sample.past == tuple(map(float, place[:3]))
        assert sample.real == tuple(map(float, place[3:8]))
        assert sample.mean == pytest.approx(sample.real)
        assert sample.low == pytest.approx([value - 0.8 for value in sample.mean])
        assert sample.rival == (sample.past[-1],) * 5
    assert found.samples[2].past == tuple(map(float, episodes[1].observations["place"][4:7, 0]))
    assert found.step_s == 300.0
    plain = sample_forecasts(worlds["exact"](), cases, context=3, horizon=5, level=0.8)
    assert (plain.samples[0].low, plain.samples[0].rival) == (None, ())


def test_a_band_without_an_end_is_not_drawn(
    episodes: list[Episode], worlds: Mapping[str, Callable[..., World]]
) -> None:
    endless = worlds["exact"](lambda level: float("inf"))
    found = sample_forecasts(endless, {"typical": (episodes[4], 2)}, context=3, horizon=5, level=0.8)
    assert [(one.low, one.high) for one in found.samples] == [(None, None), (None, None)]
