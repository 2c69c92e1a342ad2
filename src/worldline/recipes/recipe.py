"""A whole run's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from worldline.data.splits import Split
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
    """What `learn` does, from store to bundle.

    Args:
        name: of the recipe.
        model: registered name of the family.
        model_config: the family's `Config`; its `inputs` are the observation signals that the model takes.
        training: of the model.
        heads: fitted afterwards.
        horizon: steps that bands are calibrated for.
        num_windows: windows that each calibration episode gives.
        planner: that the world plans with.
        num_proposals: sequences of the inverse head that the planner starts from; see `LocalWorld`.
        split: which episodes are for what.
        pretrained: puts pretrained weights into a fresh model; None where there are none.
    """

    name: str
    model: str
    model_config: Any
    training: TrainingConfig
    heads: HeadsConfig
    horizon: int
    num_windows: int
    planner: Planner
    num_proposals: int
    split: Callable[[Store], Split]
    pretrained: Callable[[WorldModel], None] | None = None

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe, with other initial weights and batches; the split stays."""
        return replace(self, training=replace(self.training, seed=seed), heads=replace(self.heads, seed=seed))


def planner_for(schema: Schema, numbers: CrossEntropy) -> Planner:
    """`numbers`, or a search of the same size among choices where an action is one."""
    if all(signal.kind is not Kind.DISCRETE for signal in schema.actions):
        return numbers
    return Categorical(
        num_candidates=numbers.num_candidates, num_iterations=numbers.num_iterations, num_elites=numbers.num_elites
    )
