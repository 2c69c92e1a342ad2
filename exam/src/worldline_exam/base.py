"""Interface of an exam test: scenes with ground truth, queries to worlds, reference answers and a grade.

A test uses only the `World` contract. Scenes, answers and references are plain arrays. They can be stored and graded
again with the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, final

from worldline.audit import Grade, as_world
from worldline.engines import Engine
from worldline.episode import Arrays, Episode
from worldline.errors import InputError
from worldline.labs import Lab
from worldline.world import Calibration, World
from worldline_exam.figures import ExamFigure
from worldline_exam.scenes.pixels_only import PixelsOnlyWorld


class Section(StrEnum):
    """Topic of a test."""

    CAUSE = "cause"
    PHYSICS = "physics"
    TIME = "time"
    CONFIDENCE = "confidence"


class Pool(StrEnum):
    """Set of scene generators. The pools differ in geometry and parameters."""

    DEVELOPMENT = "development"
    """For the development of models."""
    REPORT = "report"
    """For published figures; evaluated once."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """Logs from which a subject learns one world. Specs with the same name must be equal; they are learned once.

    Args:
        name: such as "pusher-block".
        make_lab: constructs the lab; its `explorer` selects the actions.
        asked: vector observation signals that the test queries. A world of images must be able to read them.
        num_episodes: number of recorded episodes.
        num_steps: steps per episode.
        num_calibration: episodes for calibration; None for the default of the recipe.
        horizon: largest horizon of the queries and of calibrated bands, in steps; None for the default of the recipe.
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
    """Reference answers to the same scenes, in the format of `ExamTest.ask`. They scale scores and check the test.

    Args:
        floor: answers of the best trivial baseline, which scores 0; empty if the test defines another zero.
        ceiling: answers that score 1: ground truth, or the best estimate from the same inputs; empty if the test
            defines another upper bound.
        oracle: answers of a world that knows the dynamics, queried like any other world where possible.
        must_fail: answers of models without understanding, by name.
        floor_name: name of the trivial baseline that was best on the pilot scenes.
    """

    floor: Arrays = field(default_factory=dict)
    ceiling: Arrays = field(default_factory=dict)
    oracle: Arrays
    must_fail: Mapping[str, Arrays]
    floor_name: str = ""


@dataclass(frozen=True, kw_only=True)
class ExamTest(ABC):
    """One test of the exam. Subclasses add their sizes as fields.

    Args:
        pool: scene generators to use.
        pixels: whether worlds observe a 64 x 64 image instead of vectors, in the same scenes.
    """

    code: ClassVar[str]
    """Such as "C1"."""
    section: ClassVar[Section]
    title: ClassVar[str]
    claim: ClassVar[str]
    """What a world that passes has understood, in one sentence."""
    declared_ceiling: ClassVar[float] = 1.0
    """Expected score of the oracle. The test is valid if the oracle's lower bound is at least 0.9 of it."""
    calibrated: ClassVar[bool] = False
    """Whether the test needs a calibrated world: bands, trust or surprise."""
    fail_by_gate: ClassVar[tuple[str, ...]] = ()
    """Must-fail models that fail by a gate and may reach the score. All others must fail by the score."""
    paid: ClassVar[Mapping[str, int]] = {}
    """Reduced sizes by field name for a subject that pays per query: about 20 scenes, at least 10 in each part, and
    thus at most about 100."""

    pool: Pool = Pool.REPORT
    pixels: bool = False

    @abstractmethod
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """Datasets of the test; a subject learns one world from each."""

    @abstractmethod
    def generate(self, seed: int) -> Arrays:
        """Scenes [E, ...]: histories, queries and ground truth. The same seed gives the same bits."""

    @final
    def ask(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Answers of the worlds to the scenes; with `pixels` the worlds observe images only.

        Args:
            worlds: by the name of their dataset.
            scenes: from `generate`.

        Raises:
            InputError: a world belongs to no dataset of this test.
            UnreadableError: as in `question`.
            UnsupportedError: as in `question`.
        """
        if not self.pixels:
            return self.question(worlds, scenes)
        labs = {dataset.name: dataset.make_lab for dataset in self.datasets()}
        unknown = [name for name in worlds if name not in labs]
        if unknown:
            raise InputError(f"{', '.join(unknown)} is no dataset of {self.code}. Choose from {', '.join(labs)}.")
        return self.question(
            {name: PixelsOnlyWorld(world=world, lab=labs[name]()) for name, world in worlds.items()}, scenes
        )

    @abstractmethod
    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        """Answers [E, ...] of the worlds to the scenes, complete for grading. Callers use `ask`.

        Raises:
            UnreadableError: a world does not predict the signals that the test queries.
            UnsupportedError: a world lacks a method that the test needs.
        """

    @final
    def answers_of(self, engine: Engine, scenes: Arrays, calibration: Calibration | None = None) -> Arrays:
        """Answers of a reference engine to the scenes of a test with one dataset."""
        (dataset,) = self.datasets()
        return self.question({dataset.name: as_world(engine, calibration)}, scenes)

    @abstractmethod
    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        """Answers of floor, ceiling, oracle and must-fail models.

        Args:
            scenes: from `generate`.
            pilot: scenes of another seed, on which the floor is selected.
            logs: training episodes by dataset, to fit trivial baselines.
        """

    @abstractmethod
    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """Scores and conditions of the answers; a pure function of arrays. An empty condition is met."""

    def grade_must_fail(self, name: str, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        """Grade of a must-fail model. Tests override it to apply stricter criteria than `grade`."""
        del name
        return self.grade(scenes, answers, references)

    @abstractmethod
    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        """Figure of this test: ground truth, the answers and the references."""
