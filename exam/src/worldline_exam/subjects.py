"""Subjects of an exam: a recipe with any model family, or a trivial baseline."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Final, final

import numpy as np
import torch

from worldline.audit import Verdict
from worldline.data import Split, Store, split_store
from worldline.device import choose_device, describe_device
from worldline.engines import Engine, ForecastEngine, LearnedEngine
from worldline.errors import InputError
from worldline.planning import CrossEntropy
from worldline.recipes import Recipe, resized, with_family
from worldline.registry import imported, load
from worldline.workflows import build_model, learn_world
from worldline.world import LocalWorld, World, calibrate, open_world
from worldline_exam.base import ExamTest
from worldline_exam.readability import readings
from worldline_exam.results import SeedGrade

BLIND: Final = "token-blind"
"""The model family "token" without actions as inputs."""
TRIVIAL: Final = ("persistence", "constant_velocity", "linear", "action_blind")

NO_PICTURES: Final = "A trivial baseline needs vector observations. Omit --pixels."

CALIBRATED_STEPS: Final = 48
"""Default horizon of the calibrated bands of a trivial baseline, in steps."""

_RELATIVE_WIDTHS: Final = tuple(2.0 ** (step / 4) for step in range(-12, 13))
"""Candidate widths, relative to the default of the family, to match the number of parameters."""


@dataclass(frozen=True, kw_only=True)
class LearnedWorld:
    """Result of `ExamSubject.learn`.

    Args:
        world: world to save and query; None if the subject opens one that is not saved.
        facts: details for the report, such as the number of parameters.
        reads: R^2 of each signal that must be read from images; see `readability`.
    """

    world: LocalWorld | None
    facts: Mapping[str, str]
    reads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Requirements of a dataset for the training.

    Args:
        num_calibration: number of last episodes for calibration; None for the default of the subject.
        horizon: horizon of the calibrated bands, in steps; None for the default of the subject.
        read: vector signals that must be read from images; empty in an exam on vectors.
    """

    num_calibration: int | None = None
    horizon: int | None = None
    read: tuple[str, ...] = ()


class ExamSubject(ABC):
    """Learns one world from each dataset. Instances must be picklable."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Name in reports."""

    @abstractmethod
    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> LearnedWorld:
        """Learns a world from the logs in a store.

        Args:
            store: logs of a dataset.
            seed: seed of initial weights and batches.
            terms: requirements of the dataset.
            folder: folder for temporary files of the training.
        """

    def open(self, folder: Path, store: Store) -> World:
        """Opens the world that `learn` returned.

        Args:
            folder: folder in which the exam saved it.
            store: logs from which it was learned.
        """
        del store
        return open_world(folder)

    @property
    def sources(self) -> Sequence[Path]:
        """Source files outside the toolkit that affect the training."""
        return ()

    @property
    def pays(self) -> bool:
        """Whether it pays per query: tests then use reduced sizes and a single process."""
        return False

    def for_exam(self, folder: Path) -> ExamSubject:
        """The subject prepared for one exam; it may write persistent files to `folder`."""
        del folder
        return self

    def declines(self, test: ExamTest) -> SeedGrade | None:
        """Why the subject skips a test; None if it takes the test."""
        del test
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """Details for the report, evaluated after the last query."""
        return {}


@final
@dataclass(frozen=True, kw_only=True)
class RecipeSubject(ExamSubject):
    """A recipe with its own model family, or another family with about as many parameters.

    Args:
        recipe: registered name, or "module:name".
        family: registered name of a model family, or "token-blind"; None for the family of the recipe.
        device: of the training and the world; see `worldline.device.choose_device`.

    Raises:
        UnknownNameError: the recipe or the family is not registered.
        InputError: the device is unknown or not available.
    """

    recipe: str
    family: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        imported("recipe", self.recipe) if ":" in self.recipe else load("recipe", self.recipe)
        if self.family is not None and self.family != BLIND:
            load("model", self.family)
        choose_device(self.device)

    @property
    def title(self) -> str:
        """Such as "vectors", or "vectors, token"."""
        return self.recipe if self.family is None else f"{self.recipe}, {self.family}"

    @property
    def sources(self) -> Sequence[Path]:
        """The module of a recipe that is given as "module:name"."""
        if ":" not in self.recipe:
            return ()
        file = inspect.getsourcefile(import_module(self.recipe.partition(":")[0]))
        return () if file is None else (Path(file),)

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> LearnedWorld:
        """Trains the recipe without goal heads, which only planners use."""
        recipe = self._recipe(store).with_seed(seed)
        recipe = replace(recipe, heads=replace(recipe.heads, goals=False))
        horizon = terms.horizon or recipe.horizon
        if recipe.forecaster is not None:  # forecasts continue beyond it, but bands end there
            horizon = min(horizon, recipe.forecaster.horizon)
        recipe = replace(recipe, horizon=horizon)
        if (count := terms.num_calibration) is not None:
            recipe = replace(recipe, split=lambda of: kept_last(of, count))
        learned = learn_world(store, recipe, folder=folder, device=choose_device(self.device))
        assert isinstance(learned.engine, LearnedEngine | ForecastEngine), "recipes make no other engine"
        size = sum(parameter.numel() for parameter in learned.engine.model.parameters())
        training = recipe.training
        facts = {
            "parameters": f"{size:,}",
            "updates": f"{training.num_updates:,}",
            "batches": f"{training.batch_size} windows of {training.window} observations",
            "device": describe_device(learned.engine.device),
        }
        return LearnedWorld(world=learned.world, facts=facts, reads=readings(store, learned, terms.read))

    def open(self, folder: Path, store: Store) -> World:
        """Opens the world on the device of the subject."""
        del store
        return open_world(folder, device=self.device)

    def _recipe(self, store: Store) -> Recipe:
        """The recipe for this store. Another family gets the width with the closest number of parameters."""
        recipe: Recipe = (imported("recipe", self.recipe) if ":" in self.recipe else load("recipe", self.recipe))(store)
        if self.family is None or self.family == recipe.model:
            return recipe
        changed = with_family(recipe, store, self.family.removesuffix("-blind"))
        if self.family == BLIND:
            changed = replace(changed, model_config=replace(changed.model_config, actions=False))
        target = _num_parameters(store, recipe)
        sizes = [resized(changed, size) for size in _RELATIVE_WIDTHS]
        return min(sizes, key=lambda candidate: abs(np.log(_num_parameters(store, candidate) / target)))


@final
@dataclass(frozen=True, kw_only=True)
class TrivialSubject(ExamSubject):
    """A trivial baseline engine, fitted and calibrated on the same logs.

    Args:
        name: registered name, one of `TRIVIAL`.

    Raises:
        InputError: the name is not in `TRIVIAL`.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in TRIVIAL:
            raise InputError(f"{self.name!r} is no trivial baseline. Choose one of {', '.join(TRIVIAL)}.")

    @property
    def title(self) -> str:
        """Such as "constant velocity"."""
        return self.name.replace("_", " ")

    def declines(self, test: ExamTest) -> SeedGrade | None:
        """Skips tests on images."""
        if not test.pixels:
            return None
        return SeedGrade(seed=0, verdict=Verdict.UNREADABLE, grade=None, reason=NO_PICTURES)

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> LearnedWorld:
        """Fits and calibrates the engine."""
        del folder
        count = terms.num_calibration
        split = split_store(store) if count is None else kept_last(store, count)
        train, held_out = ([store.episode(number) for number in part] for part in (split.train, split.calibration))
        engine: Engine = load("engine", self.name).fit(train, store.schema)
        longest = terms.horizon or CALIBRATED_STEPS
        horizon = max(1, min(longest, int(store.num_steps.min()) - engine.describe().context + 1))
        calibration = calibrate(engine, held_out, horizon=horizon, num_windows=8, seed=seed)
        return LearnedWorld(world=LocalWorld(engine, calibration, CrossEntropy()), facts={})


def kept_last(store: Store, num_calibration: int) -> Split:
    """A split with the last `num_calibration` episodes for calibration.

    Two of the other episodes are held out, a tenth of them is the validation set, and the rest is for training.

    Raises:
        InputError: fewer than four other episodes remain.
    """
    others = np.random.default_rng(0).permutation(len(store) - num_calibration).tolist()
    if len(others) < 4:
        raise InputError(
            f"{len(store)} episodes with {num_calibration} for calibration leave {len(others)}, fewer than 4. "
            "Record more."
        )
    cut = 2 + max(1, len(others) // 10)
    return Split(
        train=tuple(sorted(others[cut:])),
        validation=tuple(sorted(others[2:cut])),
        calibration=tuple(range(len(store) - num_calibration, len(store))),
        held_out=tuple(sorted(others[:2])),
        rule=f"the last {num_calibration} episodes for calibration",
    )


def _num_parameters(store: Store, recipe: Recipe) -> int:
    with torch.random.fork_rng(devices=[]):
        return sum(parameter.numel() for parameter in build_model(store, recipe.split(store), recipe).parameters())
