"""What a test of the exam writes: scenes with their truth, questions to a world, references, and a grade.

A test is given worlds and knows them by the `World` contract alone. What it generates, what a world answers and what
the references say are plain arrays, so that they can be stored, and graded again with the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, final

from worldline.audit import Grade
from worldline.episode import Arrays, Episode
from worldline.errors import InputError
from worldline.labs import Lab
from worldline.world import World
from worldline_exam.figures import ExamFigure
from worldline_exam.scenes.pixels_only import PixelsOnlyWorld


class Section(StrEnum):
    """What a test asks about."""

    CAUSE = "cause"
    PHYSICS = "physics"
    TIME = "time"
    CONFIDENCE = "confidence"


class Pool(StrEnum):
    """Which generators a test draws from. They differ in geometry and parameters."""

    DEVELOPMENT = "development"
    """Models may be improved on these."""
    REPORT = "report"
    """For the figures that are published, once."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Logs that a sitter learns one world from. Curricula of the same name are the same: they are learned from once.

    Args:
        name: such as "pusher-block".
        make_lab: makes the lab whose `explorer` acts.
        asked: vector observation signals that are asked about; a world of pictures has to be able to read them.
        num_episodes: recorded.
        num_steps: of each.
        num_calibration: how many of them are kept for calibration; None for the recipe's own share.
        horizon: steps that are asked about at most, and that bands are calibrated for; None for the recipe's own.
    """

    name: str
    make_lab: Callable[[], Lab]
    asked: tuple[str, ...]
    num_episodes: int
    num_steps: int
    num_calibration: int | None = None
    horizon: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """Answers to the same scenes that a score is made from, or that examine the test itself; as `ExamTest.ask` gives.

    Args:
        floor: of the best trivial model, which scores 0; empty where the score has a floor of its own.
        ceiling: of what scores 1: the truth, or the best estimate from what a world is given; empty likewise.
        oracle: of a world that knows the law, asked as any world is wherever a simulator can be.
        must_fail: of models that do not understand, by name.
        floor_name: which trivial model was best on the pilot's scenes.
    """

    floor: Arrays = field(default_factory=dict)
    ceiling: Arrays = field(default_factory=dict)
    oracle: Arrays
    must_fail: Mapping[str, Arrays]
    floor_name: str = ""


@dataclass(frozen=True, kw_only=True)
class ExamTest(ABC):
    """One of the sixteen. The fields that each adds are its sizes.

    Args:
        pool: of the generators.
        pixels: whether worlds see a 64 x 64 picture in the place of the vectors; scenes are the same.
    """

    code: ClassVar[str]
    """Such as "C1"."""
    section: ClassVar[Section]
    title: ClassVar[str]
    claim: ClassVar[str]
    """What a world that passes has understood, in one plain sentence."""
    declared_ceiling: ClassVar[float] = 1.0
    """What the oracle reaches by design; the test holds where its lower end is at least 0.9 of it."""
    calibrated: ClassVar[bool] = False
    """Whether it asks for what only a calibration gives: bands, trust or surprise."""
    fail_by_gate: ClassVar[tuple[str, ...]] = ()
    """Models that must fail and may have the score, as a gate stops them. All others must fail by the score."""
    paid: ClassVar[Mapping[str, int]] = {}
    """The fields, its sizes, that are smaller for a sitter that pays for each question: about twenty scenes, and ten
    in each part at least, which makes it up to a hundred."""

    pool: Pool = Pool.REPORT
    pixels: bool = False

    @abstractmethod
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The logs to learn from, one world each."""

    @abstractmethod
    def generate(self, seed: int) -> Arrays:
        """Scenes [E, ...]: what is shown, what is asked, and the truth. The same bits for the same seed."""

    @final
    def ask(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """What the worlds, by the name of their curriculum, say of the scenes; from behind a camera in `pixels`.

        Raises:
            InputError: a world is of no curriculum of this test.
            UnreadableError: see `question`, as for what follows.
            UnsupportedError: likewise.
        """
        if not self.pixels:
            return self.question(worlds, scenes)
        labs = {one.name: one.make_lab for one in self.datasets()}
        unknown = [name for name in worlds if name not in labs]
        if unknown:
            raise InputError(f"{', '.join(unknown)} is no curriculum of {self.code}. It has {', '.join(labs)}.")
        return self.question(
            {name: PixelsOnlyWorld(world=one, lab=labs[name]()) for name, one in worlds.items()}, scenes
        )

    @abstractmethod
    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """What the worlds say of the scenes as they are: all that grading needs, [E, ...]. `ask` is what to call.

        Raises:
            UnreadableError: a world does not tell the signals that are asked for.
            UnsupportedError: a world lacks a verb that is needed.
        """

    @abstractmethod
    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """Floor, ceiling, oracle and models that must fail.

        Args:
            scenes: from `generate`.
            pilot: scenes of another seed, on which the floor is chosen.
            logs: per curriculum the episodes that were learned from, for trivial models that are fitted.
        """

    @abstractmethod
    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """The scores of these answers: a function of arrays alone. Empty conditions are met."""

    def grade_must_fail(self, name: str, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """What a model that must fail is judged by: the grade that any world has, unless a test asks more of it."""
        del name
        return self.grade(scenes, answers, references)

    @abstractmethod
    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """The picture of this test: what was true, what was answered, and the references beside it."""
