"""The configuration of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from json import loads
from typing import TYPE_CHECKING, Any, Final

from worldline.config import nested, replace_at, to_json
from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.errors import ConfigError, UnknownNameError
from worldline.models.base import WorldModel
from worldline.planning.planners.base import Planner
from worldline.planning.planners.cem import Categorical, CrossEntropy
from worldline.schema import Kind, Schema
from worldline.training.heads.base import HeadsConfig
from worldline.training.updates import TrainingConfig

if TYPE_CHECKING:
    from worldline.engines.forecast.forecasters import Chronos, Fracast

PARTS: Final = {"training": "training", "model": "model_config", "heads": "heads", "planner": "planner"}
"""Parts of a recipe with settings of their own: name in paths and in `run.toml`, and field of `Recipe`."""
_KINDS: Final[Mapping[str, type[Any]]] = {"training": TrainingConfig, "heads": HeadsConfig}
"""Configuration of the parts that every recipe has."""
NUMBERS: Final = ("horizon", "num_windows", "num_proposals")
"""Settings of the recipe itself."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The configuration of `learn`, from store to bundle.

    Args:
        name: of the recipe.
        model: registered name of the family; "forecast" for a forecaster.
        model_config: the family's `Config`; its `inputs` are the observation signals that the model takes.
        training: of the model.
        heads: fitted after the training.
        horizon: number of steps for which bands are calibrated.
        num_windows: windows per calibration episode.
        planner: of the world.
        num_proposals: sequences of the inverse head from which the planner starts; see `LocalWorld`.
        split: assigns the episodes to training, calibration, validation and held-out set.
        pretrained: loads pretrained weights into a new model; None for none.
        exact_horizon: whether episodes that are too short for the horizon are an error; otherwise the horizon is
            shortened.
        forecaster: pretrained, to be used without training; None for a model that is trained.
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
    exact_horizon: bool = False
    forecaster: Fracast | Chronos | None = None

    def with_seed(self, seed: int) -> Recipe:
        """The recipe with another seed for initial weights and batches; the split does not change."""
        return replace(self, training=replace(self.training, seed=seed), heads=replace(self.heads, seed=seed))

    def with_split(self, split: Split) -> Recipe:
        """The recipe with these parts of the episodes, whatever the store."""
        return replace(self, split=partial(_constant_split, split))

    def settings(self) -> dict[str, Any]:
        """The settings by name as JSON values; those of a part in a mapping. Seeds are left out."""
        parts = {name: loads(to_json(getattr(self, field))) for name, field in PARTS.items()}
        for name in ("training", "heads"):
            del parts[name]["seed"]
        return {**{name: getattr(self, name) for name in NUMBERS}, **parts}

    def with_settings(self, values: Mapping[str, object]) -> Recipe:
        """The recipe with other settings.

        Args:
            values: by path, such as "horizon" or "training.num_updates", or in nested mappings as in `run.toml`; see
                `replace_at`. A horizon that is set is exact.

        Raises:
            UnknownNameError: there is no such setting; the message suggests the nearest and lists the settings there.
            ConfigError: a value has the wrong type or is out of range.
        """
        changed = dict[str, Any]()
        for name, value in nested(values).items():
            if name in NUMBERS:
                changed[name] = _count(name, value)
            elif name not in PARTS:
                raise UnknownNameError("setting", name, (*PARTS, *NUMBERS))
            elif not isinstance(value, Mapping):
                raise ConfigError(f"{name} is {value!r}. Set one of its fields, such as {self._example(name)}.")
            elif name in ("training", "heads") and "seed" in value:
                raise ConfigError(f"{name}.seed is set by the seed of the run. Use --seed or seed=.")
            else:
                changed[PARTS[name]] = replace_at(getattr(self, PARTS[name]), value, where=name)
        return replace(self, **changed, exact_horizon=self.exact_horizon or "horizon" in changed)

    def _example(self, part: str) -> str:
        name, value = next(item for item in self.settings()[part].items() if not isinstance(item[1], dict | list))
        return f"{part}.{name}={value}"


def check_settings(values: Mapping[str, object]) -> None:
    """Checks the names of settings that do not depend on the recipe, before the logs are read.

    Args:
        values: nested mappings, as in `Recipe.with_settings`.

    Raises:
        UnknownNameError: there is no such setting.
    """
    for name, value in values.items():
        if name not in (*PARTS, *NUMBERS):
            raise UnknownNameError("setting", name, (*PARTS, *NUMBERS))
        if name in _KINDS and isinstance(value, Mapping):
            known = [f"{name}.{field.name}" for field in fields(_KINDS[name])]
            for path in [f"{name}.{key}" for key in value]:
                if path not in known:
                    raise UnknownNameError("setting", path, known)


def _constant_split(split: Split, store: Store) -> Split:
    del store
    return split


def _count(name: str, value: object) -> int:
    minimum = 0 if name == "num_proposals" else 1
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigError(f"{name} is {value!r}. It must be a whole number of at least {minimum}.")
    return value


def planner_for(schema: Schema, cem: CrossEntropy) -> Planner:
    """`cem`, or a categorical planner of the same size if an action is discrete."""
    if all(signal.kind is not Kind.DISCRETE for signal in schema.actions):
        return cem
    return Categorical(num_candidates=cem.num_candidates, num_iterations=cem.num_iterations, num_elites=cem.num_elites)


def vector_planner(schema: Schema) -> Planner:
    """For worlds of vectors without goal heads: a short search, then steps along the slope, which smooth its plan."""
    return planner_for(schema, CrossEntropy(num_newton_steps=1, num_gradient_steps=4, learning_rate=0.06))
