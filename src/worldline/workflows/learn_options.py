"""Options of a learning run: from the call, the command, a job, or a TOML file beside every bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from worldline.data.read_options import SchemaEdits
from worldline.documents import parse_document, read_document
from worldline.errors import ConfigError, InputError, UnknownNameError

if TYPE_CHECKING:  # the command shows these options without importing torch
    from worldline.data.store import Store
    from worldline.recipes.recipe import Recipe

MakeRecipe = Callable[["Store"], "Recipe"]

TABLE: Final = "learn"
"""Table of a TOML file with options of the command; all other keys are settings of the recipe."""
REPEATED: Final[Mapping[str, type]] = {
    **dict.fromkeys(("recipe", "model", "weights", "split"), str),
    **dict.fromkeys(("seed", "num_seeds"), int),
}
"""The options in this table, which the result depends on, and their types."""
AUTO: Final = "auto"
"""Recipe that is chosen by comparison (`workflows/choosing.py`, with images `workflows/choosing_images.py`)."""
UNNAMED: Final = "a function in Python"
"""Name in a TOML file of a recipe that cannot be imported."""
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


class OptionsDict(TypedDict, total=False):
    """The fields of `Options` as keywords of `learn`."""

    recipe: str | MakeRecipe | None
    model: str | None
    weights: Path | str | None
    split: str | None
    horizon: int | None
    goals: bool | None
    set: Mapping[str, object]
    config: Path | str | None
    edits: SchemaEdits | None
    action_lag: int | None
    force: bool
    seed: int | None
    num_seeds: int | None
    budget: str | float | None
    track: Sequence[str]
    resume: bool
    device: str
    workers: int | str


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run: keywords of `learn`, options of its command, and settings of jobs.

    Args:
        recipe: registered name such as linear, ensemble, memory, pixels or pixels-and-vectors, or "module:name" of a
            function that maps a store to a recipe; in Python also such a function. By default, or with "auto", it is
            chosen: a linear model and several learned ones are compared by cross-validation, or with images recipes
            with and without a memory, and the best is trained.
        model: registered name of a model family that replaces the recipe's, such as jepa, rssm, ensemble, token,
            features, lewm, or one of your own.
        weights: folder of pretrained weights, for the recipe chronos and for families that need them, such as features.
        split: rule that holds out episodes: episode, time, time:NAME or key:NAME; by default that of the recipe.
        horizon: number of steps for which bands are calibrated and errors are reported; the same as the setting
            `horizon`. By default that of the recipe, shortened if episodes are shorter.
        goals: whether to fit goal heads, for plans to pictures and in steps; the same as the setting `heads.goals`. By
            default with images only, and without a memory.
        set: settings of the recipe by path, such as training.num_updates=3000; see `Recipe.with_settings`. In Python a
            mapping.
        config: TOML file with such settings, and with options in its table [learn], such as the run.toml of a world,
            which repeats its run. Options of the call have precedence over it, and `set` over its settings.
        edits: corrections of the inferred schema, such as {"valve": {"role": "action", "unit": "%"}}; for logs that
            are imported. `worldline.data.correct_schema` corrects a store.
        action_lag: steps by which the logs hold actions too late: 1 if a row holds the action that led to its
            measurements; for logs that are imported. A warning names the lag if it is needed.
        force: import the logs anew: they replace the store `<out>.store` of an earlier call, also if it holds others.
        seed: random seed of initial weights and batches; 0 by default.
        num_seeds: number of trainings, with seeds from `seed` on; the best one for control is kept.
        budget: time for learning with all seeds on this machine, such as 10min, or in seconds. It sets model size and
            number of updates. By default those of the recipe.
        track: registered names of additional trackers, such as tensorboard; "jsonl" always writes into
            `<out>.log`.
        resume: continue an interrupted run, in its import or from the checkpoint in `<out>.partial`.
        device: "cpu", "cuda", "cuda:1" (a number), "mps", or "auto" for the first of cuda, mps and cpu that is
            available. A run can continue on another device.
        workers: for candidates and seeds: 1 for this process, a number of processes with one thread each, "ray" for
            tasks of Ray, or "ray://HOST:PORT" for its cluster.

    Raises:
        ConfigError: a value is out of range, or `workers` is none.
        InputError: the device is unknown or not available.
    """

    recipe: str | MakeRecipe | None = None
    model: str | None = None
    weights: Path | str | None = None
    split: str | None = None
    horizon: int | None = None
    goals: bool | None = None
    set: Mapping[str, object] = field(default_factory=dict, metadata={"option": {"metavar": "PATH=VALUE"}})
    config: Path | str | None = None
    edits: SchemaEdits | None = field(default=None, metadata={"option": None})
    action_lag: int | None = None
    force: bool = False
    seed: int | None = None
    num_seeds: int | None = None
    budget: str | float | None = None
    track: Sequence[str] = ()
    resume: bool = False
    device: str = "auto"
    workers: int | str = 1

    def __post_init__(self) -> None:
        from worldline.device import choose_device  # imports torch
        from worldline.workers import is_alone  # imports multiprocessing

        if self.num_seeds is not None and self.num_seeds < 1:
            raise ConfigError(f"num_seeds is {self.num_seeds}, expected at least 1.")
        for path in self._settings.keys() & self.set.keys():
            raise ConfigError(f"{path} is given as an option and in set. Give it once.")
        if self.budget is not None:
            seconds(self.budget)
        choose_device(self.device)
        is_alone(self.workers)  # checks it

    @property
    def seeds(self) -> range:
        """The seeds of the trainings."""
        first = self.seed or 0
        return range(first, first + (self.num_seeds or 1))

    @property
    def _settings(self) -> dict[str, object]:
        """The options that are settings of the recipe, by path."""
        settings = {"horizon": self.horizon, "heads.goals": self.goals}
        return {path: value for path, value in settings.items() if value is not None}

    def replaced(self, shortcuts: OptionsDict) -> Options:
        """The options with these ones instead.

        Raises:
            UnknownNameError: there is no such option.
        """
        known = [option.name for option in fields(self)]
        for name in shortcuts:
            if name not in known:
                raise UnknownNameError("option of learn", name, known)
        return replace(self, **shortcuts)

    def resolved(self) -> Options:
        """The options with those of `config`, and `set` with its settings as nested mappings.

        Raises:
            ConfigError: the file is no TOML, has an unknown option or a value of the wrong type, or it names a
                recipe that only the caller can give.
        """
        from worldline.config import merged, nested  # imports pydantic

        settings = nested({**self.set, **self._settings})
        if self.config is None:
            return replace(self, horizon=None, goals=None, set=settings)
        path = Path(self.config)
        table, stored = read_config(path)
        own = {name: getattr(self, name) for name in table if getattr(self, name) is not None}
        if "recipe" in table and "recipe" not in own:
            _check_recipe(table["recipe"], path)
        settings = merged(stored, settings)
        return replace(self, **{**table, **own}, config=None, horizon=None, goals=None, set=settings)


def seconds(budget: str | float) -> float:
    """The seconds of a duration: a number, or text such as "90s", "10min" or "1.5h".

    Raises:
        ConfigError: it is not a positive duration.
    """
    value = budget
    if isinstance(value, str):
        parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*", value)
        value = float(parts[1]) * _SECONDS[parts[2]] if parts else 0.0
    if not value > 0:
        raise ConfigError(f"budget is {budget!r}, which is no duration. Use a number with s, min or h, such as 10min.")
    return value


def parse_settings(texts: Iterable[str]) -> dict[str, object]:
    """Settings by path from texts such as "training.num_updates=3000".

    A value is written as in TOML: 3000, 0.1, true, [1, 2] or "text"; other text needs no quotes.

    Raises:
        InputError: a text has no path, or its path was set before.
    """
    settings = dict[str, object]()
    for text in texts:
        path, equals, value = (part.strip() for part in text.partition("="))
        if not (path and equals and value):
            raise InputError(f"--set {text!r} is no setting. Write PATH=VALUE, such as training.num_updates=3000.")
        if path in settings:
            raise InputError(f"--set {path} is given twice. Give it once.")
        try:
            (settings[path],) = parse_document(f"value = {value}", f"--set {path}").values()
        except ValueError:  # text without quotes; also several lines
            settings[path] = value
    return settings


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in the table [learn] of a TOML file, and its settings of the recipe.

    Raises:
        ConfigError: the file is no TOML, there is no such option, or it has the wrong type.
    """
    tree = read_document(path, dict[str, Any], "Correct it, or copy the run.toml of a world.")
    table = tree.pop(TABLE, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {TABLE} is {table!r}. Write a table [{TABLE}] with options of the run.")
    for name, value in table.items():
        if name not in REPEATED:
            raise ConfigError(f"{path}: {UnknownNameError(f'option in [{TABLE}]', name, REPEATED)}")
        if type(value) is not REPEATED[name]:
            raise ConfigError(f"{path}: {TABLE}.{name} is {value!r}. Expected {REPEATED[name].__name__}.")
    return table, tree


def _check_recipe(name: str, path: Path) -> None:
    """Refuses recipes that are code: files come from other people, and must not choose what is run."""
    if name == UNNAMED:
        raise ConfigError(f"{path}: the recipe of this run was a function in Python. Give it again with recipe=.")
    if ":" in name:
        raise ConfigError(
            f"{path}: the recipe {name!r} is code, which a file cannot choose. Give it in the call: --recipe {name}."
        )
