"""Adds goal heads to a learned world, which then plans to pictures and in steps."""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldline.bundle import Bundle, read_bundle
from worldline.config import from_json, merged
from worldline.data.splits import Split
from worldline.data.store import Store, is_store, open_store
from worldline.engines.learned import LearnedEngine
from worldline.errors import BundleError, InputError, UnsupportedError
from worldline.progress import OnProgress
from worldline.training.heads.base import HeadsConfig
from worldline.training.heads.distance import Distance, check_goals
from worldline.training.heads.fitting import GOAL_HEADS, fit_heads
from worldline.workflows.learn import store_folder
from worldline.workflows.learn_result import settings_toml
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world


def fit_goals(
    world: Path | str,
    logs: Path | str | None = None,
    *,
    device: str = "auto",
    progress: OnProgress | None = None,
) -> World:
    """Adds goal heads to the bundle of a learned world, and returns the world.

    The heads are fitted on the training episodes, with the settings in the bundle. The bundle is replaced. Model, other
    heads, calibration and report do not change. A world that has goal heads does not change.

    Args:
        world: folder of the bundle.
        logs: the store that the world was learned from; None for `<world>.store`, where `learn` imports logs.
        device: of the fit and of the returned world; see `worldline.learn`.
        progress: called with a `Progress` after each step.

    Raises:
        BundleError: there is no bundle, or it does not name its training episodes.
        UnsupportedError: the world is not a learned one.
        InputError: `logs` is no store, or not the one that the world was learned from.
        ConfigError: an action is unbounded or discrete, or the logs have exogenous signals.
    """
    folder = Path(world).resolve()
    opened, bundle = open_world(folder, device=device), read_bundle(folder)
    engine = opened.engine
    if not isinstance(engine, LearnedEngine):
        raise UnsupportedError(
            f"{world} is a world of kind {bundle.manifest.model!r}. Only learned worlds get goal heads."
        )
    if engine.head(Distance) is not None:
        return opened
    check_goals(engine.schema)
    store, run = _training_store(world, logs, engine), _run(bundle)
    split = from_json(Split, json.dumps(run["split"]), where=folder / "run.json")
    removed = ("num_landmarks", "reach")  # settings of a head that no longer exists, in bundles from before
    settings_of_heads = {name: value for name, value in run["heads"].items() if name not in removed}
    config = from_json(HeadsConfig, json.dumps(settings_of_heads), where=folder / "run.json")
    started = time.monotonic()
    config = replace(config, goals=True, dynamics_updates=0)
    heads = fit_heads(engine.model, store, split, engine.inputs, config, kinds=GOAL_HEADS, progress=progress)
    times_s = {**run["times_s"], "goal heads": round(time.monotonic() - started, 2)}
    extended = replace(opened, engine=replace(engine, heads={**engine.heads, **heads}))
    settings = tomllib.loads(bundle.text("run.toml")) if "run.toml" in bundle.files else None
    save_world(
        folder,
        extended,
        run=merged(run, {"heads": {"goals": True}, "times_s": times_s}),
        settings=None if settings is None else settings_toml(merged(settings, {"heads": {"goals": True}})),
        report=bundle.text("report.html") if "report.html" in bundle.files else None,
    )
    return extended


def _training_store(world: Path | str, logs: Path | str | None, engine: LearnedEngine) -> Store:
    """The store that the world was learned from."""
    folder = Path(logs) if logs is not None else store_folder(Path(world).resolve())
    give = f"Give the store that {world} was learned from: worldline goals {world} STORE."
    if not is_store(folder):
        raise InputError(f"{folder} is no store. {give}")
    store = open_store(folder)
    if store.content_hash() != engine.notes.get("data"):
        raise InputError(
            f"{folder} is not the store that {world} was learned from, or it has changed. {give} If it has changed, "
            "learn the world again with --goals."
        )
    return store


def _run(bundle: Bundle) -> Mapping[str, Any]:
    """The run manifest with the training episodes and the settings of the heads."""
    run = json.loads(bundle.text("run.json")) if "run.json" in bundle.files else {}
    if not run.keys() >= {"split", "heads", "times_s"}:
        raise BundleError(
            f"{bundle.folder} does not name its training episodes in run.json. Learn the world again with --goals."
        )
    return dict(run)
