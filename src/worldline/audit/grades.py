"""Scores with intervals, grades and verdicts of tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from worldline.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Score(Estimate):
    """A skill score with its bootstrap interval over scenes: 0 is the baseline, 1 the upper bound.

    Args:
        value: over all scenes.
        low: lower end at 95 %.
        high: upper end at 95 %.
        surely: lower end at 99.9 %; a must-fail model above 0 here voids the test.
        p_half: bootstrap p-value of the hypothesis that the true score is at most 0.5.
        draws: bootstrap draws, with the same scenes for every model, so that scores can be compared; not stored.
    """

    surely: float
    p_half: float
    draws: tuple[float, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One separately scored part of a test, such as a signal, a lag or a damping.

    Args:
        name: name of the part.
        score: None if the part is gated or undefined.
        raw: figures behind the score, such as "loss", "floor", "ceiling", in their units.
        note: why it is not scored; empty if it is.
    """

    name: str
    score: Score | None
    raw: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A requirement of a test in addition to its score.

    Args:
        name: the requirement, with its bounds.
        met: whether it is met.
        found: the measured figure, in words.
        gate: whether PARTIAL requires it too, because trivial models reach the score without it.
    """

    name: str
    met: bool
    found: str
    gate: bool = False


@dataclass(frozen=True, kw_only=True)
class Grade:
    """Result of a test for one set of answers.

    Args:
        cells: at least one.
        conditions: required for PASS; gates are also required for PARTIAL.
        bugs: defects that always give FAIL, such as a leak from the future.
    """

    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...] = ()
    bugs: tuple[str, ...] = ()


class Verdict(StrEnum):
    """Verdict of a test; the worst first."""

    VOID = "VOID"
    ERROR = "ERROR"
    FAIL = "FAIL"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"
    NOT_MEASURED = "NOT MEASURED"
    NOT_IDENTIFIABLE = "NOT IDENTIFIABLE"
    INCONCLUSIVE = "INCONCLUSIVE"
    PARTIAL = "PARTIAL"
    PASS = "PASS"
