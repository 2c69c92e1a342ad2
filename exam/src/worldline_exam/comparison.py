"""How much higher one sitter scores than another in the same scenes.

Scenes are one source of chance. A draw of the bootstrap takes the same scenes for both sitters and for all of their
trainings, and its difference is the mean over trainings: all that was learned, asked and graded about a scene stays
together. Training is the other: a recipe that learns again differs by more than its scenes do. Trainings are never
drawn, as three of them say too little of how they spread; Student's t allows for that. One alone says nothing of it,
and its interval is over scenes alone.

Source of how the two are put together: Zou and Donner 2008, "Construction of confidence limits about effect measures: a
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
ROUNDED: Final = 0.01
"""By which scores of the same models may differ from processor to processor."""

Pair = tuple[int, int]
"""A training of ours and one of theirs."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much higher one sitter scores than another in a part of a test.

    Args:
        code: of the test.
        cell: its part.
        pairs: the trainings of either that it is the mean over.
        value: the difference.
        low: lower end at 95 %, over scenes and, of two pairs or more, over trainings.
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
        """Whether the two may be equal."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """What was not compared, because a sitter has no score in it.

    Args:
        code: of the test.
        cell: its part; empty for the whole test.
        ours: why our sitter has no score; empty where it has one.
        theirs: likewise.
        pair: the trainings; None for a test that was not asked of both.
    """

    code: str
    cell: str
    ours: str
    theirs: str
    pair: Pair | None = None


@dataclass(frozen=True, kw_only=True)
class ExamComparison:
    """What came of pairing two exams.

    Args:
        differences: in the order of tests and parts.
        unpaired: what has none.
    """

    differences: tuple[Difference, ...]
    unpaired: tuple[Unpaired, ...]


def compared(
    ours: Mapping[str, TestResult], theirs: Mapping[str, TestResult], trainings: Pair | None = None
) -> ExamComparison:
    """How much higher `ours` scores than `theirs`, part by part, paired by scene and training.

    Args:
        ours: results with draws, by code.
        theirs: of the other sitter.
        trainings: one of ours and one of theirs; None for all that both have, each with its like.

    Raises:
        InputError: they have no test or no training in common, or were asked about other scenes.
    """
    if not set(ours) & set(theirs):
        raise InputError("the two exams have no test in common. Run the same --tests.")
    differences: list[Difference] = []
    unpaired: list[Unpaired] = []
    for code in dict.fromkeys([*ours, *theirs]):
        if code in ours and code in theirs:
            found = _test(ours[code], theirs[code], trainings)
            differences += found.differences
            unpaired += found.unpaired
        else:
            lacks = ["" if code in one else "not asked" for one in (ours, theirs)]
            unpaired.append(Unpaired(code=code, cell="", ours=lacks[0], theirs=lacks[1]))
    return ExamComparison(differences=tuple(differences), unpaired=tuple(unpaired))


def _test(ours: TestResult, theirs: TestResult, trainings: Pair | None) -> ExamComparison:
    if ours.scenes and theirs.scenes and ours.scenes != theirs.scenes:
        raise InputError(
            f"{ours.code} was asked about other scenes in the two exams ({ours.scenes[:12]} and {theirs.scenes[:12]}), "
            "so nothing can be paired. Run both with the same --seed, generators and version."
        )
    if ours.oracle and theirs.oracle and not _alike(ours, theirs):
        raise InputError(
            f"{ours.code} was graded against other references in the two exams: what was asked, the floor or what "
            "examines the test is not the same, so scores do not compare. Run both with the same version, both in "
            "vectors or both in pictures."
        )
    scored: dict[str, list[tuple[Pair, Score, Score]]] = {}
    unpaired = []
    for pair in _pairs(ours, theirs, trainings):
        left, right = _scores(ours, pair[0]), _scores(theirs, pair[1])
        if isinstance(left, str) or isinstance(right, str):
            unpaired.append(Unpaired(code=ours.code, cell="", ours=_why(left), theirs=_why(right), pair=pair))
            continue
        for name in dict.fromkeys([*left, *right]):
            one, other = left.get(name, "no such part"), right.get(name, "no such part")
            if isinstance(one, str) or isinstance(other, str):
                unpaired.append(Unpaired(code=ours.code, cell=name, ours=_why(one), theirs=_why(other), pair=pair))
            else:
                scored.setdefault(name, []).append((pair, one, other))
    found = tuple(_difference(ours.code, name, rows) for name, rows in scored.items())
    return ExamComparison(differences=found, unpaired=tuple(unpaired))


def _alike(ours: TestResult, theirs: TestResult) -> bool:
    """Whether oracle and must-fail models scored the same in both, but for what another processor rounds otherwise."""
    told = []
    for one in (ours, theirs):
        graded = {"the oracle": one.oracle, **one.must_fail}
        cells = [(name, cell) for name, grade in graded.items() if grade is not None for cell in grade.cells]
        told.append({(name, cell.name): cell.score.value if cell.score else np.nan for name, cell in cells})
    same = told[0].keys() == told[1].keys()
    return same and np.allclose([*told[0].values()], [told[1][key] for key in told[0]], atol=ROUNDED, equal_nan=True)


def _pairs(ours: TestResult, theirs: TestResult, trainings: Pair | None) -> tuple[Pair, ...]:
    seeds = [[one.seed for one in result.seeds] for result in (ours, theirs)]
    if trainings is not None:
        for has, seed in zip(seeds, trainings, strict=True):
            if seed not in has:
                raise InputError(f"{ours.code} has no training {seed}. Choose one of {', '.join(map(str, has))}.")
        return (trainings,)
    common = tuple((seed, seed) for seed in seeds[0] if seed in seeds[1])
    if not common:
        raise InputError(f"{ours.code} has trainings {seeds[0]} and {seeds[1]}, none in common. Name two: --trainings.")
    return common


def _scores(one: TestResult, training: int) -> dict[str, Score | str] | str:
    """Of each part the score, or why it has none; of the whole test why it has no grade."""
    seed: SeedGrade = next(seed for seed in one.seeds if seed.seed == training)
    if seed.grade is None:
        return f"{seed.verdict}: {seed.reason}"
    return {cell.name: cell.score or cell.note for cell in seed.grade.cells}


def _why(found: object) -> str:
    return found if isinstance(found, str) else ""


def _difference(code: str, cell: str, rows: Sequence[tuple[Pair, Score, Score]]) -> Difference:
    """The mean over pairs of trainings; a draw in which nothing can be told widens the interval at both ends."""
    each = np.array([ours.value - theirs.value for _, ours, theirs in rows])
    value = float(each.mean())
    ours, theirs = (
        np.array([score.draws for score in side]) for side in zip(*((a, b) for _, a, b in rows), strict=True)
    )
    told = (np.isfinite(ours) & np.isfinite(theirs)).all(0)
    draws = np.zeros(told.shape)
    draws[told] = (ours[:, told] - theirs[:, told]).mean(0)
    low, high = (
        float(np.quantile(np.where(told, draws, end), share, method="inverted_cdf"))
        for end, share in ((-np.inf, TAIL), (np.inf, 1 - TAIL))
    )
    again = 0.0
    if len(each) > 1:
        again = student_quantile(TAIL, float(len(each) - 1)) * float(each.std(ddof=1)) / sqrt(len(each))
    return Difference(
        code=code,
        cell=cell,
        pairs=tuple(pair for pair, _, _ in rows),
        value=value,
        low=value - hypot(max(value - low, 0.0), again),
        high=value + hypot(max(high - value, 0.0), again),
    )
