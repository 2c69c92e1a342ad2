"""What came of an exam: one result a test, and what all of them say together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from worldline.audit import Cell, Grade, Score, Verdict, holm, is_undefined, p_value, verdict_of, weakest, worst
from worldline.config import to_json
from worldline.episode import Arrays
from worldline_exam.base import ExamTest, Section
from worldline_exam.figures import ExamFigure
from worldline_exam.self_check import Examined


@dataclass(frozen=True, kw_only=True)
class SeedGrade:
    """What one training seed reached.

    Args:
        seed: of the training; 0 where nothing is trained.
        verdict: of it.
        grade: None where there is none, as in a void test.
        reason: why there is none; empty otherwise.
    """

    seed: int
    verdict: Verdict
    grade: Grade | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What one test says of a sitter.

    Args:
        code: of the test, such as "C1".
        section: of the test.
        title: of the test.
        claim: what passing means.
        verdict: the worst of the seeds.
        seeds: one for each training.
        oracle: grade of the oracle; None where the test broke before.
        must_fail: grades of the models that must fail.
        flaws: why the test is void; empty where it holds.
        floor: name of the trivial model that scores 0; empty where the test has a floor of its own.
        scenes: hash of what was asked, sha256.
        elapsed_s: wall time of asking and grading.
        figure: the picture, of the first seed that was graded; None where none was.
    """

    __test__ = False  # no test of pytest's

    code: str
    section: Section
    title: str
    claim: str
    verdict: Verdict
    seeds: tuple[SeedGrade, ...]
    oracle: Grade | None
    must_fail: Mapping[str, Grade]
    flaws: tuple[str, ...]
    floor: str
    scenes: str
    elapsed_s: float
    figure: ExamFigure | None


@dataclass(frozen=True, kw_only=True)
class ExamResult:
    """What an exam says of a sitter.

    Args:
        subject: its name.
        facts: small print, in order: recipe, parameters, seeds, machine, versions.
        command: that repeats the exam.
        tests: in the order of their codes.
    """

    subject: str
    facts: Mapping[str, str]
    command: str
    tests: tuple[TestResult, ...]

    @property
    def passed(self) -> tuple[str, ...]:
        """Codes of the tests that are passed by every seed, by Holm over all tests: wrong about any in 5 % of exams."""
        return holm({one.code: worst_p_value(one) for one in self.tests})

    @property
    def failed_to_grade(self) -> tuple[str, ...]:
        """Codes of the tests that ended in an error."""
        return tuple(one.code for one in self.tests if one.verdict is Verdict.ERROR)


def result(
    test: ExamTest, examined: Examined, answers: Mapping[int, Arrays | SeedGrade], elapsed_s: float
) -> TestResult:
    """The result of a test, with the draws of its scores.

    Args:
        test: which.
        examined: its scenes and references.
        answers: per training seed, or what there is instead.
        elapsed_s: wall time so far.
    """
    seeds = tuple(_graded(test, examined, seed, one) for seed, one in answers.items())
    shown = next((one for one in answers.values() if not isinstance(one, SeedGrade)), None)
    return TestResult(
        code=test.code,
        section=test.section,
        title=test.title,
        claim=test.claim,
        verdict=worst([one.verdict for one in seeds]),
        seeds=seeds,
        oracle=examined.oracle,
        must_fail=examined.must_fail,
        flaws=examined.flaws,
        floor=examined.references.floor_name,
        scenes=digest(examined.scenes),
        elapsed_s=round(elapsed_s, 1),
        figure=None if shown is None else test.figure(examined.scenes, shown, examined.references),
    )


def broken(test: ExamTest, seeds: Sequence[int], reason: str) -> TestResult:
    """The result of a test that could not be generated or graded: an error, and neither a fail nor a pass."""
    return unasked(test, seeds, Verdict.ERROR, reason)


def unasked(test: ExamTest, seeds: Sequence[int], verdict: Verdict, reason: str) -> TestResult:
    """The result of a test that was not asked, with this verdict for every training."""
    rows = tuple(SeedGrade(seed=seed, verdict=verdict, grade=None, reason=reason) for seed in seeds)
    return TestResult(
        code=test.code,
        section=test.section,
        title=test.title,
        claim=test.claim,
        verdict=verdict,
        seeds=rows,
        oracle=None,
        must_fail={},
        flaws=(),
        floor="",
        scenes="",
        elapsed_s=0.0,
        figure=None,
    )


def worst_p_value(one: TestResult) -> float:
    """Of all seeds; 1 where any has no PASS."""
    grades = [seed.grade for seed in one.seeds]
    if one.verdict is not Verdict.PASS:
        return 1.0
    return max(p_value(grade) for grade in grades if grade is not None)


def is_fully_graded(one: TestResult) -> bool:
    """Whether every training has scores, and none is missing in a part that should have one."""
    return all(
        seed.grade is not None and weakest(seed.grade) is not None and not any(map(is_undefined, seed.grade.cells))
        for seed in one.seeds
    )


def deciding_part(one: TestResult) -> Cell | None:
    """The weakest scored part of all trainings: among those that are surely not above the floor, if there are any."""
    cells = [(cell, cell.score) for seed in one.seeds if seed.grade for cell in seed.grade.cells if cell.score]
    failed = [(cell, score) for cell, score in cells if score.high <= 0]
    return min(failed or cells, key=lambda pair: pair[1].low)[0] if cells else None


def is_any_graded(tests: Sequence[TestResult]) -> bool:
    """Whether any training of any test has a grade; else a count of what is passed would say nothing."""
    return any(seed.grade is not None for one in tests for seed in one.seeds)


def section_weakest(tests: Sequence[TestResult], section: Section) -> tuple[TestResult, Score] | None:
    """The test of a section with the smallest lower end, and that score; None where none was scored."""
    found = []
    for one in tests:
        cells = [weakest(seed.grade) for seed in one.seeds if seed.grade is not None]
        scores = [cell.score for cell in cells if cell is not None and cell.score is not None]
        if one.section is section and scores:
            found.append((one, min(scores, key=lambda score: score.low)))
    return min(found, key=lambda pair: pair[1].low) if found else None


def without_draws(one: TestResult) -> TestResult:
    """The result as it is stored."""
    return replace(
        one,
        seeds=tuple(replace(seed, grade=seed.grade and _bare(seed.grade)) for seed in one.seeds),
        oracle=one.oracle and _bare(one.oracle),
        must_fail={name: _bare(grade) for name, grade in one.must_fail.items()},
    )


def same_figures(one: TestResult, other: TestResult) -> bool:
    """Whether two results as they are stored are the same to the bit, whatever picture is drawn."""
    return to_json(replace(one, figure=None)) == to_json(replace(other, figure=None))


def digest(arrays: Arrays) -> str:
    """sha256 of arrays: their names, types, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


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
