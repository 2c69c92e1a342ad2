"""Self-check of the exam: every run grades the oracle and the must-fail models of every test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.audit import Grade, flaws
from worldline.episode import Arrays, Episode
from worldline_exam.base import ExamTest, References

PILOT_SEED_OFFSET: Final = 1_000_003
"""Added to the seed for the scenes on which the floor is selected."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examined:
    """Scenes and graded references of a test.

    Args:
        scenes: scenes for the worlds.
        references: reference answers to the scenes.
        oracle: grade of the oracle.
        must_fail: grades of the must-fail models, by name.
        flaws: why the test is void; empty if it is valid.
    """

    scenes: Arrays
    references: References
    oracle: Grade
    must_fail: Mapping[str, Grade]
    flaws: tuple[str, ...]


def examine(test: ExamTest, seed: int, logs: Mapping[str, Sequence[Episode]]) -> Examined:
    """Generates a test's scenes and grades its references.

    Args:
        test: the test.
        seed: seed of the scenes; the floor is selected on scenes of another seed.
        logs: training episodes by dataset.
    """
    scenes, pilot = test.generate(seed), test.generate(seed + PILOT_SEED_OFFSET)
    return graded(test, scenes, test.references(scenes, pilot, logs))


def graded(test: ExamTest, scenes: Arrays, references: References) -> Examined:
    """Grades the given references on the given scenes."""
    oracle = test.grade(scenes, references.oracle, references)
    must_fail = {
        name: test.grade_must_fail(name, scenes, answer, references) for name, answer in references.must_fail.items()
    }
    return Examined(
        scenes=scenes,
        references=references,
        oracle=oracle,
        must_fail=must_fail,
        flaws=flaws(oracle, must_fail, test.declared_ceiling, test.fail_by_gate),
    )
