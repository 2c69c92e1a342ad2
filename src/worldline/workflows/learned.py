"""The result of learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worldline.data.checks import Finding
from worldline.data.splits import Split
from worldline.engines.learned import LearnedEngine
from worldline.recipes.recipe import Recipe
from worldline.training.loop import Trained
from worldline.world.calibration import Calibration
from worldline.world.local import LocalWorld

Unseen = Callable[[int], LearnedEngine]
"""Gets the number of an episode."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Model, heads, calibration, and measurements of their training.

    Args:
        recipe: of the training.
        data_hash: of the store.
        engine: the model with its heads.
        calibration: of the engine.
        world: with this engine and calibration.
        split: parts of the episodes.
        trained: curves and time of the training.
        refine_s: seconds of refining the dynamics, encoding included; 0 without refinement.
        refine_losses: mean training loss of each tenth of the refinement; empty without refinement.
        heads_s: seconds of fitting the heads.
        calibrate_s: seconds of calibration.
        unseen: for each episode of the training an engine that was fitted without it; None if there is none.
        findings: episodes that were excluded from training, with reasons.
    """

    recipe: Recipe
    data_hash: str
    engine: LearnedEngine
    calibration: Calibration
    world: LocalWorld
    split: Split
    trained: Trained
    refine_s: float
    refine_losses: tuple[float, ...]
    heads_s: float
    calibrate_s: float
    unseen: Unseen | None
    findings: tuple[Finding, ...]

    @property
    def learn_s(self) -> float:
        """Seconds of training, refining the dynamics, fitting the heads and calibrating."""
        return sum(self.times_s.values())

    @property
    def times_s(self) -> dict[str, float]:
        """Seconds of each part."""
        return {
            "learn": self.trained.elapsed_s,
            "refine": self.refine_s,
            "heads": self.heads_s,
            "calibrate": self.calibrate_s,
        }
