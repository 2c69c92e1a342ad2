"""The exam examines itself: every run grades the oracle and the models that must fail, of every test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.audit import Grade, flaws
from worldline.episode import Arrays, Episode
from worldline_exam.base import ExamTest, References

PILOT: Final = 1_000_003
"""Added to a seed for the scenes on which the floor is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """A test that is ready to grade worlds, or void.

    Args:
        scenes: that worlds are asked about.
        references: to them.
        oracle: its grade.
        must_fail: grades by name.
        flaws: why the test is void; empty where it holds.
    """

    scenes: Arrays
    references: References
    oracle: Grade
    must_fail: Mapping[str, Grade]
    flaws: tuple[str, ...]


def examine(test: ExamTest, seed: int, logs: Mapping[str, Sequence[Episode]]) -> Examined:
    """Generates a test's scenes and grades its references.

    Args:
        test: which.
        seed: of the scenes; the floor is chosen on those of another seed.
        logs: per curriculum the episodes that worlds learn from.
    """
    scenes, pilot = test.generate(seed), test.generate(seed + PILOT)
    return graded(test, scenes, test.references(scenes, pilot, logs))


def graded(test: ExamTest, scenes: Arrays, references: References) -> Examined:
    """The same of scenes and references that are there."""
    oracle = test.grade(scenes, references.oracle, references)
    must_fail = {
        name: test.grade_must_fail(name, scenes, one, references) for name, one in references.must_fail.items()
    }
    return Examined(
        scenes=scenes,
        references=references,
        oracle=oracle,
        must_fail=must_fail,
        flaws=flaws(oracle, must_fail, test.declared_ceiling, test.fail_by_gate),
    )
