from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from worldline.audit.report_evidence import (
    Decoded,
    DecodedWindow,
    GoalOutcome,
    Planning,
    Series,
    readout_row,
    sample_forecasts,
)
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.stats import Curve, wilson
from worldline.world.base import World


def test_a_plan_has_exactly_one_planner() -> None:
    one = GoalOutcome(name="random", role="floor", all=wilson(1, 10), split={})
    with pytest.raises(InputError, match="expected one outcome"):
        Planning(task="t", outcomes=(one,), plan_ms=None, plan_batched_ms=None)


def test_series_match_their_steps() -> None:
    with pytest.raises(InputError, match="2 steps and 1 values"):
        Series(name="loss", steps=(0, 1), values=(1.0,))
    with pytest.raises(InputError, match="0 steps"):
        Series(name="loss", steps=(), values=())


def test_decoded_frames_match_each_other_and_their_steps() -> None:
    frames, curve = np.zeros((3, 4, 4, 1), np.uint8), Curve(value=(1.0, 2.0), low=(1.0, 2.0), high=(1.0, 2.0))
    with pytest.raises(InputError, match="frames of shape"):
        DecodedWindow(real=frames, drawn=frames[1:])
    window = DecodedWindow(real=frames, drawn=frames)
    with pytest.raises(InputError, match=r"expected 3 frames and errors, one per step, got \[2, 2, 2, 2\]"):
        Decoded(
            camera="camera",
            step_s=None,
            steps=(1, 2, 3),
            windows=(window,),
            num_windows=9,
            num_episodes=3,
            imagined=curve,
            persistence=curve,
            decoder=curve,
            saved=None,
        )


def test_a_readout_row_is_measured() -> None:
    truth, episode = np.random.default_rng(0).normal(size=(100, 2)), np.repeat(np.arange(10), 10)
    row = readout_row("place", "m", truth, truth + 0.5, episode, seed=0)
    assert row.rmse == pytest.approx(0.5)
    assert row.r2 is not None
    assert row.r2.low < row.r2.value < row.r2.high
    assert readout_row("place", "m", np.ones((100, 2)), truth, episode, seed=0).r2 is None


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
