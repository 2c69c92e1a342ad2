"""Who sits the exam: a recipe, with any family of models, or a trivial model."""

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
from worldline.engines import Engine
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
"""The family "token" that is told no actions: it only watches."""
TRIVIAL: Final = ("persistence", "constant_velocity", "linear", "action_blind")

NO_PICTURES: Final = "A trivial model looks at vectors, not at pictures. Leave out --pixels."

CALIBRATED_STEPS: Final = 48
"""Steps that the bands of a trivial model reach at most."""

_SIZES: Final = tuple(2.0 ** (step / 4) for step in range(-12, 13))
"""Widths, relative to the family's own, among which the number of parameters is matched."""


@dataclass(frozen=True, kw_only=True)
class Sat:
    """A world that sits, and what is to be known of it.

    Args:
        world: to ask, which the exam keeps; None where the sitter opens one that need not be kept.
        facts: small print, such as its number of parameters.
        reads: of each signal that was to be read from pictures, how well it is; see `workflows.reading`.
    """

    world: LocalWorld | None
    facts: Mapping[str, str]
    reads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a curriculum asks beside its logs.

    Args:
        num_calibration: episodes kept for calibration, the last ones; None for the sitter's own share.
        horizon: steps that bands are calibrated for; None for the sitter's own.
        read: vector signals that have to be read from pictures; empty in an exam of vectors.
    """

    num_calibration: int | None = None
    horizon: int | None = None
    read: tuple[str, ...] = ()


class ExamSubject(ABC):
    """Learns one world from each log; can be sent to another process."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called in a report."""

    @abstractmethod
    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> Sat:
        """The world learned from a store.

        Args:
            store: of a curriculum.
            seed: of initial weights and batches.
            terms: what the curriculum asks.
            folder: for what the training needs to write.
        """

    def open(self, folder: Path, store: Store) -> World:
        """The world that `learn` gave.

        Args:
            folder: that the exam kept it in.
            store: that it was learned from.
        """
        del store
        return open_world(folder)

    @property
    def sources(self) -> Sequence[Path]:
        """Files beside the toolkit's that say how it learns."""
        return ()

    @property
    def pays(self) -> bool:
        """Whether it pays for each question: tests then take the sizes they have for that, and one process asks."""
        return False

    def seated(self, folder: Path) -> ExamSubject:
        """This sitter in one exam, of which it may keep in `folder` what has to be kept."""
        del folder
        return self

    def declines(self, test: ExamTest) -> SeedGrade | None:
        """Why a test is not asked of it; None where it is."""
        del test
        return None

    @property
    def facts(self) -> Mapping[str, str]:
        """Small print, as it is when everything was asked."""
        return {}


@final
@dataclass(frozen=True, kw_only=True)
class RecipeSubject(ExamSubject):
    """A recipe, with its own family or another one of as many parameters.

    Args:
        recipe: a registered name, or "module:name".
        family: registered name of a family of models, or "token-blind"; None for the recipe's own.
    """

    recipe: str
    family: str | None = None

    def __post_init__(self) -> None:
        imported("recipe", self.recipe) if ":" in self.recipe else load("recipe", self.recipe)
        if self.family is not None and self.family != BLIND:
            load("model", self.family)

    @property
    def title(self) -> str:
        """Such as "vectors", or "vectors, token"."""
        return self.recipe if self.family is None else f"{self.recipe}, {self.family}"

    @property
    def sources(self) -> Sequence[Path]:
        """The module of an own recipe."""
        if ":" not in self.recipe:
            return ()
        file = inspect.getsourcefile(import_module(self.recipe.partition(":")[0]))
        return () if file is None else (Path(file),)

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> Sat:
        """See `ExamSubject`; heads that only plans need are left out."""
        recipe = self._recipe(store).with_seed(seed)
        recipe = replace(recipe, heads=replace(recipe.heads, goals=False))
        recipe = replace(recipe, horizon=terms.horizon or recipe.horizon)
        if (count := terms.num_calibration) is not None:
            recipe = replace(recipe, split=lambda of: kept_last(of, count))
        learned = learn_world(store, recipe, folder=folder)
        size = sum(one.numel() for one in learned.engine.model.parameters())
        training = recipe.training
        facts = {
            "parameters": f"{size:,}",
            "updates": f"{training.num_updates:,}",
            "batches": f"{training.batch_size} windows of {training.window} observations",
        }
        return Sat(world=learned.world, facts=facts, reads=readings(store, learned, terms.read))

    def _recipe(self, store: Store) -> Recipe:
        """The recipe for this store; another family gets the width at which it has as many parameters."""
        given: Recipe = (imported("recipe", self.recipe) if ":" in self.recipe else load("recipe", self.recipe))(store)
        if self.family is None or self.family == given.model:
            return given
        changed = with_family(given, store, self.family.removesuffix("-blind"))
        if self.family == BLIND:
            changed = replace(changed, model_config=replace(changed.model_config, actions=False))
        due = _num_parameters(store, given)
        sizes = [resized(changed, size) for size in _SIZES]
        return min(sizes, key=lambda one: abs(np.log(_num_parameters(store, one) / due)))


@final
@dataclass(frozen=True, kw_only=True)
class TrivialSubject(ExamSubject):
    """One of the engines that a learned one has to beat, fitted and calibrated on the same logs.

    Args:
        name: its registered name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in TRIVIAL:
            raise InputError(f"{self.name!r} is no trivial model. Choose one of {', '.join(TRIVIAL)}.")

    @property
    def title(self) -> str:
        """Such as "constant velocity"."""
        return self.name.replace("_", " ")

    def declines(self, test: ExamTest) -> SeedGrade | None:
        """See `ExamSubject`: it cannot look at pictures."""
        if not test.pixels:
            return None
        return SeedGrade(seed=0, verdict=Verdict.UNREADABLE, grade=None, reason=NO_PICTURES)

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> Sat:
        """See `ExamSubject`."""
        del folder
        count = terms.num_calibration
        split = split_store(store) if count is None else kept_last(store, count)
        train, held = ([store.episode(number) for number in part] for part in (split.train, split.calibration))
        engine: Engine = load("engine", self.name).fit(train, store.schema)
        due = terms.horizon or CALIBRATED_STEPS
        horizon = max(1, min(due, int(store.num_steps.min()) - engine.describe().context + 1))
        calibration = calibrate(engine, held, horizon=horizon, num_windows=8, seed=seed)
        return Sat(world=LocalWorld(engine, calibration, CrossEntropy()), facts={})


def kept_last(store: Store, num_calibration: int) -> Split:
    """A split whose last `num_calibration` episodes calibrate; of the others a tenth validates, two are held out."""
    others = np.random.default_rng(0).permutation(len(store) - num_calibration).tolist()
    if len(others) < 4:
        raise InputError(f"{len(store)} episodes, {num_calibration} of them for calibration: four must be left.")
    cut = 2 + max(1, len(others) // 10)
    return Split(
        train=tuple(sorted(others[cut:])),
        validation=tuple(sorted(others[2:cut])),
        calibration=tuple(range(len(store) - num_calibration, len(store))),
        held_out=tuple(sorted(others[:2])),
        rule=f"the last {num_calibration} episodes for calibration",
    )


def _num_parameters(store: Store, recipe: Recipe) -> int:
    """Of an untrained model."""
    with torch.random.fork_rng(devices=[]):
        return sum(one.numel() for one in build_model(store, recipe.split(store), recipe).parameters())
