"""From logs to a world in a bundle: model, heads, calibration, run manifest."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldline.config import to_json
from worldline.contracts.world import World
from worldline.contracts.world_model import WorldModel
from worldline.data.checks import Finding, check_actions
from worldline.data.opening import import_logs
from worldline.data.splits import Split
from worldline.data.store import Store, is_store, open_store
from worldline.data.windows import Windows
from worldline.engines.learned import LearnedEngine
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.train.batches import to_window
from worldline.train.heads import Heads, fit_heads
from worldline.train.loop import Trained, train
from worldline.worlds.calibration import Calibration, calibrate
from worldline.worlds.local import LocalWorld

Stage = Callable[[str, int, int], None]
"""Called with the name of the stage, what is done and what there is to do."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Everything that learning left behind.

    Args:
        engine: the model with its heads.
        calibration: of the engine.
        world: over both.
        split: which episodes were for what.
        trained: curves and time of the training.
        heads_s: time of fitting the heads.
        calibrate_s: time of calibrating.
        findings: what was noticed in the logs.
    """

    engine: LearnedEngine
    calibration: Calibration
    world: World
    split: Split
    trained: Trained
    heads_s: float
    calibrate_s: float
    findings: tuple[Finding, ...]


def learn_world(
    store: Store, recipe: Recipe, *, folder: Path, resume: bool = False, stage: Stage | None = None
) -> Learned:
    """Trains the recipe's model on a store, fits its heads, and calibrates.

    Args:
        store: the logs.
        recipe: what to do.
        folder: for the checkpoint of an interrupted training.
        resume: go on from that checkpoint.
        stage: told about progress.

    Raises:
        DataError: no episode is long enough, or an action never changes.
        CollapseError: the latents collapsed.
    """
    split = recipe.split(store)
    inputs = recipe.model_config.inputs
    model = build_model(store, split, recipe)
    trained = train(
        model, store, split, inputs, recipe.training, folder=folder, resume=resume, progress=_named(stage, "learn")
    )
    model.requires_grad_(False)
    started = time.monotonic()
    heads = fit_heads(model, store, split, inputs, recipe.heads, progress=_named(stage, "fit heads"))
    heads_s = time.monotonic() - started
    engine = build_engine(store, recipe, model, heads)
    started = time.monotonic()
    episodes = [store.episode(number) for number in split.calibration]
    calibration = calibrate(
        engine, episodes, horizon=recipe.horizon, num_windows=recipe.num_windows, seed=recipe.training.seed
    )
    return Learned(
        engine=engine,
        calibration=calibration,
        world=LocalWorld(engine, calibration, recipe.planner),
        split=split,
        trained=trained,
        heads_s=heads_s,
        calibrate_s=time.monotonic() - started,
        findings=Windows(store, recipe.training.window, split.train, inputs).left_out,
    )


def build_model(store: Store, split: Split, recipe: Recipe) -> WorldModel:
    """An untrained model whose normaliser knows the training data."""
    family = load("model", recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model: WorldModel = family(schema=store.schema, config=recipe.model_config)
    inputs = [signal.name for signal in (*store.schema.actions, *store.schema.exogenous)]
    windows = Windows(store, recipe.training.window, split.train, [*recipe.model_config.inputs, *inputs])
    model.fit_normaliser(to_window(windows.sample(512, np.random.default_rng(0)), store.schema))
    return model


def build_engine(store: Store, recipe: Recipe, model: WorldModel, heads: Heads) -> LearnedEngine:
    """The model with its heads, behind the engine contract."""
    return LearnedEngine(
        model=model,
        schema=store.schema,
        inputs=recipe.model_config.inputs,
        readout=heads.readout,
        familiarity=heads.familiarity,
        distance_head=heads.distance,
        inverse_head=heads.inverse,
        name=recipe.name,
        notes={"data": store.content_hash(), "recipe": recipe.name},
    )


def _named(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    return None if stage is None else lambda done, total: stage(name, done, total)
