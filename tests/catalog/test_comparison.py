from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from worldline.catalog.comparison import (
    MIN_SCORED,
    ForecastOutcome,
    ShadowRecord,
    ShadowVerdict,
    block_interval,
    compare,
    read_records,
)
from worldline.errors import ConfigError


def records(difference: float, size: int = 400, seed: int = 0) -> list[ShadowRecord]:
    """Calls in which the candidate's error is larger by `difference` of what a signal moves, with noise."""
    draw = np.random.default_rng(seed)
    noise = 0.3 * np.convolve(draw.standard_normal(size + 3), np.ones(4) / 2, "valid")
    return [
        ShadowRecord(
            at="now",
            verb="plan",
            serving_s=0.002,
            candidate_s=0.004,
            outcomes={
                "heat": ForecastOutcome(
                    serving=50.0, candidate=50.0 + 100.0 * float(difference + noise[number]), change=100.0,
                    inside_serving=1.0, inside_candidate=float(number % 2),
                )
            },
        )
        for number in range(size)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(-0.2, ShadowVerdict.BETTER), (0.2, ShadowVerdict.WORSE), (0.0, ShadowVerdict.NO_DIFFERENCE)],
)
def test_the_verdict_on_a_known_difference(difference: float, verdict: ShadowVerdict) -> None:
    found = compare(records(difference), serving=2, candidate=3)
    assert found.verdict is verdict
    assert found.low is not None
    assert found.high is not None
    assert found.low <= difference <= found.high
    assert found.serving_error == pytest.approx(0.5)
    assert found.difference == pytest.approx(difference, abs=0.1)
    assert (found.serving_coverage, found.candidate_coverage) == (1.0, 0.5)
    assert (found.serving_s, found.candidate_s) == (0.002, 0.004)
    assert "95 % interval" in found.reason


def test_too_few_calls_tell_nothing() -> None:
    found = compare(records(5.0, MIN_SCORED - 1), serving=1, candidate=2)
    assert (found.verdict, found.low) == (ShadowVerdict.TOO_FEW, None)
    assert found.reason == "99 scored calls of 99; 100 are needed"
    assert compare(records(5.0, MIN_SCORED), serving=1, candidate=2).verdict is ShadowVerdict.WORSE
    short = [replace(one, outcomes={}, unscored="too short") for one in records(5.0, 200)]
    found = compare(short, serving=1, candidate=2)
    assert found.reason.startswith("0 scored calls of 200; 100 are needed; ")
    assert found.reason.endswith("last unscored call: too short")
    nothing = compare([], serving=1, candidate=2)
    assert (nothing.verdict, nothing.difference, nothing.serving_s) == (ShadowVerdict.TOO_FEW, None, None)


def test_one_failure_is_worse_than_any_error() -> None:
    better = records(-0.4)
    better[7] = replace(better[7], candidate_s=None, error="RuntimeError: out of luck", outcomes={})
    found = compare(better, serving=1, candidate=2)
    assert (found.verdict, found.num_failed) == (ShadowVerdict.WORSE, 1)
    assert found.reason == "it failed on 1 of 400 calls; last error: RuntimeError: out of luck"
    assert found.high is not None
    assert found.high < 0


def test_calls_that_were_left_out_are_counted() -> None:
    some = [replace(one, dropped=2) for one in records(0.0, 5)]
    assert compare(some, serving=1, candidate=2).num_dropped == 10


def test_signals_count_alike_whatever_their_unit_and_still_ones_not_at_all() -> None:
    def one(change: float, serving: float, candidate: float) -> ForecastOutcome:
        return ForecastOutcome(
            serving=serving, candidate=candidate, change=change, inside_serving=None, inside_candidate=None
        )

    outcomes = {"pascal": one(1e5, 1e5, 2e5), "share": one(1e-3, 2e-3, 1e-3), "still": one(0.0, 1.0, 9.0)}
    found = compare([replace(records(0.0, 1)[0], outcomes=outcomes)], serving=1, candidate=2)
    assert found.serving_error == found.candidate_error == pytest.approx(1.5)
    assert found.serving_coverage is None
    still = compare([replace(records(0.0, 1)[0], outcomes={"still": outcomes["still"]})], serving=1, candidate=2)
    assert still.num_scored == 0


def test_equal_seeds_give_equal_intervals() -> None:
    values = np.random.default_rng(0).standard_normal(300)
    assert block_interval(values, seed=1) == block_interval(values, seed=1)
    assert block_interval(np.zeros(100), seed=0).high == 0.0


@pytest.mark.parametrize("dependence", [1, 4])
def test_the_interval_holds_the_mean_as_often_as_it_says(dependence: int) -> None:
    draw, held = np.random.default_rng(2), 0
    for _ in range(300):
        series = np.convolve(draw.standard_normal(400 + dependence - 1), np.ones(dependence), "valid")
        found = block_interval(series, seed=0)
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_records_come_back(tmp_path: Path) -> None:
    path = tmp_path / "prod-1-2.jsonl"
    assert read_records(path) == ()
    due = (*records(0.1, 3), ShadowRecord(at="t", verb="plan", serving_s=1.0, candidate_s=None, error="E: no"))
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in due))
    assert read_records(path) == due


@pytest.mark.parametrize("line", ['{"at": "t"', '{"at": "t", "verb": 3, "serving_s": 1.0, "candidate_s": null}', "[]"])
def test_damaged_records_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prod-1-2.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"prod-1-2\.jsonl.*Remove the file"):
        read_records(path)
