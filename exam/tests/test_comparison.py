"""Comparing exams whose every loss is known."""

from dataclasses import replace

import numpy as np
import pytest
from exam.tests.grading import result_of
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.audit.grades import Cell, Grade, Verdict
from worldline.audit.scoring import skill_cell
from worldline.errors import InputError
from worldline.stats import draw_clusters
from worldline_exam.comparison import ExamComparison, compared
from worldline_exam.results import TestResult

SCENES = 60
GATED = Cell(name="still", score=None, note="gated: it does not move")


def outcome(*trainings: list[Cell] | str, scenes: str = "abc", code: str = "C1") -> TestResult:
    """The result of a test from the cells of each training, or the reason why there are none."""
    graded = (one if isinstance(one, str) else Grade(cells=tuple(one)) for one in trainings)
    return result_of(code, Verdict.PASS, *graded, scenes=scenes)


def block(loss: np.ndarray, name: str = "block") -> Cell:
    return skill_cell(name, loss, np.ones(len(loss)))


def losses(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.0, 1.0, shape)


def of(ours: TestResult, theirs: TestResult, trainings: tuple[int, int] | None = None) -> ExamComparison:
    return compared({"C1": ours}, {"C1": theirs}, trainings)


@settings(max_examples=12)
@given(seed=st.integers(0, 99), trainings=st.integers(1, 4))
def test_of_many_trainings_it_is_that_of_their_mean_losses_with_scenes_drawn_whole(seed: int, trainings: int) -> None:
    ours, theirs = losses(seed, 2, trainings, SCENES)
    (found,) = of(outcome(*([block(x)] for x in ours)), outcome(*([block(x)] for x in theirs))).differences
    saved = (theirs - ours).mean(0)  # every floor is 1: the difference is the mean of what is saved
    low, high = np.quantile(draw_clusters(SCENES, 0) @ saved / SCENES, (0.025, 0.975), method="inverted_cdf")
    again = {1: 0.0, 2: 12.7062, 3: 4.30265, 4: 3.18245}[trainings]  # Student's t at 97.5 %, from the tables
    if trainings > 1:
        again *= (theirs - ours).mean(1).std(ddof=1) / np.sqrt(trainings)
    mean = saved.mean()
    due = (mean, mean - np.hypot(mean - low, again), mean + np.hypot(high - mean, again))
    np.testing.assert_allclose((found.value, found.low, found.high), due, rtol=2e-4, atol=2e-6)
    assert found.pairs == tuple((one, one) for one in range(trainings))


def test_trainings_that_are_copies_make_the_interval_no_narrower() -> None:
    ours, theirs = losses(1, 2, SCENES)
    once = of(outcome([block(ours)]), outcome([block(theirs)])).differences[0]
    often = of(outcome(*[[block(ours)]] * 5), outcome(*[[block(theirs)]] * 5)).differences[0]
    np.testing.assert_allclose((once.low, once.high), (often.low, often.high))


def test_trainings_that_differ_make_it_as_wide_as_so_few_of_them_tell() -> None:
    """In every scene the same, so that training is the only chance: mean 0.2, deviation 0.1, two degrees of freedom."""
    theirs, better = losses(1, SCENES) + 1, (0.1, 0.2, 0.3)
    (found,) = of(outcome(*([block(theirs - x)] for x in better)), outcome(*[[block(theirs)]] * 3)).differences
    half = 4.30265 * 0.1 / np.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half), rel=1e-3)
    assert found.includes_zero
    (alone,) = of(outcome([block(theirs - 0.1)]), outcome([block(theirs)])).differences
    assert (alone.low, alone.high) == pytest.approx((0.1, 0.1), abs=2e-6)  # of one, nothing is known of others


def test_a_training_against_another_of_the_same_exam() -> None:
    base = losses(2, SCENES)
    sign = np.resize([1.0, -1.0], SCENES)  # exactly as much better as worse
    exam = outcome([block(base)], [block(base + 0.05 * sign)], [block(base + 0.05)])
    (again,) = of(exam, exam, (0, 1)).differences
    assert again.value == pytest.approx(0.0, abs=1e-6)
    assert again.includes_zero
    assert again.low < 0 < again.high
    (worse,) = of(exam, exam, (0, 2)).differences
    assert (worse.value, worse.low, worse.high) == pytest.approx((0.05, 0.05, 0.05), abs=2e-6)
    assert not worse.includes_zero
    (back,) = of(exam, exam, (2, 0)).differences
    assert back.value == pytest.approx(-worse.value)
    assert of(exam, exam).differences[0].value == 0.0
    with pytest.raises(InputError, match="no training 7"):
        of(exam, exam, (0, 7))


def test_what_only_one_has_is_named_and_the_common_trainings_are_compared() -> None:
    ours = outcome([block(losses(3, SCENES)), block(losses(4, SCENES), "pusher"), GATED], [block(losses(5, SCENES))])
    theirs = outcome([block(losses(6, SCENES)), block(losses(7, SCENES), "still")], [GATED], [block(losses(8, SCENES))])
    found = of(ours, theirs)
    assert [(one.cell, one.pairs) for one in found.differences] == [("block", ((0, 0),))]
    named = {(one.cell, one.pair): (one.ours, one.theirs) for one in found.unpaired}
    assert named == {
        ("pusher", (0, 0)): ("", "no such part"),
        ("still", (0, 0)): (GATED.note, ""),
        ("block", (1, 1)): ("", "no such part"),
        ("still", (1, 1)): ("no such part", GATED.note),
    }


def test_a_training_or_a_test_without_a_grade_is_named() -> None:
    cells = [block(losses(9, SCENES))]
    found = of(outcome(cells, "no camera"), outcome(cells, cells))
    assert [one.pairs for one in found.differences] == [((0, 0),)]
    assert [(u.cell, u.ours, u.theirs, u.pair) for u in found.unpaired] == [("", "UNREADABLE: no camera", "", (1, 1))]
    found = compared({"C1": outcome(cells), "C2": outcome(cells, code="C2")}, {"C1": outcome(cells)})
    assert [(one.code, one.ours, one.theirs) for one in found.unpaired] == [("C2", "", "not run")]


def test_a_draw_that_tells_nothing_widens_both_ends() -> None:
    rare = np.zeros(SCENES)
    rare[0] = 1.0  # in more than a third of the draws this scene is missing, and nothing can be told
    found = of(outcome([skill_cell("block", 0 * rare, rare)]), outcome([skill_cell("block", rare, rare)]))
    (one,) = found.differences
    assert (one.value, one.low, one.high) == (1.0, -np.inf, np.inf)


def test_what_cannot_be_paired_is_refused() -> None:
    cells = [block(losses(10, SCENES))]
    with pytest.raises(InputError, match="different scenes"):
        of(outcome(cells), outcome(cells, scenes="other"))
    with pytest.raises(InputError, match="no test in common"):
        compared({"C1": outcome(cells)}, {"C2": outcome(cells, code="C2")})


def test_scores_above_another_floor_or_of_another_question_are_not_compared() -> None:
    """As those of T4 in vectors and in pictures, whose scenes are the same; another processor may round."""
    base = losses(3, SCENES)

    def exam(oracle: float, *must_fail: str) -> TestResult:
        def grade(value: float) -> Grade:
            return Grade(cells=(block(np.full(SCENES, 1 - value)), GATED))

        failing = {name: grade(0.1) for name in must_fail}
        return replace(outcome([block(base)]), oracle=grade(oracle), must_fail=failing)

    of(exam(0.95, "copy"), exam(0.953, "copy"))
    for other in (exam(0.99, "copy"), exam(0.95, "copy", "persistence")):
        with pytest.raises(InputError, match="C1 was graded against different references"):
            of(exam(0.95, "copy"), other)
