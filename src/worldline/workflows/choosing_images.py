"""Chooses the recipe of a world with images: the usual one, or one that remembers earlier images.

One image shows no velocities and no covered objects. The usual recipe for images takes it for the complete state, so
two recipes with a memory are tried beside it. The usual recipe is the reference, and the result unless another one is
clearly better. docs/howto/how-learning-chooses.md explains the rule, and benchmarks/hidden_pixels.py measures it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from worldline.audit.training_measurements import Choice, Trial
from worldline.config import to_json
from worldline.data.store import Store
from worldline.data.windows import ForecastWindows, Windows
from worldline.engines.learned import LearnedEngine
from worldline.models.base import WorldModel
from worldline.models.layers.linear_forecast import least_squares
from worldline.progress import OnProgress
from worldline.recipes.recipe import Recipe
from worldline.schema import Kind
from worldline.stats import Floats, draw_clusters
from worldline.training.batches import goal_latents, to_inputs, to_window, trace, window_signals
from worldline.training.heads.distance import Distance
from worldline.workflows import choosing
from worldline.workflows.budget import BUDGET, shortened, size_for, training_share
from worldline.workflows.candidate_errors import (
    ComparisonData,
    Errors,
    comparison_data,
    measure,
    pooled,
    predicted_means,
)
from worldline.workflows.choosing import Tried, has, make_recipe, named_recipe
from worldline.workflows.learn_options import Options, seconds
from worldline.workflows.training import evenly_chosen, learn_engine
from worldline.world.local import LocalWorld

GOALS_GAIN: Final = 0.1
"""Smallest gain of a recipe that loses plans to pictures, as a share of the error of the usual one."""
MAX_EPISODES: Final = 32
"""Most episodes that heads of trials are fitted on, and most that candidates are compared on."""
MAX_FRAMES: Final = 64
"""Most frames of an episode whose pairs are ordered by the distance head."""
PATCHES: Final = 4
"""Patches of an image along each axis, whose mean colours are predicted if the logs have no vectors."""
RIDGE: Final = 0.03
"""Penalty of their least-squares readout, relative to the mean square of the features."""


def choose_recipe(
    store: Store, options: Options, *, folder: Path, device: torch.device, progress: OnProgress | None = None
) -> tuple[Choice, WorldModel | None, Options]:
    """The comparison, the model of the chosen recipe's trial, and the options for it.

    Candidates get short trainings, and are compared in episodes of the validation part, which none is fitted to.
    Without a budget, all trials together take less time than the whole training of the usual recipe.

    Args:
        store: the logs.
        options: resolved.
        folder: for the choice, which a resumed run keeps, for the sizes that fit the budget, and for checkpoints.
        device: of the trials.
        progress: called after each trial.

    Raises:
        ConfigError: a setting is invalid.
    """
    candidates, begun_s = candidate_options(store, options), time.monotonic()
    if (choice := choosing.stored_choice(folder, options)) is not None:
        return choice, None, candidates[choice.chosen]
    folder.mkdir(parents=True, exist_ok=True)
    data = part_data(store, make_recipe(store, next(iter(candidates.values()))), "validation")
    attempts = {name: partial(_try, store, own, data, device) for name, own in candidates.items()}
    tried, failed = choosing.try_all(attempts, folder, progress, options.workers)
    choice = _choice(store, tried, failed, data, options)
    (folder / choosing.CHOICE).write_text(to_json(choice))
    chosen = tried.get(choice.chosen)
    if options.budget is not None and chosen is not None and chosen.sizing is not None:
        budget_s, planned = seconds(options.budget), chosen.recipe.training.num_updates
        left = max(choosing.MIN_LEFT, 1 - (time.monotonic() - begun_s) / budget_s)
        update_s = chosen.learn_s / math.ceil(choosing.TRIAL_SHARE * planned)
        updates = training_share(chosen.recipe.heads) * left * budget_s / len(options.seeds) / update_s
        updates, heads = max(1, min(int(updates), 2 * planned)), min(1.0, left / (1 - choosing.BUDGET_SHARE))
        sizing = replace(chosen.sizing, num_updates=updates, heads=heads * chosen.sizing.heads)
        (folder / BUDGET).write_text(to_json(sizing))
    return choice, None if chosen is None else chosen.model, candidates[choice.chosen]


def candidate_options(store: Store, options: Options) -> dict[str, Options]:
    """The options for each candidate by the name of its recipe; the first one is the usual recipe for these signals."""
    usual, film = str(named_recipe(store, options)), "film-and-vectors" if has(store, Kind.VECTOR) else "film"
    return {
        usual: replace(options, recipe=usual),
        film: replace(options, recipe=film),
        f"{film}, rssm": replace(options, recipe=film, model="rssm"),
    }


def _wants_goals(options: Options) -> bool:
    """Whether the user asked for goal heads."""
    heads = options.set.get("heads")
    return isinstance(heads, Mapping) and heads.get("goals") is True


def _try(store: Store, options: Options, data: ComparisonData, device: torch.device, folder: Path) -> Tried:
    """A short training, without heads for reward, images and, unless wanted, goals."""
    recipe, sizing, goals = make_recipe(store, options).with_seed(options.seeds.start), None, _wants_goals(options)
    if options.budget is not None:
        later_s = (1 - choosing.BUDGET_SHARE) * seconds(options.budget) / len(options.seeds)
        sizing = size_for(store, recipe, later_s, device=device)
        recipe = sizing.apply(recipe)
    updates = max(1, math.ceil(choosing.TRIAL_SHARE * recipe.training.num_updates))
    training = replace(recipe.training, num_updates=updates, num_checks=choosing.TRIAL_CHECKS)
    unused = {"outcome_updates": 0, "decoder_updates": 0, "inverse_updates": 0}
    heads = replace(shortened(recipe.heads, choosing.TRIAL_SHARE), goals=goals, **unused)
    trial = replace(recipe, training=training, heads=heads)
    learned = learn_engine(store, trial, folder=folder, device=device, head_episodes=MAX_EPISODES)
    engine = learned.engine
    errors = validation_errors(store, recipe, engine, data)
    if goals:
        order = np.array([goal_error(store, engine, number) for number in dict.fromkeys(data.numbers)])
        draws = draw_clusters(len(order), 0) @ order / len(order)
        value = np.append(errors.value, order.mean())
        errors = replace(errors, value=value, draws=np.column_stack([errors.draws, draws]))
    return Tried(errors, learned.trained.elapsed_s, engine.model, recipe, sizing)


def validation_errors(store: Store, recipe: Recipe, engine: LearnedEngine, data: ComparisonData) -> Errors:
    """Errors of vectors, or of the colours of patches without vectors.

    Args:
        store: the logs.
        recipe: of the engine.
        engine: not fitted to the episodes of `data`.
        data: the compared windows.
    """
    if not data.spreads:
        return picture_errors(engine, part_data(store, recipe, "train"), data)
    world = LocalWorld(engine, None, recipe.planner)
    return measure(world, predicted_means(world, data.windows), data)


def part_data(store: Store, recipe: Recipe, part: str) -> ComparisonData:
    """Windows of episodes of one part of the logs, such as "validation"."""
    split = recipe.split(store)
    chosen = tuple(evenly_chosen(getattr(split, part), MAX_EPISODES))
    split = replace(split, train=(), calibration=(), validation=chosen)
    return comparison_data(store, recipe.with_split(split))


def _choice(
    store: Store, tried: Mapping[str, Tried], failed: Mapping[str, str], data: ComparisonData, options: Options
) -> Choice:
    """The comparison with the first candidate that could be tried."""
    goals, reference = _wants_goals(options), next(iter(tried), str(named_recipe(store, options)))
    trials = choosing.trials_of(tried, reference)
    loses_goals = reference in tried and tried[reference].recipe.heads.goals and not goals
    chosen, reason = best_recipe(trials, reference, loses_goals=loses_goals)
    return Choice(
        chosen=chosen,
        reason=reason,
        trials=trials,
        reference=reference,
        compared="vectors" if data.spreads else "images",
        goals=goals,
        **choosing.basis(store, data, failed),
    )


def best_recipe(trials: Sequence[Trial], reference: str, *, loses_goals: bool) -> tuple[str, str]:
    """The recipe with the lowest error and the reason; the reference unless another one is clearly better.

    Args:
        trials: the candidates.
        reference: the usual recipe.
        loses_goals: whether only the reference has goal heads, which the user did not ask for.
    """
    if len(trials) < 2:
        return reference, "no other recipe could be tried"
    lowest = min(trials, key=lambda trial: trial.relative.value)
    if lowest.relative.value <= 1 - (GOALS_GAIN if loses_goals else choosing.MIN_GAIN):
        lost = f"; plans to pictures need --goals or --recipe {reference}" if loses_goals else ""
        return lowest.name, f"lowest error in the trials{lost}"
    return reference, "no other recipe was clearly better"


@torch.no_grad()
def goal_error(store: Store, engine: LearnedEngine, number: int) -> float:
    """1 - the rank correlation of predicted distances with logged steps, to images of the same episode.

    Args:
        store: the logs.
        engine: with a distance head.
        number: of the episode.
    """
    model, head = engine.model, engine.required_head(Distance)
    cameras = [name for name in engine.inputs if store.schema[name].kind is Kind.IMAGE]
    generator = torch.Generator(engine.device).manual_seed(0)
    states = trace(model, store, [number], engine.inputs, generator=generator)[0].features[:, model.present]
    windows = Windows(store, 1, [number], window_signals(store.schema, engine.inputs))
    window = to_window(windows.read(windows.all_starts()), store.schema, engine.device)
    shown = {name: seen if name in cameras else torch.zeros_like(seen) for name, seen in window.observed.items()}
    taken = torch.stack([shown[name][:, 0] for name in cameras]).all(0).nonzero()[:, 0].tolist()
    frames = np.array(evenly_chosen(taken, MAX_FRAMES))
    goals = goal_latents(model, replace(window, observed=shown))
    embedded = (head.embed if head.pictures is None else head.embed_pictures)(goals)
    start, goal = (frames[rows] for rows in np.triu_indices(len(frames), 1))
    steps = head.between(head.embed(states)[start], embedded[goal])
    return 1 - float(np.nan_to_num(spearmanr(steps.cpu(), goal - start).statistic))


def picture_errors(engine: LearnedEngine, train: ComparisonData, data: ComparisonData) -> Errors:
    """Errors of the mean colours of patches of future images, read out from the latent by least squares.

    Args:
        engine: its heads are not used.
        train: windows that the readout is fitted on, with images as targets.
        data: the compared windows, likewise.
    """
    (rows, targets, seen), (features, truth, shown) = (_futures(engine, part.windows) for part in (train, data))
    rows, targets = rows[seen], targets[seen]
    centre, mean = rows.mean(0), targets.mean(0)
    weights = least_squares(torch.from_numpy(rows - centre), torch.from_numpy(targets - mean), RIDGE).numpy()
    squared = np.square((features - centre) @ weights + mean - truth).mean(-1) / np.square(targets - mean).mean()
    at = np.array(data.steps) - 1
    return pooled(data, [(squared[:, at], shown[:, at].astype(float))])


@torch.no_grad()
def _futures(engine: LearnedEngine, windows: ForecastWindows) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """The predicted latents [W, T, D], the patches [W, T, P] of the images there, and whether all were observed."""
    actions = {name: values[:, None] for name, values in windows.actions.items()}
    inputs = to_inputs(actions, windows.exogenous, engine.schema, engine.device)
    belief, generator = engine.observe(None, windows.history, seed=0), torch.Generator("cpu").manual_seed(0)
    features = engine.model.rollout(belief, inputs, generator=generator).features[:, 0].mean(1)
    patches = list[Floats]()
    for images in windows.truth.values():  # sides are multiples of 16
        *lead, height, width, _ = images.shape
        parts = images.reshape(*lead, PATCHES, height // PATCHES, PATCHES, width // PATCHES, -1)
        patches.append(parts.mean((3, 5)).reshape(*lead, -1))
    return features.double().cpu().numpy(), np.concatenate(patches, -1), np.all(list(windows.known.values()), 0)
