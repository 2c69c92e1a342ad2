"""Measured figures, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of understanding with its interval over scenes: 0 is the floor, 1 the ceiling.

    Args:
        value: of all scenes.
        low: lower end at 95 %.
        high: upper end at 95 %.
        surely: lower end at 99.9 %: what is above 0 here breaks a test, if the model must fail.
        p_half: chance of such a score where the true one is at most a half, by the bootstrap.
        draws: of the bootstrap, the same scenes in each draw for every model: what two scores are compared by. They are
            not stored.
    """

    value: float
    low: float
    high: float
    surely: float
    p_half: float
    draws: tuple[float, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One part of a test that is scored by itself, such as a signal, a lag or a damping.

    Args:
        name: of the part.
        score: None where the part is not scored: gated, or undefined.
        raw: the figures behind it, such as "loss", "floor", "ceiling", in their own units.
        note: why it is not scored; empty where it is.
    """

    name: str
    score: Score | None
    raw: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that a test asks for beside its score.

    Args:
        name: what is asked, with the bounds.
        met: whether it is.
        found: the figure, in words.
        gate: whether scores say nothing without it, as models that understand nothing reach them: then PARTIAL takes it
            as PASS does.
    """

    name: str
    met: bool
    found: str
    gate: bool = False


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What a test says of one set of answers.

    Args:
        cells: at least one.
        conditions: what a PASS needs beside the scores, and a PARTIAL of those that are gates.
        bugs: what is wrong with the world whatever its scores, such as a leak from the future; none may pass.
    """

    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...] = ()
    bugs: tuple[str, ...] = ()


class Verdict(StrEnum):
    """What a test concludes."""

    PASS = "PASS"
    PARTIAL = "PARTIAL"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_IDENTIFIABLE = "NOT IDENTIFIABLE"
    UNREADABLE = "UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"
    NOT_MEASURED = "NOT MEASURED"
    VOID = "VOID"
    ERROR = "ERROR"
