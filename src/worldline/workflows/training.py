"""One training run: model, heads and calibration from a store and a recipe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from worldline.data.checks import grouped
from worldline.data.splits import FEW, Split, too_short
from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.device import CPU, check_fork
from worldline.engines.learned import LearnedEngine
from worldline.episode import Episode
from worldline.errors import ConfigError, DataError
from worldline.models.base import WorldModel
from worldline.progress import OnProgress, tell
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.schema import Kind, Role
from worldline.training.batches import fit_normaliser
from worldline.training.distributed import processes
from worldline.training.heads import GoalHeads, Heads, fit_heads, refine_dynamics
from worldline.training.loop import Trained, train
from worldline.training.tracking import Tracker
from worldline.workflows.learned import Learned, Unseen
from worldline.workflows.report_data import CONTEXT
from worldline.world.calibration import Calibration
from worldline.world.call_cost import candidate_bytes, measure_call
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.logged_range import ranges_of
from worldline.world.smoke_test import smoke_windows

NUM_FOLDS = 5
"""Consecutive folds of the calibration of a model in closed form; each is predicted by a fit to the others."""
MIN_WINDOWS = 128
"""Fewest windows of such a calibration; fewer episodes give more windows each."""
MAX_CALIBRATION = 64
"""Most episodes of the training that a model is calibrated and compared on."""


def learn_world(
    store: Store,
    recipe: Recipe,
    *,
    folder: Path,
    resume: bool = False,
    progress: OnProgress | None = None,
    trackers: Sequence[Tracker] = (),
    name: str = "world",
    device: torch.device = CPU,
) -> Learned:
    """Trains the recipe's model on a store, refines its dynamics, fits its heads, and calibrates.

    A model that can predict episodes without having seen them is fitted to all episodes but the held-out ones, and
    calibrated on them: one in closed form by fits to the other folds, and one whose members leave out a fold each.

    Args:
        store: the logs.
        recipe: the configuration of the run.
        folder: for the checkpoint of the training; the caller removes it.
        resume: continue from this checkpoint.
        progress: called after each step.
        trackers: receive the measurements of the training.
        name: of the run, for the trackers.
        device: of the model and its heads.

    Raises:
        DataError: too few episodes are long enough, or an action is constant.
        CollapseError: the latents collapsed, or the loss diverged.
    """
    split = recipe.split(store)
    in_folds = load("model", recipe.model).closed_form or getattr(recipe.model_config, "folds", False)
    fitted = recipe.with_split(_fitted_to(split, not_held_out(split))) if in_folds else recipe
    found = learn_engine(
        store, fitted, folder=folder, resume=resume, progress=progress, trackers=trackers, name=name, device=device
    )
    engine = found.engine
    used = {*split.train, *split.validation, *split.calibration, *split.held_out}
    started = time.monotonic()
    tell(progress, "calibrate", 0)
    episodes: Sequence[Episode] = [store.episode(number) for number in split.calibration]
    horizon = _horizon(store, split, recipe, engine.describe().context)
    call = measure_call(engine, episodes, horizon=horizon)
    unseen = _unseen(store, recipe, engine, folder)
    calibration, episodes = _calibrated(store, recipe, engine, unseen, horizon)
    tell(progress, "calibrate", 1)
    return Learned(
        recipe=recipe,
        data_hash=engine.notes["data"],
        engine=engine,
        calibration=calibration,
        world=LocalWorld(
            engine,
            calibration,
            recipe.planner,
            num_proposals=recipe.num_proposals,
            call=call,
            bytes_per_candidate=candidate_bytes(engine, horizon=horizon),
            windows=smoke_windows(engine.describe(), episodes, horizon=horizon, seed=recipe.training.seed),
        ),
        split=split,
        trained=found.trained,
        refine_s=found.refine_s,
        refine_losses=found.refine_losses,
        heads_s=found.heads_s,
        calibrate_s=time.monotonic() - started,
        unseen=unseen,
        findings=(
            *(finding for finding in too_short(store) if finding.episode not in used),
            *Windows(store, recipe.training.window, split.train, recipe.model_config.inputs).left_out,
        ),
    )


def _calibrated(
    store: Store, recipe: Recipe, engine: LearnedEngine, unseen: Unseen | None, horizon: int
) -> tuple[Calibration, list[Episode]]:
    """The calibration and its episodes: the calibration part, or some of all that the world did not hold out."""
    split, num_windows = recipe.split(store), recipe.num_windows
    used, numbers = not_held_out(split), list(split.calibration)
    if unseen is not None:
        numbers = evenly_chosen(used)
        num_windows = max(num_windows, -(-MIN_WINDOWS // len(numbers)))
    episodes = [store.episode(number) for number in numbers]
    calibration = calibrate(
        engine,
        episodes,
        horizon=horizon,
        num_windows=num_windows,
        seed=recipe.training.seed,
        logged_range=ranges_of(store.schema, (_vectors(store, number) for number in used)),
        out_of_fold=None if unseen is None else [unseen(number) for number in numbers],
    )
    return calibration, episodes


def _vectors(store: Store, number: int) -> Episode:
    """The vectors of an episode, because images take long to read."""
    num_steps = int(store.num_steps[number])
    vectors = [signal for signal in store.schema.signals if signal.kind is Kind.VECTOR]
    arrays = grouped(
        vectors, lambda signal: store.read(signal.name, number, 0, num_steps + (signal.role is Role.OBSERVATION))
    )
    masks = {name: store.observed(name, number, 0, num_steps + 1) for name in arrays["observations"]}
    return Episode(**arrays, observed=masks)


def not_held_out(split: Split) -> list[int]:
    """The episodes of the other parts, in the order of the logs."""
    return sorted({*split.train, *split.validation, *split.calibration})


def evenly_chosen(numbers: Sequence[int]) -> list[int]:
    """At most `MAX_CALIBRATION` of these episodes, evenly spread."""
    return [numbers[at] for at in np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_CALIBRATION)).astype(int)]


def _fitted_to(split: Split, numbers: Sequence[int]) -> Split:
    """The split with these episodes for training and for its validation."""
    return replace(split, train=tuple(numbers), validation=tuple(numbers))


def _unseen(store: Store, recipe: Recipe, engine: LearnedEngine, folder: Path) -> Unseen | None:
    """The engine for each episode of the training that was fitted without it; None for other families."""
    model, split = engine.model, recipe.split(store)
    numbers = not_held_out(split)
    num_folds = NUM_FOLDS if model.closed_form else model.num_folds
    if not num_folds:
        return None
    fold_of = {number: number * num_folds // len(store) for number in numbers}

    @cache
    def fitted_without(fold: int) -> LearnedEngine:
        if not model.closed_form:
            return replace(engine, model=model.without_fold(fold))
        rest = [number for number in numbers if fold_of[number] != fold]
        return learn_engine(store, recipe.with_split(_fitted_to(split, rest)), folder=folder).engine

    return lambda number: fitted_without(fold_of[number])


@dataclass(frozen=True, kw_only=True)
class LearnedModel:
    """A trained model with its heads, before the calibration; the arguments are those of `Learned`."""

    engine: LearnedEngine
    trained: Trained
    refine_s: float
    refine_losses: tuple[float, ...]
    heads_s: float


def learn_engine(
    store: Store,
    recipe: Recipe,
    *,
    folder: Path,
    resume: bool = False,
    progress: OnProgress | None = None,
    trackers: Sequence[Tracker] = (),
    name: str = "world",
    device: torch.device = CPU,
) -> LearnedModel:
    """Like `learn_world`, without the calibration."""
    found = train_model(
        store, recipe, folder=folder, resume=resume, progress=progress, trackers=trackers, name=name, device=device
    )
    model, split, inputs = found.model, recipe.split(store), recipe.model_config.inputs
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
        trained=found.trained,
        refine_s=refine_s,
        refine_losses=() if refinement is None else refinement.losses,
        heads_s=time.monotonic() - started,
    )


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model in evaluation mode with the curves of its training."""

    model: WorldModel
    trained: Trained


def train_model(
    store: Store,
    recipe: Recipe,
    *,
    folder: Path,
    resume: bool = False,
    progress: OnProgress | None = None,
    trackers: Sequence[Tracker] = (),
    name: str = "world",
    device: torch.device = CPU,
) -> TrainedModel:
    """The recipe's model, trained; under `torchrun` every process takes part. See `learn_world`."""
    split, inputs = recipe.split(store), recipe.model_config.inputs
    started = time.monotonic()
    model = build_model(store, split, recipe).to(device)
    fit_s = time.monotonic() - started
    _check_lengths(store, split, model)
    _horizon(store, split, recipe, model.context)
    with processes(device):
        trained = train(
            model,
            store,
            split,
            inputs,
            recipe.training,
            folder=folder,
            resume=resume,
            progress=progress,
            trackers=trackers,
            name=name,
        )
    if model.closed_form:
        model.eval()
        trained = replace(trained, elapsed_s=fit_s)
    return TrainedModel(model=model, trained=trained)


def _check_lengths(store: Store, split: Split, model: WorldModel) -> None:
    """Raises DataError before the training if the episodes do not suffice for calibration or report."""
    for part, context in (("calibration", model.context), ("held_out", CONTEXT)):
        numbers = list(vars(split)[part])
        long = int((store.num_steps[numbers] >= context).sum())
        if long < 2:
            raise DataError(
                f"{long} of the {len(numbers)} episodes of the part {part!r} have {context + 1} observations, need 2",
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
    longest = {part: second_longest[part] - given + 1 for part, (_, given) in parts.items()}
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


def build_engine(store: Store, recipe: Recipe, model: WorldModel, heads: Heads) -> LearnedEngine:
    """The engine of the model with its heads."""
    engine = LearnedEngine(
        model=model,
        schema=store.schema,
        inputs=recipe.model_config.inputs,
        readout=heads.readout,
        mahalanobis=heads.mahalanobis,
        reward_head=heads.reward,
        termination_head=heads.termination,
        decoder=heads.decoder,
        name=recipe.name,
        notes={"data": store.content_hash(), "recipe": recipe.name},
    )
    return engine if heads.goals is None else with_goal_heads(engine, heads.goals)


def with_goal_heads(engine: LearnedEngine, heads: GoalHeads) -> LearnedEngine:
    """The engine with these heads for goals."""
    return replace(engine, distance_head=heads.distance, inverse_head=heads.inverse, landmarks=heads.landmarks)
