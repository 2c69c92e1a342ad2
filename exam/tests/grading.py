"""Logs, references and scores, for the tests of exam tests."""

from __future__ import annotations

import pytest

from worldline.audit.grades import Grade, Score, Verdict
from worldline.audit.verdicts import weakest
from worldline.episode import Episode, History
from worldline.labs.playing import explore
from worldline_exam import self_check
from worldline_exam.base import ExamTest, Pool, Section
from worldline_exam.results import SeedGrade, TestResult
from worldline_exam.self_check import Examined

POOLS = (Pool.REPORT, pytest.param(Pool.DEVELOPMENT, marks=pytest.mark.slow))


def logs_of(test: ExamTest, num: int, num_steps: int | None = None) -> dict[str, list[Episode]]:
    """So many episodes of each of its worlds."""
    labs = [(one, one.make_lab()) for one in test.datasets()]
    return {one.name: [explore(lab, seed, num_steps or one.num_steps) for seed in range(num)] for one, lab in labs}


def examine(test: ExamTest, seed: int, num: int, num_steps: int | None = None) -> Examined:
    """The test with its references, where stored answers are graded like new ones, and with a figure of the oracle."""
    found = self_check.examine(test, seed, logs_of(test, num, num_steps))
    stored = {name: value.copy() for name, value in found.references.oracle.items()}
    assert test.grade(found.scenes, stored, found.references) == found.oracle
    panels = test.figure(found.scenes, stored, found.references).panels
    assert 1 <= len(panels) <= 6
    assert any(line.name.startswith("this world") and line.x for panel in panels for line in panel.lines)
    return found


def scores_of(grade: Grade) -> dict[str, float]:
    """The score of each cell that has one."""
    return {cell.name: cell.score.value for cell in grade.cells if cell.score is not None}


def score_of(grade: Grade) -> Score:
    """The score of the weakest cell."""
    cell = weakest(grade)
    assert cell is not None
    assert cell.score is not None
    return cell.score


def low_of(grade: Grade) -> float:
    """The lower end of its confidence interval."""
    return score_of(grade).low


def split(history: History, at: int) -> tuple[History, History]:
    """The first observations of a history, and the rest with the inputs that lead to it."""

    def part(first: int, last: int | None) -> History:
        seen, given = slice(first, last), slice(max(first - 1, 0), None if last is None else last - 1)
        return History(
            observations={name: value[:, seen] for name, value in history.observations.items()},
            actions={name: value[:, given] for name, value in history.actions.items()},
            observed={name: value[:, seen] for name, value in history.observed.items()},
        )

    return part(0, at), part(at, None)


def result_of(code: str, verdict: Verdict, *trainings: Grade | str, scenes: str = "") -> TestResult:
    """A test by the grade of each training, or by the reason why it has none."""
    seeds = tuple(
        SeedGrade(seed=seed, verdict=Verdict.UNREADABLE, grade=None, reason=one)
        if isinstance(one, str)
        else SeedGrade(seed=seed, verdict=verdict, grade=one)
        for seed, one in enumerate(trainings)
    )
    return TestResult(
        code=code, section=Section.CAUSE, title="", claim="", verdict=verdict, seeds=seeds, oracle=None,
        must_fail={}, flaws=(), floor="", scenes=scenes, elapsed_s=0.0, figure=None,
    )  # fmt: skip
