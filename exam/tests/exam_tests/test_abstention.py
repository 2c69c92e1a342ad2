from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import examine, low_of

from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import verdict_of
from worldline_exam.base import Pool
from worldline_exam.exam_tests.abstention import (
    BLIND,
    COVERAGE_DROP,
    IDENTIFIABLE,
    INFINITE,
    MAX_WIDTH_RATIO,
    UNDRILLED,
    WIDER,
    AbstentionTest,
)
from worldline_exam.labs.fleet import BOATS, DRILLED
from worldline_exam.self_check import Examined

SMALL = {"num_scenes": 90, "num_motors": 8, "num_steps": 6}


@pytest.fixture(scope="module")
def test() -> AbstentionTest:
    return AbstentionTest(**SMALL)


@pytest.fixture(scope="module")
def examined(test: AbstentionTest) -> Examined:
    return examine(test, 0, 130)


def test_small_it_separates(examined: Examined) -> None:
    assert low_of(examined.oracle) > 0.8
    assert verdict_of(examined.oracle) is Verdict.PASS
    # Above 0 only because its bands widen for motors outside the few logged ones; below 0 at full size.
    assert low_of(examined.must_fail[BLIND]) < 0.1
    assert not examined.must_fail[BLIND].conditions[3].met  # its widths mislead
    infinite = examined.must_fail[INFINITE]
    assert low_of(infinite) == 1.0
    assert [one.met for one in infinite.conditions] == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("pool", list(Pool))
def test_it_holds(pool: Pool) -> None:
    for seed in (0, 1):
        found = examine(AbstentionTest(pool=pool), seed, 400)
        assert found.flaws == ()
        gusty = found.must_fail[BLIND].cells[-1].raw
        assert gusty["coverage_observed"] - gusty["coverage_do"] == pytest.approx(COVERAGE_DROP, abs=0.07)


def test_who_abstains_where_nothing_can_be_told_passes(test: AbstentionTest, examined: Examined) -> None:
    """The adjusted regression does not know that it cannot know; with infinite bands for gusty boats it is right."""
    adjusted = examined.references.ceiling
    assert verdict_of(test.grade(examined.scenes, adjusted, examined.references)) is not Verdict.PASS
    honest = {name: value.astype(float).copy() for name, value in adjusted.items()}
    for group in ("do", "seen"):
        honest[f"{group}.low"][..., 5:], honest[f"{group}.high"][..., 5:] = -np.inf, np.inf
    assert verdict_of(test.grade(examined.scenes, honest, examined.references)) is Verdict.PASS


def test_width_does_not_pay_for_a_confounded_slope(test: AbstentionTest, examined: Examined) -> None:
    """Bands that hold nearly all of both groups have the whole score, whatever is in their middle."""
    wide = examined.must_fail[WIDER]
    drilled_scores = [cell.score for cell in wide.cells if cell.name.startswith("drilled")]
    assert all(one is not None and one.value > 0.9 for one in drilled_scores)
    assert [one.met for one in wide.conditions[1:3]] == [False, False]
    undrilled = examined.must_fail[UNDRILLED]
    assert low_of(undrilled) > 0.85
    assert [one.met for one in undrilled.conditions] == [True, True, False, True]


@pytest.mark.parametrize("boat", np.flatnonzero(DRILLED))
def test_a_confounded_slope_in_wide_bands_holds_too_little(test: AbstentionTest, examined: Examined, boat: int) -> None:
    """One boat's slope is wrong, and its bands are as wide as they may be."""
    adjusted = examined.references.ceiling
    found = {name: value.astype(float) for name, value in examined.references.oracle.items()}
    mean = examined.references.must_fail[UNDRILLED]["do.mean"][..., boat].astype(float)
    reach = 0.99 * MAX_WIDTH_RATIO / 2 * np.median(adjusted["do.high"][..., boat] - adjusted["do.low"][..., boat])
    for name, value in (("mean", mean), ("low", mean - reach), ("high", mean + reach)):
        found[f"do.{name}"][..., boat] = value
    grade = test.grade(examined.scenes, found, examined.references)
    assert low_of(grade) > 0.5
    assert [one.met for one in grade.conditions[:3]] == [True, False, True]
    assert BOATS[boat].name in grade.conditions[1].found


def test_bands_may_not_hold_everything_where_the_logs_tell(test: AbstentionTest, examined: Examined) -> None:
    good = {name: value.astype(float) for name, value in examined.references.oracle.items()}
    for times, met in ((1.0, True), (1.5, False), (0.8, False)):
        found = {name: value.copy() for name, value in good.items()}
        for group in ("do", "seen"):
            for edge in ("low", "high"):
                mean, band = good[f"{group}.mean"], good[f"{group}.{edge}"]
                found[f"{group}.{edge}"][..., IDENTIFIABLE] = (mean + times * (band - mean))[..., IDENTIFIABLE]
        assert test.grade(examined.scenes, found, examined.references).conditions[1].met == met


def test_it_notices_what_is_wrong(test: AbstentionTest, examined: Examined) -> None:
    good = {name: value.astype(float) for name, value in examined.references.oracle.items()}

    def of(**wrong: np.ndarray) -> Grade:
        return test.grade(examined.scenes, {**good, **wrong}, examined.references)

    assert verdict_of(of()) is Verdict.PASS
    for shift in ((1, 1), (1, 0), (1, 2)):  # another action, another scene, another boat
        rolled = {name: np.roll(value, *shift) for name, value in good.items() if name.startswith("do.")}
        assert verdict_of(of(**rolled)) is not Verdict.PASS
    never = {name: good[f"{name.split('.')[0]}.mean"] for name in good if not name.endswith("mean")}
    grade = of(**never)  # bands of no width cover both alike
    assert low_of(grade) == 1.0
    assert not grade.conditions[0].met
    assert verdict_of(grade) is Verdict.INCONCLUSIVE
    half = {name: (good[name] + good[f"{name.split('.')[0]}.mean"]) / 2 for name in never if name.startswith("do.")}
    assert verdict_of(of(**half)) is not Verdict.PASS
