"""Results of an exam: one per test, and their summary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from worldline.audit import Cell, Grade, Score, Verdict, holm, is_undefined, p_value, verdict_of, weakest, worst
from worldline.config import to_json
from worldline.episode import Arrays
from worldline_exam.base import ExamTest, Section
from worldline_exam.figures import ExamFigure
from worldline_exam.self_check import Examined


@dataclass(frozen=True, kw_only=True)
class SeedGrade:
    """Verdict and grade of one training.

    Args:
        seed: seed of the training; 0 if nothing is trained.
        verdict: verdict of this training.
        grade: scores and conditions; None if there are none, as in a void test.
        reason: why there is no grade; empty otherwise.
    """

    seed: int
    verdict: Verdict
    grade: Grade | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Result of a subject in one test.

    Args:
        code: code of the test, such as "C1".
        section: section of the test.
        title: title of the test.
        claim: what a pass means.
        verdict: worst verdict of the trainings.
        seeds: one entry for each training.
        oracle: grade of the oracle; None if the test failed before.
        must_fail: grades of the must-fail models, by name.
        flaws: why the test is void; empty if it is valid.
        floor: name of the trivial baseline that scores 0; empty if the test defines another zero.
        scenes: sha256 of the scenes.
        elapsed_s: wall time of queries and grading, s.
        figure: figure of the first training with answers; None if there is none.
    """

    __test__ = False  # keeps pytest from collecting it

    code: str
    section: Section
    title: str
    claim: str
    verdict: Verdict
    seeds: tuple[SeedGrade, ...]
    oracle: Grade | None = None
    must_fail: Mapping[str, Grade] = field(default_factory=dict)
    flaws: tuple[str, ...] = ()
    floor: str = ""
    scenes: str = ""
    elapsed_s: float = 0.0
    figure: ExamFigure | None = None


@dataclass(frozen=True, kw_only=True)
class ExamResult:
    """Result of a subject in an exam.

    Args:
        subject: title of the subject.
        facts: details in order: recipe, parameters, seeds, machine, versions.
        command: command line that repeats the exam.
        tests: results ordered by code.
    """

    subject: str
    facts: Mapping[str, str]
    command: str
    tests: tuple[TestResult, ...]

    @property
    def passed(self) -> tuple[str, ...]:
        """Codes of the tests that every training passes, by Holm's method with a family-wise error rate of 5 %."""
        return holm({test.code: worst_p_value(test) for test in self.tests})

    @property
    def failed_to_grade(self) -> tuple[str, ...]:
        """Codes of the tests that ended in an error."""
        return tuple(test.code for test in self.tests if test.verdict is Verdict.ERROR)


def result(
    test: ExamTest, examined: Examined, answers: Mapping[int, Arrays | SeedGrade], elapsed_s: float
) -> TestResult:
    """The result of a test, including bootstrap draws of its scores.

    Args:
        test: the test.
        examined: its scenes and references.
        answers: answers by training seed, or the reason why there are none.
        elapsed_s: wall time so far, s.
    """
    seeds = [_graded(test, examined, seed, answer) for seed, answer in answers.items()]
    shown = next((answer for answer in answers.values() if not isinstance(answer, SeedGrade)), None)
    return replace(
        _with(test, seeds),
        oracle=examined.oracle,
        must_fail=examined.must_fail,
        flaws=examined.flaws,
        floor=examined.references.floor_name,
        scenes=digest(examined.scenes),
        elapsed_s=round(elapsed_s, 1),
        figure=None if shown is None else test.figure(examined.scenes, shown, examined.references),
    )


def broken(test: ExamTest, seeds: Sequence[int], reason: str) -> TestResult:
    """The result of a test that raised an error: neither a pass nor a fail."""
    return unasked(test, seeds, Verdict.ERROR, reason)


def unasked(test: ExamTest, seeds: Sequence[int], verdict: Verdict, reason: str) -> TestResult:
    """The result of a test that was not run, with this verdict for every training."""
    return _with(test, [SeedGrade(seed=seed, verdict=verdict, grade=None, reason=reason) for seed in seeds])


def _with(test: ExamTest, seeds: Sequence[SeedGrade]) -> TestResult:
    return TestResult(
        code=test.code,
        section=test.section,
        title=test.title,
        claim=test.claim,
        verdict=worst([seed.verdict for seed in seeds]),
        seeds=tuple(seeds),
    )


def worst_p_value(one: TestResult) -> float:
    """The largest p-value of all trainings; 1 if the verdict is not PASS."""
    grades = [seed.grade for seed in one.seeds]
    if one.verdict is not Verdict.PASS:
        return 1.0
    return max(p_value(grade) for grade in grades if grade is not None)


def is_fully_graded(one: TestResult) -> bool:
    """Whether every training has a score in every part that requires one."""
    return all(
        seed.grade is not None and weakest(seed.grade) is not None and not any(map(is_undefined, seed.grade.cells))
        for seed in one.seeds
    )


def deciding_part(one: TestResult) -> Cell | None:
    """The scored part with the smallest lower end; parts whose whole interval is at most 0 take precedence."""
    cells = [(cell, cell.score) for seed in one.seeds if seed.grade for cell in seed.grade.cells if cell.score]
    failed = [(cell, score) for cell, score in cells if score.high <= 0]
    return min(failed or cells, key=lambda pair: pair[1].low)[0] if cells else None


def is_any_graded(tests: Sequence[TestResult]) -> bool:
    """Whether any training of any test has a grade. Without one, a count of passes has no meaning."""
    return any(seed.grade is not None for test in tests for seed in test.seeds)


def section_weakest(tests: Sequence[TestResult], section: Section) -> tuple[TestResult, Score] | None:
    """The test of a section with the smallest lower end and that score; None if no test has a score."""
    lowest = []
    for test in tests:
        cells = [weakest(seed.grade) for seed in test.seeds if seed.grade is not None]
        scores = [cell.score for cell in cells if cell is not None and cell.score is not None]
        if test.section is section and scores:
            lowest.append((test, min(scores, key=lambda score: score.low)))
    return min(lowest, key=lambda pair: pair[1].low) if lowest else None


def without_draws(one: TestResult) -> TestResult:
    """The result without bootstrap draws, which are not stored."""
    return replace(
        one,
        seeds=tuple(replace(seed, grade=seed.grade and _bare(seed.grade)) for seed in one.seeds),
        oracle=one.oracle and _bare(one.oracle),
        must_fail={name: _bare(grade) for name, grade in one.must_fail.items()},
    )


def same_figures(one: TestResult, other: TestResult) -> bool:
    """Whether two stored results are identical bit for bit, except for their figures."""
    return to_json(replace(one, figure=None)) == to_json(replace(other, figure=None))


def digest(arrays: Arrays) -> str:
    """sha256 of the names, dtypes, shapes and bytes of arrays."""
    hasher = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hasher.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def _graded(test: ExamTest, examined: Examined, seed: int, answers: Arrays | SeedGrade) -> SeedGrade:
    if examined.flaws:
        return SeedGrade(seed=seed, verdict=Verdict.VOID, grade=None, reason="; ".join(examined.flaws))
    if isinstance(answers, SeedGrade):
        return answers
    grade = test.grade(examined.scenes, answers, examined.references)
    return SeedGrade(seed=seed, verdict=verdict_of(grade), grade=grade)


def _bare(grade: Grade) -> Grade:
    cells = (replace(cell, score=cell.score and replace(cell.score, draws=())) for cell in grade.cells)
    return replace(grade, cells=tuple(cells))
