"""Options of a learning run: from the call, from a TOML file, and written as such a file beside every bundle."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from worldline.config import merged, nested, to_toml
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.device import choose_device
from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.recipes.families import with_family
from worldline.recipes.recipe import NUMBERS, PARTS, Recipe
from worldline.registry import BUILTIN, imported, load
from worldline.schema import Kind
from worldline.training.heads.distance import check_goals

MakeRecipe = Callable[[Store], Recipe]

TABLE: Final = "learn"
"""Table of a TOML file with options of the command; all other keys are settings of the recipe."""
REPEATED: Final[Mapping[str, type]] = {
    "recipe": str,
    "model": str,
    "weights": str,
    "split": str,
    "seed": int,
    "num_seeds": int,
}
"""The options in this table, which the result depends on, and their types."""
AUTO: Final = "auto"
"""Recipe that chooses: by kinds of observations if there are images, else by comparison (`workflows/choosing.py`)."""
_UNNAMED: Final = "a function in Python"
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run. They have the names of the options of the command.

    Args:
        recipe: registered name, "module:name" of a function that maps a store to a recipe, or such a function. None
            or "auto" to choose. With images it is "pixels-and-vectors" or "pixels". Without, a linear model and several
            learned ones are compared on validation episodes, and the best is trained.
        model: registered name of a family that replaces the recipe's; None keeps the recipe's.
        weights: folder of pretrained weights, for families that need them; see `recipes.families`.
        split: rule of `split_store` for the parts of the episodes; None for the recipe's.
        horizon: number of steps for which bands are calibrated and errors are reported; the same as `set={"horizon":
            ...}`. None for the recipe's, shortened if episodes are shorter.
        goals: whether to fit goal heads, for plans to pictures and in steps; the same as `set={"heads.goals": ...}`.
            None for the recipe's choice: yes for worlds with images, no for worlds of vectors.
        set: settings of the recipe by path, such as {"training.num_updates": 3000}; see `Recipe.with_settings`.
        config: TOML file with such settings, and with the options above in its table [learn], such as the `run.toml` of
            a bundle. Options of the call have precedence over it, and `set` over its settings.
        seed: of initial weights and batches; None for 0.
        num_seeds: number of trainings, with seeds from `seed` on; None for 1.
        budget: time for learning with all seeds on this machine, in seconds or as text such as "10min"; sets model size
            and number of updates. None for those of the recipe.
        track: registered names of additional trackers; "jsonl" always writes into `<out>.log`.
        resume: continue an interrupted run, in its import or from the checkpoint in `<out>.partial`.
        device: "cpu", "cuda", "cuda:1" (a number), "mps", or "auto" for the first of cuda, mps and cpu that is
            available. A run can continue on another device.

    Raises:
        ConfigError: a value is out of range.
        InputError: the device is unknown or not available.
    """

    recipe: str | MakeRecipe | None = None
    model: str | None = None
    weights: Path | None = None
    split: str | None = None
    horizon: int | None = None
    goals: bool | None = None
    set: Mapping[str, object] = field(default_factory=dict)
    config: Path | None = None
    seed: int | None = None
    num_seeds: int | None = None
    budget: str | float | None = None
    track: tuple[str, ...] = ()
    resume: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.num_seeds is not None and self.num_seeds < 1:
            raise ConfigError(f"num_seeds is {self.num_seeds}, expected at least 1.")
        for path in self._settings.keys() & self.set.keys():
            raise ConfigError(f"{path} is given as an option and in set. Give it once.")
        if self.budget is not None:
            seconds(self.budget)
        choose_device(self.device)

    @property
    def seeds(self) -> range:
        """The seeds of the trainings."""
        first = self.seed or 0
        return range(first, first + (self.num_seeds or 1))

    @property
    def _settings(self) -> dict[str, object]:
        """The options that are settings of the recipe, by path."""
        given = {"horizon": self.horizon, "heads.goals": self.goals}
        return {path: value for path, value in given.items() if value is not None}

    def resolved(self) -> Options:
        """The options with those of `config`, and `set` with its settings as nested mappings.

        Raises:
            ConfigError: the file cannot be read, has an unknown option or a value of the wrong type, or it names a
                recipe that only the caller can give.
        """
        settings = nested({**self.set, **self._settings})
        if self.config is None:
            return replace(self, horizon=None, goals=None, set=settings)
        table, stored = read_config(self.config)
        settings = merged(stored, settings)
        own = {name: getattr(self, name) for name in table if getattr(self, name) is not None}
        if "recipe" in table and "recipe" not in own:
            _check_recipe(table["recipe"], self.config)
        if "weights" in table:
            table["weights"] = Path(table["weights"])
        return replace(self, **{**table, **own}, config=None, horizon=None, goals=None, set=settings)


def seconds(budget: str | float) -> float:
    """The seconds of a duration: a number, or text such as "90s", "10min" or "1.5h".

    Raises:
        ConfigError: it is not a positive duration.
    """
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*", budget)
        value = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    else:
        value = budget
    if not value > 0:
        raise ConfigError(f"budget is {budget!r}, which is no duration. Use a number with s, min or h, such as 10min.")
    return value


def parse_settings(texts: Iterable[str]) -> dict[str, object]:
    """Settings by path from texts such as "training.num_updates=3000".

    A value is written as in TOML: 3000, 0.1, true, [1, 2] or "text"; other text needs no quotes.

    Raises:
        InputError: a text has no path, or its path was set before.
    """
    found = dict[str, object]()
    for text in texts:
        path, equals, value = (part.strip() for part in text.partition("="))
        if not (path and equals and value):
            raise InputError(f"--set {text!r} is no setting. Write PATH=VALUE, such as training.num_updates=3000.")
        if path in found:
            raise InputError(f"--set {path} is given twice. Give it once.")
        try:
            (found[path],) = tomllib.loads(f"value = {value}").values()
        except ValueError:  # also several lines
            found[path] = value
    return found


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in the table [learn] of a TOML file, and its settings of the recipe.

    Raises:
        ConfigError: the file cannot be read, there is no such option, or it has the wrong type or place.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give a TOML file, such as run.toml.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML file: {error}. Correct it, or copy the run.toml of a world.") from error
    table = tree.pop(TABLE, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {TABLE} is {table!r}. Write a table [{TABLE}] with options of the run.")
    for name, value in table.items():
        if name not in REPEATED:
            raise ConfigError(f"{path}: {UnknownNameError(f'option in [{TABLE}]', name, REPEATED)}")
        if type(value) is not REPEATED[name]:
            raise ConfigError(f"{path}: {TABLE}.{name} is {value!r}. Expected {REPEATED[name].__name__}.")
    for name in tree.keys() & REPEATED.keys() - PARTS.keys():
        raise ConfigError(f"{path}: {name} is an option of the run. Move it into the table [{TABLE}].")
    return table, tree


def _check_recipe(name: str, path: Path) -> None:
    """Refuses recipes that are code: files come from other people, and must not choose what is run."""
    if name == _UNNAMED:
        raise ConfigError(f"{path}: the recipe of this run was a function in Python. Give it again with recipe=.")
    if ":" in name:
        raise ConfigError(
            f"{path}: the recipe {name!r} is code, which a file cannot choose. Give it in the call: --recipe {name}."
        )


def make_recipe(store: Store, options: Options) -> Recipe:
    """The recipe of a run, before the budget and the seed.

    Args:
        store: the logs.
        options: resolved.

    Raises:
        UnknownNameError: there is no such recipe, family or setting.
        UnsupportedError: recipe or family do not support these signals.
        ConfigError: a setting has the wrong type or is out of range.
        InputError: weights are given without a family that uses them.
    """
    given = _given(store, options)
    if isinstance(given, str):
        given = imported("recipe", given) if ":" in given else load("recipe", given)
    recipe = given(store)
    if options.model is not None:
        recipe = with_family(recipe, store, options.model, weights=options.weights)
    elif options.weights is not None:
        raise InputError("weights are given without a family that uses them. Add --model features or --model lewm.")
    recipe = recipe.with_settings(options.set)
    if recipe.heads.goals:
        check_goals(store.schema)
    return recipe if options.split is None else replace(recipe, split=partial(split_store, rule=options.split))


def _given(store: Store, options: Options) -> str | MakeRecipe:
    if options.recipe is not None and options.recipe != AUTO:
        return options.recipe
    kinds = {signal.kind for signal in store.schema.observations}
    seen = "pixels-and-vectors" if Kind.VECTOR in kinds else "pixels"
    return seen if Kind.IMAGE in kinds else "vectors"


def run_toml(store: Store, options: Options, recipe: Recipe, *, horizon: int) -> str:
    """A TOML file that repeats a run as `config`, on the same logs.

    Args:
        store: the logs.
        options: resolved.
        recipe: with its final settings.
        horizon: of the calibration.
    """
    table = {
        "recipe": _name(_given(store, options)),
        "model": options.model,
        "weights": None if options.weights is None else str(options.weights),
        "split": options.split,
        "seed": options.seeds.start,
        "num_seeds": len(options.seeds),
    }
    values = {**recipe.settings(), "horizon": horizon}
    numbers = {name: values.pop(name) for name in NUMBERS}
    return settings_toml({**numbers, TABLE: table, **values})


def settings_toml(values: Mapping[str, Any]) -> str:
    """The text of a file of settings, with the command that uses it."""
    return f"# Repeats this run: worldline learn LOGS --config run.toml --out world/\n{to_toml(values)}\n"


def _name(recipe: str | MakeRecipe) -> str:
    """The registered name of a recipe, else "module:name" if it can be imported."""
    if isinstance(recipe, str):
        return recipe
    module, name = getattr(recipe, "__module__", ""), getattr(recipe, "__qualname__", "")
    registered = {address: name for name, address in BUILTIN["recipe"].items()}
    if (address := f"{module}:{name}") in registered:
        return registered[address]
    known = module != "__main__" and getattr(sys.modules.get(module), name, None) is recipe
    return address if known else _UNNAMED
