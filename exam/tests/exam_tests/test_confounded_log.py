from __future__ import annotations

import numpy as np
import pytest
from exam.tests.grading import POOLS, examine, low_of

from worldline.audit.grades import Grade, Verdict
from worldline.audit.verdicts import verdict_of
from worldline_exam.exam_tests.confounded_log import BLIND, SCORED, ConfoundedLogTest
from worldline_exam.labs.fleet import BOATS
from worldline_exam.self_check import Examined


@pytest.fixture(scope="module", params=POOLS)
def test(request: pytest.FixtureRequest) -> ConfoundedLogTest:
    return ConfoundedLogTest(pool=request.param, num_scenes=100, num_steps=10)


@pytest.fixture(scope="module")
def examined(test: ConfoundedLogTest) -> Examined:
    return examine(test, 0, 100)


def test_it_holds(examined: Examined, test: ConfoundedLogTest) -> None:
    assert (examined.flaws, verdict_of(examined.oracle)) == ((), Verdict.PASS)
    assert verdict_of(examined.must_fail[BLIND]) in (Verdict.FAIL, Verdict.INCONCLUSIVE)
    adjusted = test.grade(examined.scenes, examined.references.ceiling, examined.references)
    assert low_of(adjusted) > 0.85


def test_the_slope_of_the_log_is_the_one_in_closed_form(examined: Examined) -> None:
    for cell in examined.oracle.cells:
        assert cell.raw["b_obs"] == pytest.approx(cell.raw["b_obs_closed_form"], abs=0.25)
        assert cell.raw["b_hat"] == pytest.approx(cell.raw["b"], abs=1e-4)


def test_what_the_logs_do_not_tell_counts_neither_for_nor_against(examined: Examined, test: ConfoundedLogTest) -> None:
    good = examined.references.oracle
    silent = {cell.name: cell for cell in examined.oracle.cells if cell.score is None}
    assert list(silent) == ["gusty_60", "gusty_90"]
    assert all(cell.note.startswith("NOT IDENTIFIABLE") for cell in silent.values())
    for fooled in (
        examined.must_fail[BLIND],
        test.grade(examined.scenes, examined.references.ceiling, examined.references),
    ):
        for cell in (one for one in fooled.cells if one.name in silent):
            assert cell.raw["b_hat"] == pytest.approx(cell.raw["b_obs"], abs=0.2)  # nobody does better than the log
    means = good["do.mean"].copy()
    means[..., [number for number, boat in enumerate(BOATS) if boat.name in silent]] *= -3
    wrong = test.grade(examined.scenes, {**good, "do.mean": means}, examined.references)
    assert verdict_of(wrong) is verdict_of(examined.oracle) is Verdict.PASS
    assert wrong.cells[-1].raw["b_hat"] == pytest.approx(-3 * silent["gusty_90"].raw["b_hat"], abs=1e-4)


def test_half_of_the_way_is_a_half(examined: Examined, test: ConfoundedLogTest) -> None:
    scenes = examined.scenes
    for boat, cell in zip(SCORED, examined.oracle.cells, strict=False):
        slope = (cell.raw["b"] + cell.raw["b_obs"]) / 2
        means = examined.references.oracle["do.mean"].copy()
        means[..., boat] = slope * scenes["do.motors"][..., boat]
        grade = test.grade(scenes, {**examined.references.oracle, "do.mean": means}, examined.references)
        found = next(one.score for one in grade.cells if one.name == BOATS[boat].name)
        assert found is not None
        assert found.value == pytest.approx(0.5, abs=1e-3)


def test_it_notices_what_is_wrong(examined: Examined, test: ConfoundedLogTest) -> None:
    scenes, good = examined.scenes, examined.references.oracle

    def of(means: np.ndarray) -> Grade:
        return test.grade(scenes, {**good, "do.mean": means}, examined.references)

    means = good["do.mean"]
    for wrong in (
        np.roll(means, 1, axis=1),  # another action of the scene
        np.roll(means, 1, axis=0),  # another scene
        np.roll(means, 1, axis=2),  # another boat
        np.zeros_like(means),
        -means,
    ):
        assert low_of(of(wrong)) < 0.3
        assert verdict_of(of(wrong)) is not Verdict.PASS
    plain = means.copy()
    plain[..., 0] *= 0.7  # the boat that nobody leaned
    assert low_of(of(plain)) > 0.9
    assert verdict_of(of(plain)) is Verdict.PARTIAL
