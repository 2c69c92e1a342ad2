"""Chooses the recipe of a world of vectors: every candidate is tried, and the best is trained further.

A linear model is fitted first, in seconds. It is the reference of all candidates, and the result if none of them beats
it. docs/howto/how-learning-chooses.md explains the rule, and benchmarks/stranger_errors.py measures it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch

from worldline.audit.queries import predicted_vectors, window_forecasts
from worldline.audit.training_measurements import Choice, Trial
from worldline.data.splits import Split, split_store
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, evenly_spaced, forecast_windows
from worldline.engines.learned import LearnedEngine
from worldline.errors import CollapseError, ConfigError, DataError, InputError, UnsupportedError
from worldline.models.base import WorldModel
from worldline.planning.planners.base import Planner
from worldline.progress import OnProgress, tell
from worldline.recipes.families import with_family
from worldline.recipes.recipe import Recipe
from worldline.registry import imported, load
from worldline.schema import Kind
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio
from worldline.training.distributed import world_size
from worldline.training.heads.distance import check_goals
from worldline.workflows.budget import within
from worldline.workflows.learn_options import AUTO, Options, seconds
from worldline.workflows.training import (
    HEAD_EPISODES,
    Learned,
    Unseen,
    evenly_chosen,
    fitted_to_all,
    learn_engine,
    unseen_engines,
)
from worldline.world.base import World
from worldline.world.local import LocalWorld

LINEAR: Final = "linear"
CANDIDATES: Final = (LINEAR, "recurrent", "ensemble", "ensemble-memory", "ensemble-delays")
"""Registered names of recipes, in the order of trial and of preference in near ties."""
TRIAL_SHARE: Final = 0.25
"""Share of a recipe's updates in its trial."""
DEFAULT_S: Final = 180.0
"""Time budget without one by the user, s."""
TRIAL_CHECKS: Final = 6
CONTINUED_SHARE: Final = 0.4
"""Share of open-loop updates after the comparison, if the recipe has no higher one."""
BUDGET_SHARE: Final = 0.35
"""Share of a time budget for all trials together."""
CONTEXT: Final = 25
"""Largest number of observations before a forecast."""
STEPS: Final = (1, 10, 48)
"""Steps ahead that are compared, as far as the horizon goes."""
PER_EPISODE: Final = 4
"""Fewest windows of an episode; fewer episodes have more each."""
MIN_WINDOWS: Final = 128
TOLERATED: Final = 1.1
"""Ratio to the linear model's error at a single horizon above which the excess is added to the score."""
MIN_GAIN: Final = 0.02
"""Smallest gain over the linear model, which plans exactly and answers faster, as a share of its error."""
NEARLY: Final = 0.05
"""Relative difference of errors in short trials that does not decide. Recurrent networks and shorter histories
gain more from further training."""
MIN_ERROR: Final = 1e-4
"""Errors below this share of a standard deviation count as this share: nobody can use the difference."""


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
    recipe_of = named_recipe(store, options)
    if isinstance(recipe_of, str):
        recipe_of = imported("recipe", recipe_of) if ":" in recipe_of else load("recipe", recipe_of)
    weights = None if options.weights is None else Path(options.weights)
    recipe: Recipe = recipe_of(store)
    if options.model is not None:
        recipe = with_family(recipe, store, options.model, weights=weights)
    elif weights is not None:
        raise InputError("weights are given without a family that uses them. Add --model features or --model lewm.")
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
    used = {key: value for key, value in options.set.items() if name != LINEAR or key != "training"}
    return replace(options, recipe=name, set=used)


def time_for(options: Options) -> float | None:
    """The time budget, s; None if the user sets the training instead."""
    if options.budget is not None:
        return seconds(options.budget)
    return None if "training" in options.set else DEFAULT_S


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Forecast errors in the same windows, the error of each signal divided by its standard deviation.

    Args:
        steps: steps ahead.
        value: per step, the mean over the signals of the root mean square error.
        draws: [draws, steps], the same for bootstrap draws of episodes.
    """

    steps: tuple[int, ...]
    value: Floats
    draws: Floats

    def relative(self, other: Errors) -> Estimate:
        """The geometric mean over the steps of the ratio to the errors of another world; below 1 is better.

        An excess over `TOLERATED` at a single step counts twice, so that a gain at one step does not hide a loss at
        another.
        """
        value = _score(self.value[None], other.value[None])
        low, high = np.quantile(_score(self.draws, other.draws), (0.025, 0.975))
        return Estimate.around(float(value[0]), float(low), float(high))


def _score(errors: Floats, reference: Floats) -> Floats:
    ratios = np.log(np.maximum(errors, MIN_ERROR) / np.maximum(reference, MIN_ERROR))
    excess = np.maximum(ratios - math.log(TOLERATED), 0.0)
    return np.asarray(np.exp(ratios.mean(1) + excess.mean(1)))


def measure(
    world: World, means: Mapping[str, Floats], data: ComparisonData, surplus: Mapping[str, Floats] | None = None
) -> Errors:
    """The errors of predictions in the windows of `data`.

    Args:
        world: predicted them.
        means: per signal [W, T, n], the predictions.
        data: the windows.
        surplus: per signal [W, T, n], squared error that the predictions have in excess; None for none.
    """
    windows, spreads, at, parts = data.windows, data.spreads, np.array(data.steps) - 1, list[tuple[Floats, Floats]]()
    for signal in predicted_vectors(world, spreads):
        known = windows.known[signal.name][:, at].astype(float)
        miss = signal.difference(means[signal.name][:, at], windows.truth[signal.name][:, at].astype(float))
        squared = np.square(miss)
        if surplus is not None and signal.period is None:
            squared = squared - surplus[signal.name][:, at]
        parts.append(((squared / np.square(spreads[signal.name])).mean(-1), known))
    return pooled(data, parts)


def pooled(data: ComparisonData, parts: Sequence[tuple[Floats, Floats]]) -> Errors:
    """The errors from squared errors [W, steps] of each signal, and 1 where it was observed, else 0."""
    weights, value, draws = draw_clusters(int(data.windows.episode.max()) + 1, 0), [], []
    for squared, known in parts:
        totals = squared * known, known
        sums, counts = (cluster_sums(values, data.windows.episode, weights.shape[1]) for values in totals)
        value.append(np.sqrt(np.maximum(ratio(sums.sum(0), counts.sum(0)), 0.0)))
        draws.append(np.sqrt(np.maximum(ratio(weights @ sums, weights @ counts), 0.0)))
    return Errors(steps=data.steps, value=np.nanmean(value, 0), draws=np.nanmean(draws, 0))


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """The data that candidates are compared on.

    Args:
        split: of the logs.
        windows: of episodes that are not held out.
        numbers: [W] number of the episode of each window in the store.
        steps: steps ahead.
        spreads: standard deviation of each vector signal over these episodes; constant ones are left out.
        planner: of the worlds, which forecasts do not use.
    """

    split: Split
    windows: ForecastWindows
    numbers: Sequence[int]
    steps: tuple[int, ...]
    spreads: Mapping[str, Floats]
    planner: Planner

    def unseen_errors(self, engine: LearnedEngine, unseen: Unseen) -> Errors:
        """The errors of an engine in episodes that it was fitted to, as if it had not been.

        Each episode is predicted by the fit without it. If that is a member of an ensemble, its squared error exceeds
        that of the mean of M members by their variance, times 1 - 1 / M. The variance is that of the other members:
        they have seen the episode, so they are nearer to each other than to the one that has not.

        Source: Krogh and Vedelsby 1995, "Neural network ensembles, cross validation, and active learning".
        """
        engines = list({unseen(number): None for number in self.split.not_held_out})
        fits = [predicted_means(LocalWorld(fit, None, self.planner), self.windows) for fit in engines]
        predictions = {name: np.stack([fit[name] for fit in fits]) for name in fits[0]}
        chosen = [engines.index(unseen(number)) for number in self.numbers]
        means = {name: values[chosen, np.arange(len(chosen))] for name, values in predictions.items()}
        world, share = LocalWorld(engine, None, self.planner), 1 - 1 / len(engines)
        if engine.model.closed_form or len(engines) < 3:
            return measure(world, means, self)
        surplus = {name: share * _variance_of_others(values, means[name]) for name, values in predictions.items()}
        return measure(world, means, self, surplus)


def _variance_of_others(values: Floats, one: Floats) -> Floats:
    """The variance [...] of M values [M, ...] without `one` of them."""
    apart, others = values - one, len(values) - 1
    squared = np.square(apart).sum(0) - np.square(apart.sum(0)) / others
    return np.asarray(np.maximum(squared, 0.0) / (others - 1))


def predicted_means(world: World, windows: ForecastWindows) -> dict[str, Floats]:
    """The predicted means [W, T, n] of each signal."""
    return {name: forecast.mean.astype(float) for name, forecast in window_forecasts(world, windows).items()}


def comparison_data(store: Store, recipe: Recipe) -> ComparisonData:
    """Windows of episodes that are not held out, evenly spread over the logs.

    Raises:
        DataError: no episode is long enough.
    """
    split = recipe.split(store)
    used = evenly_chosen(split.not_held_out)
    usual = int(np.quantile(store.num_steps[used], 0.2))
    horizon = max(1, min(recipe.horizon, usual * 2 // 3))
    context = max(1, min(CONTEXT, usual - horizon + 1))
    long = [number for number in used if store.num_steps[number] >= context - 1 + horizon]
    if not long:
        raise DataError("no episode is long enough to compare models", fix="Log longer episodes.", file=store.path)
    taken = [signal for signal in store.schema.observations if signal.name in recipe.model_config.inputs]
    vectors = [signal.name for signal in taken if signal.kind is Kind.VECTOR]
    names = vectors or [signal.name for signal in taken if signal.kind is Kind.IMAGE]
    episodes, per_episode = (
        {number: store.episode(number) for number in long},
        max(PER_EPISODE, MIN_WINDOWS // len(long)),
    )
    places = [
        (number, at)
        for number, episode in episodes.items()
        for at in evenly_spaced(episode.num_steps, context, horizon, per_episode)
    ]
    windows = forecast_windows(
        [(episodes[number], at) for number, at in places], length=context, horizon=horizon, targets=names
    )
    return ComparisonData(
        split=split,
        windows=windows,
        numbers=[number for number, _ in places],
        steps=_known_steps(windows, horizon),
        spreads=_spreads(store, used, vectors),
        planner=recipe.planner,
    )


def _known_steps(windows: ForecastWindows, horizon: int) -> tuple[int, ...]:
    """`STEPS` up to the horizon, each moved to the nearest step at which a signal was observed."""
    observed = np.any([mask.any(0) for mask in windows.known.values()], 0)
    known = 1 + np.flatnonzero(observed if observed.any() else ~observed)
    return tuple(sorted({int(known[np.abs(known - min(step, horizon)).argmin()]) for step in STEPS}))


def _spreads(store: Store, episodes: Sequence[int], names: Sequence[str]) -> dict[str, Floats]:
    spreads = {}
    for name in names:
        values = np.concatenate([store.read(name, n, 0, int(store.num_steps[n]) + 1) for n in episodes])
        known = np.concatenate([store.observed(name, n, 0, int(store.num_steps[n]) + 1) for n in episodes])
        spread = values[known].astype(float).std(0) if known.any() else np.zeros(values.shape[1:])
        if (spread > 0).any():
            spreads[name] = np.where(spread > 0, spread, np.inf)  # a constant component has no error
    return spreads


def beats(store: Store, trained: Sequence[Learned], linear: Learned) -> bool:
    """Whether one of the trained worlds has a smaller error than the linear one, in episodes that neither has seen."""
    data = comparison_data(store, linear.recipe)
    reference = _errors(data, linear)
    return any(_errors(data, world).relative(reference).value < 1 for world in trained)


def _errors(data: ComparisonData, learned: Learned) -> Errors:
    assert learned.unseen is not None, "candidates are fitted without parts of the logs"
    return data.unseen_errors(learned.engine, learned.unseen)


def compare_models(
    store: Store,
    make: Callable[[str], Recipe],
    linear: Learned,
    *,
    folder: Path,
    budget_s: float | None = None,
    device: torch.device,
    progress: OnProgress | None = None,
) -> tuple[Choice, WorldModel | None]:
    """The comparison of all candidates, and the model of the chosen one's trial; its `chosen` is one of `CANDIDATES`.

    All are fitted to the episodes that are not held out. The errors are those of block cross-validation: each episode
    is predicted by fits without it and its neighbours.

    Args:
        store: the logs.
        make: the recipe of a candidate, with the options of the run.
        linear: the linear world, the reference.
        folder: for checkpoints of the trials.
        budget_s: seconds of the whole run; None for a share of each recipe's updates.
        device: of the trials.
        progress: called after each trial.

    Raises:
        UnsupportedError: no candidate supports these signals.
        DataError: there are too few episodes.
    """
    recipes, reasons = _candidates(make)
    recipes = {name: _without_heads(recipe) for name, recipe in recipes.items()}
    data = comparison_data(store, recipes[LINEAR])
    errors, times_s = {LINEAR: _errors(data, linear)}, {LINEAR: linear.learn_s}
    begun = dict[str, WorldModel]()
    each_s = math.inf if budget_s is None else BUDGET_SHARE * budget_s / max(1, len(recipes) - 1)
    for number, (name, recipe) in enumerate(recipes.items()):
        tell(progress, "compare models", number, len(recipes))
        if name == LINEAR:
            continue
        place = folder / f"trial-{name}"
        try:
            trial = _trial_recipe(store, recipe, each_s)
            learned = learn_engine(store, trial, folder=place, device=device, head_episodes=HEAD_EPISODES)
            unseen = unseen_engines(store, recipe, learned.engine, place)
            assert unseen is not None
            errors[name] = data.unseen_errors(learned.engine, unseen)
        except (CollapseError, ConfigError, DataError) as error:
            reasons[name] = str(error)  # the linear world suffices
            continue
        finally:
            shutil.rmtree(place, ignore_errors=True)
        times_s[name] = learned.trained.elapsed_s
        begun[name] = learned.engine.model
    tell(progress, "compare models", len(recipes), len(recipes))
    trials = tuple(trial_of(name, own, errors[LINEAR], times_s[name]) for name, own in errors.items())
    chosen = best(trials)
    choice = Choice(
        chosen=chosen,
        reason=_reason(chosen, trials),
        steps=data.steps,
        step_s=store.schema.step_s,
        num_episodes=len(np.unique(data.windows.episode)),
        trials=trials,
        failed=reasons,
    )
    return choice, begun.get(chosen)


def _candidates(make: Callable[[str], Recipe]) -> tuple[dict[str, Recipe], dict[str, str]]:
    """The recipes of the candidates, and why others cannot be tried."""
    recipes, reasons = dict[str, Recipe](), dict[str, str]()
    for name in CANDIDATES:
        try:
            recipes[name] = make(name)
        except (UnsupportedError, ConfigError) as error:
            if name == LINEAR:
                raise
            reasons[name] = str(error)
    return recipes, reasons


def trial_of(name: str, errors: Errors, reference: Errors, learn_s: float) -> Trial:
    """A candidate with its errors, also relative to the reference."""
    relative = errors.relative(reference)
    return Trial(name=name, errors=tuple(map(float, errors.value)), relative=relative, learn_s=learn_s)


def best(trials: Sequence[Trial]) -> str:
    """The first candidate whose error is nearly the lowest; the linear model unless this is lower by `MIN_GAIN`."""
    lowest = min(trial.relative.value for trial in trials)
    near = [trial for trial in trials if trial.relative.value <= (1 + NEARLY) * lowest and trial.name != LINEAR]
    return near[0].name if near and lowest < 1 - MIN_GAIN else LINEAR


def _reason(chosen: str, trials: Sequence[Trial]) -> str:
    if chosen == LINEAR:
        return "no other model was clearly better"
    lowest = min(trials, key=lambda trial: trial.relative.value).name
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
