"""What the tests of an exam say together."""

import pytest
from exam.tests.grading import result_of

from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline_exam.results import ExamResult, TestResult, worst_p_value


def outcome(code: str, *p_values: float, verdict: Verdict = Verdict.PASS) -> TestResult:
    """A test whose trainings all have scores of a PASS, with these chances of no better than a half."""
    grades = [
        Grade(cells=(Cell(name="all", score=Score(value=0.8, low=0.7, high=0.9, surely=0.6, p_half=p)),))
        for p in p_values
    ]
    return result_of(code, verdict, *grades)


def passed(*tests: TestResult) -> tuple[str, ...]:
    return ExamResult(subject="vectors", facts={}, command="", tests=tests).passed


@pytest.mark.parametrize("p_values", [(0.0005, 0.04), (0.04, 0.0005)])
def test_a_test_is_passed_only_where_its_worst_training_holds_over_all_tests(p_values: tuple[float, float]) -> None:
    mixed, failed = outcome("C1", *p_values), outcome("C3", 0.0005, verdict=Verdict.PARTIAL)
    assert (worst_p_value(mixed), worst_p_value(failed)) == (0.04, 1.0)
    assert passed(mixed, outcome("C2", 0.0005, 0.0005), failed) == ("C2",)
    assert passed(mixed) == ("C1",), "taken alone"
