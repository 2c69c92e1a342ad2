"""One training run: trains a model, fits its heads and calibrates the world, from a store and a recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, Unpack

import numpy as np
import torch

from worldline.data.checks import Finding
from worldline.data.splits import FEW, Split, too_short
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.device import CPU, check_fork
from worldline.engines.base import Engine
from worldline.engines.fixed_lag import typical_values
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError
from worldline.models.base import WorldModel
from worldline.progress import OnProgress, telling
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.training.batches import fit_normaliser
from worldline.training.distributed import processes
from worldline.training.heads.base import Head
from worldline.training.heads.fitting import fit_heads, refine_dynamics
from worldline.training.loop import Trained, train
from worldline.training.tracking import Tracker
from worldline.world.calibration import Calibration
from worldline.world.call_cost import candidate_bytes, measure_call
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.logged_range import ranges_of
from worldline.world.smoke_test import smoke_windows

CONTEXT = 3
"""Fewest observations given to every world in a report, as many as the baselines use."""
NUM_FOLDS = 5
"""Consecutive folds of the calibration of a model in closed form; each is predicted by a fit to the others."""
MIN_WINDOWS = 128
"""Fewest windows of such a calibration; fewer episodes give more windows each."""
HEAD_EPISODES = 8
"""Episodes on which the heads of engines are fitted that only forecast vectors."""
FORECAST_EPISODES = 32
"""Most episodes on which a forecaster is calibrated."""
FORECAST_LENGTHS = (1, 3, 12, 48, 192)
"""Numbers of observations, up to half its context, for which a forecaster is calibrated too: it reads many, slowly."""
MAX_CALIBRATION = 64
"""Most episodes of the training that a model is calibrated and compared on."""

Unseen = Callable[[int], Engine]
"""Gets the number of an episode, and returns an engine that was fitted without it."""


class TrainingOptions(TypedDict, total=False):
    """Keywords of `learn_world` that do not change the result.

    Args:
        resume: continue from the checkpoint in the folder.
        progress: called after each step.
        trackers: receive the measurements of the training.
        name: of the run, for the trackers.
    """

    resume: bool
    progress: OnProgress | None
    trackers: Sequence[Tracker]
    name: str


AnyEngine = TypeVar("AnyEngine", bound=Engine, covariant=True)


@dataclass(frozen=True, kw_only=True)
class LearnedModel(Generic[AnyEngine]):
    """A trained model with its heads, before the calibration.

    Args:
        engine: the model with its heads, or a forecaster that was not trained.
        trained: curves and time of the training.
        refine_s: seconds of refining the dynamics, encoding included; 0 without refinement.
        refine_losses: mean training loss of each tenth of the refinement; empty without refinement.
        heads_s: seconds of fitting the heads.
    """

    engine: AnyEngine
    trained: Trained
    refine_s: float
    refine_losses: tuple[float, ...]
    heads_s: float


@dataclass(frozen=True, kw_only=True)
class Learned(LearnedModel[Engine]):
    """Model, heads, calibration, and measurements of their training.

    Args:
        recipe: of the training.
        calibration: of the engine.
        world: with this engine and calibration.
        split: parts of the episodes.
        calibrate_s: seconds of calibration.
        unseen: for each episode of the training an engine that was fitted without it; None if there is none.
        findings: episodes that were excluded from training, with reasons.
    """

    recipe: Recipe
    calibration: Calibration
    world: LocalWorld
    split: Split
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


def learn_world(
    store: Store, recipe: Recipe, *, folder: Path, device: torch.device = CPU, **options: Unpack[TrainingOptions]
) -> Learned:
    """Trains the recipe's model on a store, refines its dynamics, fits its heads, and calibrates.

    A model that can predict episodes without having seen them is fitted to all episodes but the held-out ones, and
    calibrated on them: one in closed form by fits to the other folds, and one whose members leave out a fold each.

    Args:
        store: the logs.
        recipe: the configuration of the run.
        folder: for the checkpoint of the training; the caller removes it.
        device: of the model and its heads.
        options: see `TrainingOptions`.

    Raises:
        DataError: too few episodes are long enough, or an action is constant.
        CollapseError: the latents collapsed, or the loss diverged.
    """
    split, progress = recipe.split(store), options.get("progress")
    model: LearnedModel[Engine]
    if recipe.forecaster is not None:
        model = adopted(store, recipe)
    else:
        in_folds = load("model", recipe.model).closed_form or getattr(recipe.model_config, "folds", False)
        fitted = fitted_to_all(store, recipe) if in_folds else recipe
        model = learn_engine(store, fitted, folder=folder, device=device, **options)

    # Calibrate: on the calibration episodes, or on episodes of the training that a fit has not seen.
    engine, started = model.engine, time.monotonic()
    with telling(progress, "calibrate"):
        episodes = [store.episode(number) for number in split.calibration]
        horizon = _horizon(store, split, recipe, engine.describe().context)
        call = measure_call(engine, episodes, horizon=horizon)
        unseen = unseen_engines(store, recipe, engine, folder)
        calibration, episodes = _calibrated(store, recipe, engine, unseen, horizon)

    # The world, with costs of a call and windows for the smoke test, both measured on these episodes.
    world = LocalWorld(
        engine,
        calibration,
        recipe.planner,
        num_proposals=recipe.num_proposals,
        call=call,
        bytes_per_candidate=candidate_bytes(engine, horizon=horizon) if isinstance(engine, LearnedEngine) else 0,
        windows=smoke_windows(engine.describe(), episodes, horizon=horizon, seed=recipe.training.seed),
    )
    used = {*split.not_held_out, *split.held_out}
    left_out = Windows(store, recipe.training.window, split.train, recipe.model_config.inputs).left_out
    return Learned(
        **vars(model),
        recipe=recipe,
        calibration=calibration,
        world=world,
        split=split,
        calibrate_s=time.monotonic() - started,
        unseen=unseen,
        findings=(*(finding for finding in too_short(store) if finding.episode not in used), *left_out),
    )


def learn_engine(
    store: Store,
    recipe: Recipe,
    *,
    folder: Path,
    device: torch.device = CPU,
    head_episodes: int | None = None,
    **options: Unpack[TrainingOptions],
) -> LearnedModel[LearnedEngine]:
    """Like `learn_world`, without the calibration.

    With `head_episodes`, heads are fitted on so many episodes, which suffices for forecasts of vectors.
    """
    model, trained = train_model(store, recipe, folder=folder, device=device, **options)
    split, inputs, progress = recipe.split(store), recipe.model_config.inputs, options.get("progress")
    split = replace(split, train=tuple(evenly_chosen(split.train, head_episodes or len(split.train))))
    model.requires_grad_(False)
    refinement, refine_s = None, 0.0
    if recipe.heads.dynamics_updates:
        started = time.monotonic()
        refinement = refine_dynamics(model, store, split, inputs, recipe.heads, progress=progress)
        refine_s = time.monotonic() - started
    started = time.monotonic()
    heads = fit_heads(model, store, split, inputs, recipe.heads, refinement=refinement, progress=progress)
    return LearnedModel(
        engine=build_engine(store, recipe, model, heads),
        trained=trained,
        refine_s=refine_s,
        refine_losses=() if refinement is None else refinement.losses,
        heads_s=time.monotonic() - started,
    )


def adopted(store: Store, recipe: Recipe) -> LearnedModel[Engine]:
    """The recipe's forecaster as an engine, without training.

    Raises:
        ConfigError: the horizon is longer than that of the forecaster.
        DataError: too few episodes are long enough.
    """
    from worldline.engines.forecast.engine import ForecastEngine  # most runs need none

    forecaster, config, split = recipe.forecaster, recipe.model_config, recipe.split(store)
    assert forecaster is not None, "other recipes are trained"
    if recipe.horizon > forecaster.horizon:
        raise ConfigError(
            f"horizon is {recipe.horizon}, and {forecaster.name} forecasts at most {forecaster.horizon} steps. Lower "
            "the horizon."
        )
    _check_lengths(store, split, config.context)
    signals = [store.schema[name] for name in config.inputs]
    episodes = [store.episode(number, images=False) for number in evenly_chosen(split.not_held_out)]
    engine = ForecastEngine(
        schema=store.schema,
        forecaster=forecaster,
        inputs=config.inputs,
        context=config.context,
        typical=typical_values(episodes, signals),
        notes={"data": store.content_hash(), "recipe": recipe.name},
    )
    trained = Trained(curves=(), chosen_step=0, notes=(), elapsed_s=0.0)
    return LearnedModel(engine=engine, trained=trained, refine_s=0.0, refine_losses=(), heads_s=0.0)


def train_model(
    store: Store, recipe: Recipe, *, folder: Path, device: torch.device = CPU, **options: Unpack[TrainingOptions]
) -> tuple[WorldModel, Trained]:
    """The recipe's model in evaluation mode, and its training; under `torchrun` every process takes part.

    See `learn_world`.
    """
    split, started = recipe.split(store), time.monotonic()
    model = build_model(store, split, recipe).to(device)
    fit_s = time.monotonic() - started
    _check_lengths(store, split, model.context)
    _horizon(store, split, recipe, model.context)
    with processes(device):
        trained = train(model, store, split, recipe.model_config.inputs, recipe.training, folder=folder, **options)
    if model.closed_form:
        model.eval()
        trained = replace(trained, elapsed_s=fit_s)
    return model, trained


def _calibrated(
    store: Store, recipe: Recipe, engine: Engine, unseen: Unseen | None, horizon: int
) -> tuple[Calibration, list[Episode]]:
    """The calibration and its episodes: the calibration part, or some of all that the world did not hold out."""
    split, num_windows = recipe.split(store), recipe.num_windows
    used, numbers = split.not_held_out, list(split.calibration)
    if unseen is not None:
        numbers = evenly_chosen(used, MAX_CALIBRATION if recipe.forecaster is None else FORECAST_EPISODES)
        num_windows = max(num_windows, -(-MIN_WINDOWS // len(numbers)))
    episodes, slow = [store.episode(number) for number in numbers], dict[str, Any]()
    if recipe.forecaster is not None:  # forecasts of every step would take minutes
        lengths = [length for length in FORECAST_LENGTHS if length <= recipe.model_config.context / 2]
        slow = {"with_causes": False, "lengths": lengths}
    calibration = calibrate(
        engine,
        episodes,
        horizon=horizon,
        num_windows=num_windows,
        seed=recipe.training.seed,
        logged_range=ranges_of(store.schema, (store.episode(number, images=False) for number in used)),
        out_of_fold=None if unseen is None else [unseen(number) for number in numbers],
        **slow,
    )
    return calibration, episodes


def evenly_chosen(numbers: Sequence[int], count: int = MAX_CALIBRATION) -> list[int]:
    """At most `count` of these episodes, evenly spread."""
    return [numbers[at] for at in np.linspace(0, len(numbers) - 1, min(len(numbers), count)).astype(int)]


def fitted_to_all(store: Store, recipe: Recipe) -> Recipe:
    """The recipe with all episodes but the held-out ones for training and validation, for a model with folds."""
    split = recipe.split(store)
    return recipe.with_split(_fitted_to(split, split.not_held_out))


def _fitted_to(split: Split, numbers: Sequence[int]) -> Split:
    """The split with these episodes for training and for its validation."""
    return replace(split, train=tuple(numbers), validation=tuple(numbers))


def unseen_engines(store: Store, recipe: Recipe, engine: Engine, folder: Path) -> Unseen | None:
    """The engine for each episode of the training that was fitted without it; None for other families."""
    if not isinstance(engine, LearnedEngine):
        return lambda _: engine  # fitted to no episode
    model, split = engine.model, recipe.split(store)
    numbers = split.not_held_out
    num_folds = NUM_FOLDS if model.closed_form else model.num_folds
    if not num_folds:
        return None
    fold_of = {number: number * num_folds // len(store) for number in numbers}

    @cache
    def fitted_without(fold: int) -> LearnedEngine:
        if not model.closed_form:
            return replace(engine, model=model.without_fold(fold))
        rest = [number for number in numbers if fold_of[number] != fold]
        fitted = recipe.with_split(_fitted_to(split, rest))
        return learn_engine(store, fitted, folder=folder, head_episodes=HEAD_EPISODES).engine

    return lambda number: fitted_without(fold_of[number])


def _check_lengths(store: Store, split: Split, context: int) -> None:
    """Raises DataError before the training if the episodes do not suffice for calibration or report."""
    for part, needed in (("calibration", context), ("held_out", CONTEXT)):
        numbers = list(vars(split)[part])
        long = int((store.num_steps[numbers] >= needed).sum())
        if long < 2:
            raise DataError(
                f"{long} of the {len(numbers)} episodes of the part {part!r} have {needed + 1} observations, need 2",
                fix=f"Log longer episodes, or at least {FEW}, so that each part gets two.",
                file=store.path,
            )


def _horizon(store: Store, split: Split, recipe: Recipe, context: int) -> int:
    """The calibrated horizon, which the second longest episodes of calibration and held-out set limit.

    A horizon that the user set is exact. Another one is also shortened to what four in five episodes allow.

    Raises:
        ConfigError: the exact horizon is too long.
    """
    parts = {"calibration": (split.calibration, context), "held-out": (split.held_out, CONTEXT)}
    second_longest = {part: int(np.sort(store.num_steps[list(numbers)])[-2]) for part, (numbers, _) in parts.items()}
    longest = {part: second_longest[part] - needed + 1 for part, (_, needed) in parts.items()}
    if not recipe.exact_horizon:
        usual = int(np.quantile(store.num_steps, 0.2)) - context + 1
        return max(1, min(recipe.horizon, usual, longest["calibration"]))
    part = min(longest, key=lambda name: longest[name])
    if recipe.horizon > longest[part]:
        raise ConfigError(
            f"horizon is {recipe.horizon}, but the longest possible is {longest[part]}: the second longest {part} "
            f"episode has {second_longest[part]} steps, and {parts[part][1]} observations are given. Lower the "
            "horizon, or log longer episodes."
        )
    return recipe.horizon


def build_model(store: Store, split: Split, recipe: Recipe) -> WorldModel:
    """An untrained model with a fitted normaliser, on the CPU, so that initial weights are equal on every device."""
    check_fork()
    family = load("model", recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model: WorldModel = family(schema=store.schema, config=recipe.model_config)
    if recipe.pretrained is not None:
        recipe.pretrained(model)
    model.num_episodes = len(store)
    fit_normaliser(model, store, split.train, recipe.model_config.inputs, recipe.training.window)
    return model


def build_engine(store: Store, recipe: Recipe, model: WorldModel, heads: Mapping[str, Head]) -> LearnedEngine:
    """The engine of the model with its heads."""
    return LearnedEngine(
        model=model,
        schema=store.schema,
        inputs=recipe.model_config.inputs,
        heads=heads,
        name=recipe.name,
        notes={"data": store.content_hash(), "recipe": recipe.name},
    )
