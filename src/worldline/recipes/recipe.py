"""The configuration of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.models.base import WorldModel
from worldline.planning.planners.base import Planner
from worldline.planning.planners.categorical import Categorical
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Schema
from worldline.training.heads import HeadsConfig
from worldline.training.updates import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The configuration of `learn`, from store to bundle.

    Args:
        name: of the recipe.
        model: registered name of the family.
        model_config: the family's `Config`; its `inputs` are the observation signals that the model takes.
        training: of the model.
        heads: fitted after the training.
        horizon: number of steps for which bands are calibrated.
        num_windows: windows per calibration episode.
        planner: of the world.
        num_proposals: sequences of the inverse head from which the planner starts; see `LocalWorld`.
        split: assigns the episodes to training, calibration, validation and held-out set.
        pretrained: loads pretrained weights into a new model; None for none.
    """

    name: str
    model: str
    model_config: Any
    training: TrainingConfig
    heads: HeadsConfig
    horizon: int
    num_windows: int
    planner: Planner
    num_proposals: int = 0
    split: Callable[[Store], Split] = split_store
    pretrained: Callable[[WorldModel], None] | None = None

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with another seed for initial weights and batches; the split does not change."""
        return replace(self, training=replace(self.training, seed=seed), heads=replace(self.heads, seed=seed))


def planner_for(schema: Schema, numbers: CrossEntropy) -> Planner:
    """`numbers`, or a categorical planner of the same size if an action is discrete."""
    if all(signal.kind is not Kind.DISCRETE for signal in schema.actions):
        return numbers
    return Categorical(
        num_candidates=numbers.num_candidates, num_iterations=numbers.num_iterations, num_elites=numbers.num_elites
    )
