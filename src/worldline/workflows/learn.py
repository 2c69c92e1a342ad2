"""From logs to a world in a bundle: model, heads, calibration, report, run manifest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldline.bundle import MANIFEST
from worldline.contracts.schema import Kind
from worldline.contracts.world import World
from worldline.contracts.world_model import WorldModel
from worldline.data.checks import Finding, check_actions, raise_errors
from worldline.data.importing import import_logs, logged_actions
from worldline.data.splits import Split, split_store
from worldline.data.store import Store, is_store, open_store
from worldline.data.windows import Windows
from worldline.engines.learned import LearnedEngine
from worldline.errors import InputError
from worldline.recipes.recipe import Recipe
from worldline.registry import load
from worldline.train.batches import to_window
from worldline.train.heads import Heads, fit_heads
from worldline.train.loop import train
from worldline.understanding.diagnostics import Diagnostics
from worldline.understanding.evidence import Evidence
from worldline.understanding.report import Report, render
from worldline.workflows.learned import Learned, Stage
from worldline.workflows.manifest import facts, run_manifest
from worldline.workflows.reporting import (
    BAND,
    diagnosis,
    forecast_sample,
    latent_health,
    learning_curves,
    readout_quality,
    supports,
)
from worldline.worlds.bundled import save_world
from worldline.worlds.calibration import calibrate
from worldline.worlds.local import LocalWorld

MakeRecipe = Callable[[Store], Recipe]


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """What `learn_logs` made and measured.

    Args:
        world: learned.
        bundle: the folder that holds it.
        store: the logs as they were read; its `schema.json` is the schema that was used.
        learned: everything that learning left behind.
        diagnostics: on held-out episodes; None where the logs hold no vector observation.
        findings: what was noticed in the logs, one line each.
        unclear: what could not be told from the logs, and what was assumed.
        total_s: wall time of everything.
    """

    world: World
    bundle: Path
    store: Store
    learned: Learned
    diagnostics: Diagnostics | None
    findings: tuple[str, ...]
    unclear: tuple[str, ...]
    total_s: float


def learn(
    logs: Path | str,
    out: Path | str,
    *,
    recipe: str | MakeRecipe | None = None,
    split: str | None = None,
    seed: int = 0,
    resume: bool = False,
    stage: Stage | None = None,
) -> World:
    """The world learned from logs, saved as a bundle with a report.

    Args:
        logs: a store, or whatever `worldline.data.opening.open_logs` takes: these are imported into `<out>.store`,
            where the schema that was inferred can be read.
        out: folder of the bundle; an earlier bundle is replaced. Its report is `report.html`.
        recipe: a registered name, or a function that gives the recipe for a store; default is "pixels" where there
            is an image among the observations, else "vectors".
        split: which episodes are for what, a rule of `split_store`; default is the recipe's.
        seed: of initial weights and batches.
        resume: go on from the checkpoint that an interrupted call left in `<out>.partial`.
        stage: called with the name of a stage, what is done and what there is to do.

    Raises:
        DataError: the logs cannot be used; the message names file, episode, signal and step, and what to do.
        CollapseError: the latents collapsed.
        InputError: `out` holds something that is not a bundle.
        BundleError: there is nothing to resume.
    """
    return learn_logs(logs, out, recipe=recipe, split=split, seed=seed, resume=resume, stage=stage).world


def learn_logs(
    logs: Path | str,
    out: Path | str,
    *,
    recipe: str | MakeRecipe | None = None,
    split: str | None = None,
    seed: int = 0,
    resume: bool = False,
    stage: Stage | None = None,
) -> LearnResult:
    """As `learn`, with everything that was measured on the way."""
    started, out = time.monotonic(), Path(out)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists())):
        raise InputError(f"{out} exists and is no bundle. Choose another place for the world, or delete it first.")
    store, findings, unclear = _open(Path(logs), out, stage)
    imported_s = time.monotonic() - started
    unfinished = partial_folder(out)
    chosen = _recipe(store, recipe, split).with_seed(seed)
    learned = learn_world(store, chosen, folder=unfinished, resume=resume, stage=stage)
    findings = (*findings, *(str(finding) for finding in learned.findings))
    measured = time.monotonic()
    _tell(stage, "measure", 0)
    sections, diagnostics = _evidence(store, learned)
    _tell(stage, "measure", 1)
    times_s = {"import": imported_s, **learned.times_s, "report": time.monotonic() - measured}
    run = run_manifest(store, learned, times_s=times_s, findings=findings, unclear=unclear)
    subtitle = f"Learned from {len(store):,} logged episodes with the recipe {learned.recipe.name}."
    report = Report(title=Path(logs).resolve().name, subtitle=subtitle, facts=facts(run), sections=sections)
    save_learned(out, learned, run=run, report=render(report))
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    return LearnResult(
        world=learned.world,
        bundle=out,
        store=store,
        learned=learned,
        diagnostics=diagnostics,
        findings=findings,
        unclear=unclear,
        total_s=time.monotonic() - started,
    )


def partial_folder(out: Path) -> Path:
    """Where the checkpoint of an interrupted training lies: beside the bundle, which takes no foreign file."""
    return out.with_name(f"{out.name}.partial")


def learn_world(
    store: Store, recipe: Recipe, *, folder: Path, resume: bool = False, stage: Stage | None = None
) -> Learned:
    """Trains the recipe's model on a store, fits its heads, and calibrates.

    Args:
        store: the logs.
        recipe: what to do.
        folder: for the checkpoint of the training, interrupted or complete; the caller removes it in the end.
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
    _tell(stage, "calibrate", 0)
    episodes = [store.episode(number) for number in split.calibration]
    calibration = calibrate(
        engine, episodes, horizon=recipe.horizon, num_windows=recipe.num_windows, seed=recipe.training.seed
    )
    _tell(stage, "calibrate", 1)
    return Learned(
        recipe=recipe,
        data_hash=engine.notes["data"],
        engine=engine,
        calibration=calibration,
        world=LocalWorld(engine, calibration, recipe.planner, num_proposals=recipe.num_proposals),
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


def save_learned(out: Path, learned: Learned, *, run: Mapping[str, Any], report: str) -> None:
    """Writes the bundle; an earlier one is replaced."""
    save_world(
        out,
        learned.engine,
        learned.calibration,
        learned.recipe.planner,
        num_proposals=learned.recipe.num_proposals,
        model=learned.recipe.model,
        run=run,
        report=report,
    )


def _open(logs: Path, out: Path, stage: Stage | None) -> tuple[Store, tuple[str, ...], tuple[str, ...]]:
    """The store to learn from, what was noticed in the logs, and what could not be told from them."""
    noticed: tuple[Finding, ...]
    unclear: tuple[str, ...]
    if is_store(logs):
        store = open_store(logs)
        noticed, unclear = check_actions(store.schema, logged_actions(store)), ()
    else:
        destination = out.with_name(f"{out.name}.store")
        if is_store(destination):
            shutil.rmtree(destination)  # of an earlier call; the logs may have changed since
        imported = import_logs(logs, destination, keep_going=True, progress=_named(stage, "import"))
        store, noticed, unclear = open_store(destination), imported.findings, imported.unclear
    raise_errors(finding for finding in noticed if finding.episode is None)
    return store, tuple(map(str, noticed)), unclear


def _recipe(store: Store, recipe: str | MakeRecipe | None, split: str | None) -> Recipe:
    if recipe is None:
        images = any(signal.kind is Kind.IMAGE for signal in store.schema.observations)
        recipe = "pixels" if images else "vectors"
    make: MakeRecipe = load("recipe", recipe) if isinstance(recipe, str) else recipe
    return make(store) if split is None else replace(make(store), split=partial(split_store, rule=split))


def _evidence(store: Store, learned: Learned) -> tuple[tuple[Evidence, ...], Diagnostics | None]:
    """All that can be shown of any logs."""
    sections: list[Evidence] = [learning_curves(store, learned), latent_health(learned)]
    if not learned.engine.describe().predicts:
        return tuple(sections), None
    diagnostics = diagnosis(store, learned)
    sections += [readout_quality(store, learned), diagnostics]
    if supports(learned.calibration, BAND):
        sections.append(forecast_sample(store, learned, diagnostics))
    return tuple(sections), diagnostics


def _named(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    return None if stage is None else lambda done, total: stage(name, done, total)


def _tell(stage: Stage | None, name: str, done: int) -> None:
    """A stage that is not counted: it is under way, or done."""
    if stage is not None:
        stage(name, done, 1)
