"""Forecast errors by which candidates of a choice between models are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from worldline.audit.queries import predicted_vectors, window_forecasts
from worldline.data.splits import Split
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, evenly_spaced, forecast_windows
from worldline.engines.base import Engine
from worldline.engines.learned import LearnedEngine
from worldline.errors import DataError
from worldline.planning.planners.base import Planner
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind
from worldline.stats import Estimate, Floats, cluster_sums, draw_clusters, ratio
from worldline.workflows.training import MIN_WINDOWS, Unseen, evenly_chosen
from worldline.world.base import World
from worldline.world.local import LocalWorld

CONTEXT: Final = 25
"""Largest number of observations before a forecast."""
STEPS: Final = (1, 10, 48)
"""Steps ahead that are compared, as far as the horizon goes."""
PER_EPISODE: Final = 4
"""Fewest windows of an episode; fewer episodes have more each."""
TOLERATED: Final = 1.1
"""Ratio to the linear model's error at a single horizon above which the excess is added to the score."""
MIN_ERROR: Final = 1e-4
"""Errors below this share of a standard deviation count as this share: nobody can use the difference."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Forecast errors in the same windows, the error of each signal divided by its standard deviation.

    Args:
        value: per step, the mean over the signals of the root mean square error.
        draws: [draws, steps], the same for bootstrap draws of episodes.
    """

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
    return Errors(value=np.nanmean(value, 0), draws=np.nanmean(draws, 0))


@dataclass(frozen=True, kw_only=True)
class ComparisonData:
    """The data that candidates are compared on.

    Args:
        split: of the logs.
        windows: of episodes that are not held out.
        places: [W] number of the episode of each window in the store, and of its last observation.
        steps: steps ahead.
        spreads: standard deviation of each vector signal over these episodes; constant ones are left out.
        planner: of the worlds, which forecasts do not use.
    """

    split: Split
    windows: ForecastWindows
    places: Sequence[tuple[int, int]]
    steps: tuple[int, ...]
    spreads: Mapping[str, Floats]
    planner: Planner

    @property
    def numbers(self) -> list[int]:
        """The number [W] of the episode of each window."""
        return [number for number, _ in self.places]

    def unseen_errors(self, engine: Engine, unseen: Unseen) -> Errors:
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
        if len(engines) < 3 or not isinstance(engine, LearnedEngine) or engine.model.closed_form:
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
    episodes = {number: store.episode(number) for number in long}
    per_episode = max(PER_EPISODE, MIN_WINDOWS // len(long))
    places = [(n, at) for n in long for at in evenly_spaced(int(store.num_steps[n]), context, horizon, per_episode)]
    cut = [(episodes[number], at) for number, at in places]
    windows = forecast_windows(cut, length=context, horizon=horizon, targets=names)
    return ComparisonData(
        split=split,
        windows=windows,
        places=places,
        steps=_known_steps(windows, horizon),
        spreads=_spreads(store, used, vectors),
        planner=recipe.planner,
    )


def forecaster_errors(store: Store, engine: Engine, data: ComparisonData) -> Errors:
    """The errors of an engine that was fitted to no episode, after all observations that it reads.

    A trained model keeps what it learned of the logs in its weights; a forecaster has the past alone.
    """
    world, longest, means = LocalWorld(engine, None, data.planner), engine.describe().context, list[dict[str, Floats]]()
    episodes = {number: store.episode(number, images=False) for number in set(data.numbers)}
    for number, at in data.places:
        length, horizon = min(at + 1, longest), data.windows.horizon
        window = forecast_windows([(episodes[number], at)], length=length, horizon=horizon)
        means.append(predicted_means(world, window))
    return measure(world, {name: np.concatenate([each[name] for each in means]) for name in means[0]}, data)


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
