"""Chooses the recipe of a world: candidates get short trainings, and the best one is trained further.

For vectors, a linear model is fitted first, in seconds. It is the reference of all candidates, and the result if none
of them beats it. With images, see `choosing_images.py`. docs/howto/how-learning-chooses.md explains the rules, and
benchmarks/stranger_errors.py measures them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from worldline.audit.training_measurements import Choice, Trial
from worldline.config import from_json, merged, to_json
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import CollapseError, ConfigError, DataError, InputError, UnsupportedError
from worldline.formatting import round_percent
from worldline.models.base import WorldModel
from worldline.progress import OnProgress
from worldline.recipes.families import with_family
from worldline.recipes.recipe import Recipe
from worldline.registry import imported, load
from worldline.schema import Kind
from worldline.training.distributed import world_size
from worldline.training.heads.distance import check_goals
from worldline.workers import Workers, run_tasks
from worldline.workflows.budget import Sizing, stored_sizing, within
from worldline.workflows.candidate_errors import ComparisonData, Errors, comparison_data, forecaster_errors
from worldline.workflows.learn_options import AUTO, Options, seconds
from worldline.workflows.training import (
    HEAD_EPISODES,
    Learned,
    adopted,
    fitted_to_all,
    learn_engine,
    unseen_engines,
)

LINEAR: Final = "linear"
CANDIDATES: Final = (LINEAR, "recurrent", "ensemble", "ensemble-memory", "ensemble-delays")
"""Registered names of recipes, in the order of trial and of preference in near ties."""
FRACAST: Final = "fracast"
"""Recipe of the forecaster that is compared without training, if it is installed."""
CHRONOS: Final = "chronos"
"""Recipe that takes weights."""
MIN_FORECAST_GAIN: Final = 0.1
"""Smallest gain of the forecaster over all other candidates, as a share of their error. It ignores actions, so its
world cannot plan."""
TRIAL_SHARE: Final = 0.25
"""Share of a recipe's updates in its trial."""
DEFAULT_S: Final = 180.0
"""Time budget without one by the user, s."""
TRIAL_CHECKS: Final = 6
CONTINUED_SHARE: Final = 0.4
"""Share of open-loop updates after the comparison, if the recipe has no higher one."""
BUDGET_SHARE: Final = 0.35
"""Share of a time budget for all trials together."""
MIN_GAIN: Final = 0.02
"""Smallest gain over the linear model, which plans exactly and answers faster, as a share of its error."""
NEARLY: Final = 0.05
"""Relative difference of errors in short trials that does not decide. Recurrent networks and shorter histories
gain more from further training."""
MIN_LEFT: Final = 0.3
"""Smallest share of a time budget that is left for the chosen model."""
TRAINED_SHARE: Final = 0.9
"""Share of this time for the training of the best of several vector models; the rest is for calibration and report."""
CHOICE: Final = "choice.json"
"""File of the comparison, in the folder of an unfinished run."""


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
    if options.split is not None:  # recipes that measure the logs must not see what is held out
        store = copy(store)
        store.split_rule = options.split
    recipe_of = named_recipe(store, options)
    if isinstance(recipe_of, str):
        recipe_of = imported("recipe", recipe_of) if ":" in recipe_of else load("recipe", recipe_of)
    weights = None if options.weights is None else Path(options.weights)
    recipe: Recipe = load("recipe", CHRONOS)(store, weights) if options.recipe == CHRONOS else recipe_of(store)
    if options.model is not None:
        recipe = with_family(recipe, store, options.model, weights=weights)
    elif weights is not None and options.recipe != CHRONOS:
        raise InputError(
            "weights are given, and nothing uses them. Add --model features, --model lewm or --recipe chronos."
        )
    recipe = recipe.with_settings(options.set)
    if recipe.heads.goals:
        check_goals(store.schema)
    return recipe if options.split is None else replace(recipe, split=partial(split_store, rule=options.split))


def named_recipe(store: Store, options: Options) -> str | Callable[[Store], Recipe]:
    """The recipe of the options; by default the one for the kinds of observations."""
    if options.recipe is not None and options.recipe != AUTO:
        return options.recipe
    with_images = "pixels-and-vectors" if has(store, Kind.VECTOR) else "pixels"
    return with_images if has(store, Kind.IMAGE) else "vectors"


def chooses(store: Store, options: Options) -> bool:
    """Whether learning chooses among models: the user named neither recipe nor family.

    With images, settings of the model are those of the usual recipe, so there is no choice. Several processes of
    `torchrun` do not choose, because each would choose for itself.
    """
    named = options.recipe not in (None, AUTO) or options.model is not None or options.weights is not None
    able = "model" not in options.set if has(store, Kind.IMAGE) else has(store, Kind.VECTOR)
    return not named and able and world_size() == 1


def has(store: Store, kind: Kind) -> bool:
    """Whether there are observations of a kind."""
    return any(signal.kind is kind for signal in store.schema.observations)


def for_candidate(options: Options, name: str) -> Options:
    """The options for one candidate. Settings of the training do not apply to the linear model, which has none.

    Raises:
        ConfigError: a setting of the model is given, which depends on the candidate.
    """
    if "model" in options.set:
        raise ConfigError("settings of the model are given, and learning chooses the model. Name the recipe: --recipe.")
    used = {key: value for key, value in options.set.items() if name not in (LINEAR, FRACAST) or key != "training"}
    return replace(options, recipe=name, set=used)


def time_for(options: Options) -> float | None:
    """The time budget, s; None if the user sets the training instead."""
    if options.budget is not None:
        return seconds(options.budget)
    return None if "training" in options.set else DEFAULT_S


class Tried(NamedTuple):
    """A candidate after its trial.

    Args:
        errors: of its forecasts.
        learn_s: seconds of the trial.
        model: which can be trained further; None without a training.
        recipe: of the whole training.
        sizing: that fits the recipe to the budget; None without one.
    """

    errors: Errors
    learn_s: float
    model: WorldModel | None
    recipe: Recipe
    sizing: Sizing | None = None


def try_all(
    attempts: Mapping[str, Callable[[Path], Tried]], folder: Path, progress: OnProgress | None, spec: Workers
) -> tuple[dict[str, Tried], dict[str, str]]:
    """The candidates after their trials, in their order, and why others could not be tried.

    Args:
        attempts: by name; each gets a folder for its checkpoint.
        folder: of these folders.
        progress: called after each trial.
        spec: the workers.
    """
    tasks = {name: (attempt, folder / f"trial-{number}") for number, (name, attempt) in enumerate(attempts.items())}
    ended = dict(run_tasks(_attempted, tasks, spec, "compare models", progress))
    tried = {name: ended[name] for name in attempts}
    return (
        {name: trial for name, trial in tried.items() if isinstance(trial, Tried)},
        {name: reason for name, reason in tried.items() if isinstance(reason, str)},
    )


def _attempted(attempt: Callable[[Path], Tried], place: Path) -> Tried | str:
    """The candidate after its trial, or why it could not be tried."""
    try:
        return attempt(place)
    except (CollapseError, ConfigError, DataError, UnsupportedError) as error:
        return str(error)  # the reference suffices
    finally:
        shutil.rmtree(place, ignore_errors=True)


def trials_of(tried: Mapping[str, Tried], reference: str) -> tuple[Trial, ...]:
    """The candidates with their errors, also relative to those of the reference."""

    def measured(name: str, trial: Tried) -> Trial:
        errors, relative = tuple(map(float, trial.errors.value)), trial.errors.relative(tried[reference].errors)
        return Trial(name=name, errors=errors, relative=relative, learn_s=trial.learn_s)

    return tuple(measured(name, trial) for name, trial in tried.items())


def basis(store: Store, data: ComparisonData, failed: Mapping[str, str]) -> dict[str, Any]:
    """What the trials of a `Choice` were compared on, and the failed ones."""
    num_episodes, step_s = len(set(data.numbers)), store.schema.step_s
    return {"steps": data.steps, "step_s": step_s, "num_episodes": num_episodes, "failed": failed}


def stored_choice(folder: Path, options: Options) -> Choice | None:
    """The choice of the interrupted run that is resumed."""
    saved = folder / CHOICE
    return from_json(Choice, saved.read_text(), where=saved) if options.resume and saved.exists() else None


def choose_model(
    store: Store,
    options: Options,
    linear: Learned,
    *,
    folder: Path,
    begun_s: float,
    device: torch.device,
    progress: OnProgress | None = None,
) -> tuple[Choice, WorldModel | None, Options]:
    """The comparison, the model of the chosen one's trial, and the options for it, with lengths that fit the budget.

    All candidates are fitted to the episodes that are not held out. The errors are those of block cross-validation:
    each episode is predicted by fits without it and its neighbours.

    Args:
        store: the logs.
        options: of the call.
        linear: the linear world, the reference.
        folder: for the choice, which a resumed run keeps, and for checkpoints of the trials.
        begun_s: time of `time.monotonic` at which the budget began.
        device: of the trials.
        progress: called after each trial.

    Raises:
        DataError: there are too few episodes.
    """
    budget_s, choice, tried = time_for(options), stored_choice(folder, options), dict[str, Tried]()
    if choice is None:
        data = comparison_data(store, linear.recipe)
        each_s = math.inf if budget_s is None else BUDGET_SHARE * budget_s / max(1, len(CANDIDATES) - 1)
        others = [name for name in CANDIDATES if name != LINEAR]
        attempts = {name: partial(_try, store, for_candidate(options, name), data, each_s, device) for name in others}
        if find_spec(FRACAST) is not None:
            attempts[FRACAST] = partial(_try_forecaster, store, for_candidate(options, FRACAST), data, each_s)
        tried, failed = try_all(attempts, folder, progress, options.workers)
        tried = {LINEAR: Tried(_errors(data, linear), linear.learn_s, None, linear.recipe), **tried}
        trials = trials_of(tried, LINEAR)
        chosen = best(trials)
        reason = _reason(chosen, trials)
        choice = Choice(chosen=chosen, reason=reason, trials=trials, **basis(store, data, failed))
        (folder / CHOICE).write_text(to_json(choice))
    further, trial = for_candidate(options, choice.chosen), tried.get(choice.chosen)
    model = None if choice.chosen == LINEAR or trial is None else trial.model
    if choice.chosen in (LINEAR, FRACAST) or budget_s is None:
        return choice, model, further
    left_s = max(budget_s - (time.monotonic() - begun_s), MIN_LEFT * budget_s) / len(options.seeds)
    recipe = _recipe(store, further) if trial is None else trial.recipe  # the choice of lags takes seconds
    return choice, model, _fitted_to_rest(store, recipe, further, left_s, folder)


def _recipe(store: Store, options: Options) -> Recipe:
    return make_recipe(store, options).with_seed(options.seeds.start)


def _try(
    store: Store, options: Options, data: ComparisonData, each_s: float, device: torch.device, place: Path
) -> Tried:
    """A candidate after a short training of at most `each_s` seconds."""
    whole = _recipe(store, options)
    recipe = _without_heads(whole)
    trial = _trial_recipe(store, recipe, each_s)
    learned = learn_engine(store, trial, folder=place, device=device, head_episodes=HEAD_EPISODES)
    unseen = unseen_engines(store, recipe, learned.engine, place)
    assert unseen is not None, "candidates are fitted without parts of the logs"
    return Tried(data.unseen_errors(learned.engine, unseen), learned.trained.elapsed_s, learned.engine.model, whole)


def _try_forecaster(store: Store, options: Options, data: ComparisonData, each_s: float, _: Path) -> Tried:
    """The forecaster, which needs no training; refused if its forecasts would take longer than `each_s` seconds."""
    recipe = _recipe(store, options)
    engine, started = adopted(store, recipe).engine, time.monotonic()
    forecaster_errors(store, engine, replace(data, windows=data.windows.select(slice(1)), places=data.places[:1]))
    if (needed_s := len(data.places) * (time.monotonic() - started)) > each_s:
        raise UnsupportedError(f"its forecasts would take {needed_s:.0f} s, and {each_s:.0f} s are left for them")
    return Tried(forecaster_errors(store, engine, data), time.monotonic() - started, None, recipe)


def _fitted_to_rest(store: Store, recipe: Recipe, options: Options, left_s: float, folder: Path) -> Options:
    """The options of the chosen recipe, with lengths of its training that fit the rest of the time."""
    # Trials have learned single steps, so the training goes on with paths, unless the user set their share.
    share = max(CONTINUED_SHARE, recipe.training.open_loop_share)
    recipe = recipe.with_settings(merged({"training": {"open_loop_share": share}}, options.set))
    sizing = stored_sizing(folder, lambda: within(store, recipe, train_s=TRAINED_SHARE * left_s))
    sized = sizing.apply(recipe).training
    lengths = {name: getattr(sized, name) for name in ("num_updates", "num_checks", "open_loop_share")}
    return replace(options, set=merged(options.set, {"training": lengths}), budget=None)


def beats(store: Store, trained: Sequence[Learned], linear: Learned) -> bool:
    """Whether one of the trained worlds has a smaller error than the linear one, in episodes that neither has seen."""
    data = comparison_data(store, linear.recipe)
    reference = _errors(data, linear)
    return any(_errors(data, world).relative(reference).value < 1 for world in trained)


def _errors(data: ComparisonData, learned: Learned) -> Errors:
    assert learned.unseen is not None, "candidates are fitted without parts of the logs"
    return data.unseen_errors(learned.engine, learned.unseen)


def best(trials: Sequence[Trial]) -> str:
    """The first candidate whose error is nearly the lowest; the linear model unless this is lower by `MIN_GAIN`.

    The forecaster is the best one if its error is below all others by `MIN_FORECAST_GAIN`.
    """
    forecasts = [trial.relative.value for trial in trials if trial.name == FRACAST]
    trials = [trial for trial in trials if trial.name != FRACAST]
    lowest = min(trial.relative.value for trial in trials)
    near = [trial for trial in trials if trial.relative.value <= (1 + NEARLY) * lowest and trial.name != LINEAR]
    if min(forecasts, default=math.inf) < (1 - MIN_FORECAST_GAIN) * lowest:
        return FRACAST
    return near[0].name if near and lowest < 1 - MIN_GAIN else LINEAR


def _reason(chosen: str, trials: Sequence[Trial]) -> str:
    lowest = min(trials, key=lambda trial: trial.relative.value).name
    if lowest == FRACAST != chosen:
        reason = _reason(chosen, [trial for trial in trials if trial.name != FRACAST])
        return f"{reason}; {FRACAST} ignores actions and is not better by {round_percent(MIN_FORECAST_GAIN)}"
    if chosen == LINEAR:
        return "no other model was clearly better"
    return "lowest error in the trials" if lowest == chosen else f"nearly the error of {lowest}, and more to gain"


def _without_heads(recipe: Recipe) -> Recipe:
    """The recipe without heads for goals, reward and images."""
    heads = replace(recipe.heads, goals=False, outcome_updates=0, decoder_updates=0, dynamics_updates=0)
    return replace(recipe, heads=heads)


def _trial_recipe(store: Store, recipe: Recipe, each_s: float) -> Recipe:
    """The recipe with a share of its updates, as far as they fit into the time, for all but the held-out episodes."""
    fitted, updates = fitted_to_all(store, recipe), max(1, math.ceil(TRIAL_SHARE * recipe.training.num_updates))
    if each_s < math.inf:
        updates = min(updates, within(store, fitted, train_s=each_s).num_updates)
    return replace(fitted, training=replace(fitted.training, num_updates=updates, num_checks=TRIAL_CHECKS))
