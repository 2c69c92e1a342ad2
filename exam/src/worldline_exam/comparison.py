"""Paired comparison of two exams: score differences in the same scenes with confidence intervals.

The intervals cover two sources of variance. Scenes: a bootstrap draw takes the same scenes for both subjects and all
their trainings, and averages the difference over trainings. Trainings: retraining changes scores more than scenes do.
Few trainings are too few to resample, so Student's t gives their interval. A single pair of trainings has an interval
over scenes only.

Source of the combined interval: Zou and Donner 2008, "Construction of confidence limits about effect measures: a
general approach".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Final

import numpy as np

from worldline.audit import Score
from worldline.errors import InputError
from worldline.stats import student_quantile
from worldline_exam.results import SeedGrade, TestResult

TAIL: Final = 0.025
"""Chance that a difference lies below its interval, and that it lies above."""
SCORE_TOLERANCE: Final = 0.01
"""Largest score difference of the same reference models that rounding on other processors explains."""

Pair = tuple[int, int]
"""Training seeds: one of ours, one of theirs."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Score difference of two subjects in one part of a test.

    Args:
        code: code of the test.
        cell: name of the part.
        pairs: pairs of trainings over which the difference is averaged.
        value: difference, ours minus theirs.
        low: lower end of the 95 % interval over scenes and, for two or more pairs, over trainings.
        high: upper end.
    """

    code: str
    cell: str
    pairs: tuple[Pair, ...]
    value: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether the interval includes 0."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """A test or part that was not compared because a subject has no score in it.

    Args:
        code: code of the test.
        cell: name of the part; empty for the whole test.
        ours: why our subject has no score; empty if it has one.
        theirs: why their subject has no score; empty if it has one.
        pair: the trainings; None for a test that only one exam ran.
    """

    code: str
    cell: str
    ours: str
    theirs: str
    pair: Pair | None = None


@dataclass(frozen=True, kw_only=True)
class ExamComparison:
    """Result of the comparison of two exams.

    Args:
        differences: in the order of tests and parts.
        unpaired: tests and parts without a difference.
    """

    differences: tuple[Difference, ...]
    unpaired: tuple[Unpaired, ...]


def compared(
    ours: Mapping[str, TestResult], theirs: Mapping[str, TestResult], trainings: Pair | None = None
) -> ExamComparison:
    """Score differences ours minus theirs for each part, paired by scene and training.

    Args:
        ours: results with bootstrap draws, by code.
        theirs: results of the other subject.
        trainings: one training of ours and one of theirs; None for all common trainings, paired by seed.

    Raises:
        InputError: the exams have no test or no training in common, or their scenes differ.
    """
    if not set(ours) & set(theirs):
        raise InputError(
            f"the exams have no test in common: {', '.join(ours)} and {', '.join(theirs)}. "
            "Run both with the same --tests."
        )
    differences: list[Difference] = []
    unpaired: list[Unpaired] = []
    for code in dict.fromkeys([*ours, *theirs]):
        if code in ours and code in theirs:
            part = _test(ours[code], theirs[code], trainings)
            differences += part.differences
            unpaired += part.unpaired
        else:
            reasons = ["" if code in results else "not run" for results in (ours, theirs)]
            unpaired.append(Unpaired(code=code, cell="", ours=reasons[0], theirs=reasons[1]))
    return ExamComparison(differences=tuple(differences), unpaired=tuple(unpaired))


def _test(ours: TestResult, theirs: TestResult, trainings: Pair | None) -> ExamComparison:
    if ours.scenes and theirs.scenes and ours.scenes != theirs.scenes:
        raise InputError(
            f"{ours.code} has different scenes in the two exams ({ours.scenes[:12]} and {theirs.scenes[:12]}). "
            "Run both with the same --seed, pool of generators and version."
        )
    if ours.oracle and theirs.oracle and not _same_references(ours, theirs):
        raise InputError(
            f"{ours.code} was graded against different references in the two exams, so scores are not comparable. "
            "Run both with the same version, both on vectors or both on images."
        )
    scored: dict[str, list[tuple[Pair, Score, Score]]] = {}
    unpaired = []
    for pair in _pairs(ours, theirs, trainings):
        left, right = _scores(ours, pair[0]), _scores(theirs, pair[1])
        if isinstance(left, str) or isinstance(right, str):
            unpaired.append(Unpaired(code=ours.code, cell="", ours=_why(left), theirs=_why(right), pair=pair))
            continue
        for name in dict.fromkeys([*left, *right]):
            score, other = left.get(name, "no such part"), right.get(name, "no such part")
            if isinstance(score, str) or isinstance(other, str):
                unpaired.append(Unpaired(code=ours.code, cell=name, ours=_why(score), theirs=_why(other), pair=pair))
            else:
                scored.setdefault(name, []).append((pair, score, other))
    differences = tuple(_difference(ours.code, name, rows) for name, rows in scored.items())
    return ExamComparison(differences=differences, unpaired=tuple(unpaired))


def _same_references(ours: TestResult, theirs: TestResult) -> bool:
    """Whether oracle and must-fail models have the same scores in both, up to `SCORE_TOLERANCE`."""
    scores = []
    for result in (ours, theirs):
        graded = {"the oracle": result.oracle, **result.must_fail}
        cells = [(name, cell) for name, grade in graded.items() if grade is not None for cell in grade.cells]
        scores.append({(name, cell.name): cell.score.value if cell.score else np.nan for name, cell in cells})
    if scores[0].keys() != scores[1].keys():
        return False
    first, second = [*scores[0].values()], [scores[1][key] for key in scores[0]]
    return np.allclose(first, second, atol=SCORE_TOLERANCE, equal_nan=True)


def _pairs(ours: TestResult, theirs: TestResult, trainings: Pair | None) -> tuple[Pair, ...]:
    seeds = [[seed_grade.seed for seed_grade in result.seeds] for result in (ours, theirs)]
    if trainings is not None:
        for has, seed in zip(seeds, trainings, strict=True):
            if seed not in has:
                raise InputError(f"{ours.code} has no training {seed}. Choose one of {', '.join(map(str, has))}.")
        return (trainings,)
    common = tuple((seed, seed) for seed in seeds[0] if seed in seeds[1])
    if not common:
        raise InputError(f"{ours.code} has trainings {seeds[0]} and {seeds[1]}, none in common. Give --trainings A B.")
    return common


def _scores(result: TestResult, training: int) -> dict[str, Score | str] | str:
    """The score of each part or why it is missing; if there is no grade, the reason."""
    seed: SeedGrade = next(seed for seed in result.seeds if seed.seed == training)
    if seed.grade is None:
        return f"{seed.verdict}: {seed.reason}"
    return {cell.name: cell.score or cell.note for cell in seed.grade.cells}


def _why(score: object) -> str:
    return score if isinstance(score, str) else ""


def _difference(code: str, cell: str, rows: Sequence[tuple[Pair, Score, Score]]) -> Difference:
    """The mean over pairs of trainings. An undefined draw widens the interval at both ends."""
    each = np.array([ours.value - theirs.value for _, ours, theirs in rows])
    value = float(each.mean())
    ours, theirs = (
        np.array([score.draws for score in side]) for side in zip(*((a, b) for _, a, b in rows), strict=True)
    )
    defined = (np.isfinite(ours) & np.isfinite(theirs)).all(0)
    draws = np.zeros(defined.shape)
    draws[defined] = (ours[:, defined] - theirs[:, defined]).mean(0)
    low, high = (
        float(np.quantile(np.where(defined, draws, end), share, method="inverted_cdf"))
        for end, share in ((-np.inf, TAIL), (np.inf, 1 - TAIL))
    )
    half_width = 0.0  # over trainings
    if len(each) > 1:
        half_width = student_quantile(TAIL, float(len(each) - 1)) * float(each.std(ddof=1)) / sqrt(len(each))
    return Difference(
        code=code,
        cell=cell,
        pairs=tuple(pair for pair, _, _ in rows),
        value=value,
        low=value - hypot(max(value - low, 0.0), half_width),
        high=value + hypot(max(high - value, 0.0), half_width),
    )
