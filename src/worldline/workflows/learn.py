"""Learns a world from logs and writes a bundle: model, heads, calibration, report, run manifest."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.report_evidence import Decoded
from worldline.bundle import MANIFEST
from worldline.config import from_json, to_json
from worldline.data.base import schema_beside
from worldline.data.checks import Finding, Severity, check_actions, raise_errors
from worldline.data.importing import import_logs, logged_actions
from worldline.data.splits import split_store
from worldline.data.store import Store, is_store, open_store
from worldline.device import choose_device
from worldline.errors import BundleError, CollapseError, ConfigError, InputError, WorldlineError
from worldline.recipes.families import with_family
from worldline.recipes.recipe import Recipe
from worldline.registry import imported, load
from worldline.report.report import Report, render
from worldline.schema import Kind
from worldline.training.checkpoint import STATE
from worldline.training.distributed import barrier, rank
from worldline.workflows.budget import Sizing, size_for
from worldline.workflows.decoded_windows import decoded_rmse
from worldline.workflows.learned import Learned
from worldline.workflows.manifest import facts, run_manifest
from worldline.workflows.report_data import (
    band_level,
    diagnosis,
    drawn_imagination,
    forecast_sample,
    training_evidence,
)
from worldline.workflows.stage import Stage, counted, tell
from worldline.workflows.training import learn_world, train_model
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world

MakeRecipe = Callable[[Store], Recipe]


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """Result of `learn_logs`.

    Args:
        world: the learned world.
        bundle: its folder.
        store: the imported logs with the schema that was used.
        learned: model, heads, calibration and training curves.
        diagnostics: on held-out episodes; None if the logs have no vector observation.
        decoded: decoded predictions of held-out episodes; empty without a decoder.
        seeds: one row per training seed; the bundle holds the best one for control.
        findings: notes on the logs and on learning, one line each.
        unclear: ambiguities in the logs and the assumptions made.
        total_s: total wall time.
    """

    world: World
    bundle: Path
    store: Store
    learned: Learned
    diagnostics: Diagnostics | None
    decoded: tuple[Decoded, ...]
    seeds: tuple[SeedResult, ...]
    findings: tuple[str, ...]
    unclear: tuple[str, ...]
    total_s: float


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run.

    Args:
        recipe: registered name, "module:name" of a function that maps a store to a recipe, or such a function. None
            for "pixels-and-vectors", "pixels" or "vectors", depending on the kinds of the observations.
        model: registered name of a family that replaces the recipe's; None keeps the recipe's.
        weights: folder of pretrained weights, for families that need them; see `recipes.families`.
        split: rule of `split_store` for the parts of the episodes; None for the recipe's.
        seed: of initial weights and batches.
        num_seeds: number of trainings, with seeds from `seed` on.
        budget_s: seconds for learning with all seeds on this machine; sets model size and number of updates. None
            for those of the recipe.
        trackers: registered names of additional trackers; "jsonl" always writes into `<out>.log`.
        resume: continue an interrupted run, in its import or from the checkpoint in `<out>.partial`.
        device: "cpu", "cuda", "cuda:1" (a number), "mps", or "auto" for the first of cuda, mps and cpu that is
            available. A run can continue on another device.
    """

    recipe: str | MakeRecipe | None = None
    model: str | None = None
    weights: Path | None = None
    split: str | None = None
    seed: int = 0
    num_seeds: int = 1
    budget_s: float | None = None
    trackers: tuple[str, ...] = ()
    resume: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ConfigError(f"num_seeds is {self.num_seeds}, expected at least 1.")
        choose_device(self.device)


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """Result of one training seed.

    Args:
        seed: of the training.
        control: score for control, see `ControlMeasures`.
        chosen_step: update of the chosen checkpoint.
        rmse: per signal and reported step, on held-out episodes; empty if no vector is predicted.
    """

    seed: int
    control: float
    chosen_step: int
    rmse: Mapping[str, Mapping[int, float]]


def learn(
    logs: Path | str,
    out: Path | str,
    *,
    recipe: str | MakeRecipe | None = None,
    model: str | None = None,
    weights: Path | str | None = None,
    split: str | None = None,
    seed: int = 0,
    num_seeds: int = 1,
    budget_s: float | None = None,
    trackers: Sequence[str] = (),
    resume: bool = False,
    device: str = "auto",
    stage: Stage | None = None,
) -> World:
    """Learns a world from logs and saves it as a bundle with a report; every process of `torchrun` returns it.

    Args:
        logs: a store, or logs that `worldline.data.open_logs.open_logs` reads. These are imported into `<out>.store`,
            where the inferred schema can be edited. A later call uses this schema and adds new episodes.
        out: folder of the bundle; an earlier bundle is replaced. Its report is `report.html`, and `<out>.log` gets
            the measurements of the training.
        recipe: see `Options`, also for the arguments below.
        model: see `Options`.
        weights: see `Options`.
        split: see `Options`.
        seed: see `Options`.
        num_seeds: see `Options`.
        budget_s: see `Options`.
        trackers: see `Options`.
        resume: see `Options`.
        device: see `Options`.
        stage: called with the name of a stage, the steps done and their total.

    Raises:
        DataError: the logs cannot be used; the message names file, episode, signal and step, and the fix.
        UnsupportedError: the family does not support these signals; the message names the reason and alternatives.
        CollapseError: the latents collapsed, or the loss diverged.
        InputError: `out` is not a bundle, `<out>.store` has episodes that are not in the logs, or the device is unknown
            or not available.
        BundleError: there is nothing to resume.
    """
    options = Options(
        recipe=recipe,
        model=model,
        weights=None if weights is None else Path(weights),
        split=split,
        seed=seed,
        num_seeds=num_seeds,
        budget_s=budget_s,
        trackers=tuple(trackers),
        resume=resume,
        device=device,
    )
    if rank():
        run_worker(Path(logs), Path(out), options)
        barrier()
        return open_world(out, device=device)
    world = learn_logs(logs, out, options, stage=stage).world
    barrier()  # the bundle is complete
    return world


def learn_logs(
    logs: Path | str, out: Path | str, options: Options | None = None, *, stage: Stage | None = None
) -> LearnResult:
    """Like `learn`, but returns all measurements."""
    started, out, options = time.monotonic(), Path(out), options or Options()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists())):
        raise InputError(f"{out} exists and is no bundle. Choose another folder for the world, or delete it first.")
    _check_names(options)
    unfinished = partial_folder(out)
    if options.resume and not unfinished.is_dir():
        raise BundleError(f"{unfinished} has no checkpoint to resume from. Start the run without --resume.")
    store, findings, unclear = _open(Path(logs), out, stage)
    imported_s = time.monotonic() - started
    if unfinished.is_dir() and not options.resume:
        shutil.rmtree(unfinished)  # of an earlier run; a later --resume must not use it
    outcomes = list(_learn_seeds(store, out, options, stage))
    worlds = [(one, _diagnostics(store, one, stage)) for one in outcomes if isinstance(one, Learned)]
    failures = [one for one in outcomes if isinstance(one, CollapseError)]
    if not worlds:
        raise failures[0]
    learned, diagnostics = max(worlds, key=lambda one: one[0].trained.control)
    seeds = tuple(_seed_result(*world) for world in worlds)
    noticed = (*map(str, learned.findings), *learned.trained.notes, *map(str, failures))
    findings = (*findings, *_unused_inputs(store, learned.recipe), *noticed, *_left_out(diagnostics))
    measured = time.monotonic()
    decoded = drawn_imagination(store, learned)
    sections = (*training_evidence(store, learned, diagnostics), *decoded)
    if diagnostics is not None and band_level(learned.calibration) is not None:
        sections = (*sections, forecast_sample(store, learned, diagnostics))
    times_s = {"import": imported_s, **learned.times_s, "report": time.monotonic() - measured}
    run = run_manifest(store, learned, times_s=times_s, findings=findings, unclear=unclear)
    run |= {"seeds": [asdict(one) for one in seeds], "decoded_rmse": decoded_rmse(decoded)}
    subtitle = f"Learned from {len(store):,} logged episodes with the recipe {learned.recipe.name}."
    report = Report(title=Path(logs).resolve().name, subtitle=subtitle, facts=facts(run), sections=sections)
    save_world(out, learned.world, run=run, report=render(report))
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    return LearnResult(
        world=learned.world,
        bundle=out,
        store=store,
        learned=learned,
        diagnostics=diagnostics,
        decoded=decoded,
        seeds=seeds,
        findings=findings,
        unclear=unclear,
        total_s=time.monotonic() - started,
    )


def _check_names(options: Options) -> None:
    """Loads named recipes, families and trackers, so that a wrong name raises before hours of importing."""
    given = [("recipe", options.recipe), ("model", options.model), *(("tracker", name) for name in options.trackers)]
    for kind, name in given:
        if isinstance(name, str):
            (imported if kind == "recipe" and ":" in name else load)(kind, name)


def _learn_seeds(store: Store, out: Path, options: Options, stage: Stage | None) -> Iterator[Learned | CollapseError]:
    """The result of each seed, or its error; a failed seed does not end the run."""
    unfinished = partial_folder(out)
    trackers = [load("tracker", name)(log_folder(out)) for name in dict.fromkeys(("jsonl", *options.trackers))]
    for recipe in recipes(store, unfinished, options, stage):
        folder = _seed_folder(unfinished, recipe, options)
        try:
            yield learn_world(
                store,
                recipe,
                folder=folder,
                resume=_resumes(options, unfinished, folder),
                stage=stage,
                trackers=trackers,
                name=out.name,
                device=choose_device(options.device),
            )
        except CollapseError as error:
            yield CollapseError(f"seed {recipe.training.seed}: {error}") if options.num_seeds > 1 else error


def run_worker(logs: Path, out: Path, options: Options) -> None:
    """Joins the training that the first process of `torchrun` leads with `learn_logs`.

    Raises:
        InputError: the logs are no store.
    """
    if not is_store(logs):
        raise InputError(f"{logs} is no store, and several processes cannot import it. Import it first.")
    store, unfinished = open_store(logs), partial_folder(out)
    for recipe in recipes(store, unfinished, options, None):
        folder = _seed_folder(unfinished, recipe, options)
        with suppress(CollapseError):  # reported by the first process
            resume = _resumes(options, unfinished, folder)
            train_model(store, recipe, folder=folder, resume=resume, device=choose_device(options.device))


def recipes(store: Store, unfinished: Path, options: Options, stage: Stage | None) -> Iterator[Recipe]:
    """The recipe of each seed, fitted to the budget.

    A resumed run keeps the size that is stored with its checkpoint.
    """
    recipe = _recipe(store, options)
    if options.budget_s is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("a budget needs a single process. Leave it out, or learn without torchrun.")
        tell(stage, "fit to the budget", 0)
        plan = unfinished / "budget.json"
        if options.resume and plan.exists():
            chosen = from_json(Sizing, plan.read_text(), where=plan)
        else:
            chosen = size_for(store, recipe, options.budget_s / options.num_seeds, device=choose_device(options.device))
            unfinished.mkdir(parents=True, exist_ok=True)
            plan.write_text(to_json(chosen))
        recipe = chosen.apply(recipe)
        tell(stage, "fit to the budget", 1)
    for seed in range(options.seed, options.seed + options.num_seeds):
        yield recipe.with_seed(seed)


def _seed_folder(unfinished: Path, recipe: Recipe, options: Options) -> Path:
    return unfinished if options.num_seeds == 1 else unfinished / f"seed{recipe.training.seed}"


def _resumes(options: Options, unfinished: Path, folder: Path) -> bool:
    """Whether this seed resumes; a seed without a checkpoint starts from scratch.

    True if the interrupted run had another number of seeds, so that the missing checkpoint is an error.
    """
    begun, several = (folder / STATE).exists(), any(unfinished.glob(f"seed*/{STATE}"))
    other = several if options.num_seeds == 1 else not several and (unfinished / STATE).exists()
    return options.resume and (begun or other)


def log_folder(out: Path) -> Path:
    """Folder of the training measurements, next to the bundle, which accepts no other files."""
    return out.with_name(f"{out.name}.log")


def partial_folder(out: Path) -> Path:
    """Folder of the checkpoint of an interrupted training, next to the bundle.

    It is empty if the import was interrupted, and absent if there is nothing to resume.
    """
    return out.with_name(f"{out.name}.partial")


def store_folder(out: Path) -> Path:
    """Folder of the imported logs, next to the bundle."""
    return out.with_name(f"{out.name}.store")


def _open(logs: Path, out: Path, stage: Stage | None) -> tuple[Store, tuple[str, ...], tuple[str, ...]]:
    """The store, the findings about the logs, and the ambiguities in them."""
    noticed: tuple[Finding, ...]
    unclear: tuple[str, ...]
    if is_store(logs):
        store = open_store(logs)
        noticed, unclear = check_actions(store.schema, logged_actions(store)), ()
    else:
        destination, unfinished = store_folder(out), partial_folder(out)
        unfinished.mkdir(parents=True, exist_ok=True)
        try:
            imported = import_logs(logs, destination, keep_going=True, only=True, progress=counted(stage, "import"))
        except WorldlineError:
            with suppress(OSError):  # not empty: it has a checkpoint
                unfinished.rmdir()
            raise
        store, noticed = open_store(destination), imported.findings
        unclear = (*imported.unclear, *_other_schema(logs, store))
    useless = [finding for finding in noticed if finding.episode is None and finding.severity is Severity.ERROR]
    raise_errors(replace(finding, fix=" ".join((finding.fix, *_other_schema(logs, store)))) for finding in useless)
    return store, tuple(map(str, noticed)), unclear


def _other_schema(logs: Path, store: Store) -> tuple[str, ...]:
    """A note if the schema next to the logs differs from the one in use, which may have been edited."""
    if is_store(logs) or schema_beside(logs) in (None, store.schema):
        return ()
    return (
        f"The schema next to the logs was not used: {store.path} has another. Move this store away to use the schema.",
    )


def _recipe(store: Store, options: Options) -> Recipe:
    given = options.recipe
    if given is None:
        kinds = {signal.kind for signal in store.schema.observations}
        seen = "pixels-and-vectors" if Kind.VECTOR in kinds else "pixels"
        given = seen if Kind.IMAGE in kinds else "vectors"
    if isinstance(given, str):
        given = imported("recipe", given) if ":" in given else load("recipe", given)
    recipe = given(store)
    if options.model is not None:
        recipe = with_family(recipe, store, options.model, weights=options.weights)
    elif options.weights is not None:
        raise InputError("weights are given without a family that uses them. Add --model features or --model lewm.")
    return recipe if options.split is None else replace(recipe, split=partial(split_store, rule=options.split))


def _diagnostics(store: Store, learned: Learned, stage: Stage | None) -> Diagnostics | None:
    card = learned.engine.describe()
    if not any(card.schema[name].kind is Kind.VECTOR for name in card.predicts):
        return None
    tell(stage, "measure", 0)
    found = diagnosis(store, learned)
    tell(stage, "measure", 1)
    return found


def _unused_inputs(store: Store, recipe: Recipe) -> tuple[str, ...]:
    names = [one.name for one in store.schema.observations if one.name not in recipe.model_config.inputs]
    return (f"Not among the model's inputs: {', '.join(names)}.",) if names else ()


def _left_out(diagnostics: Diagnostics | None) -> tuple[str, ...]:
    if diagnostics is None or "linear" in {one.world for one in diagnostics.errors}:
        return ()
    return ("No part of the logs is completely observed: persistence is the only baseline.",)


def _seed_result(learned: Learned, found: Diagnostics | None) -> SeedResult:
    seed, trained = learned.recipe.training.seed, learned.trained
    rmse: dict[str, dict[int, float]] = {}
    if found is not None:
        for error in found.errors:
            if not error.world:
                rmse[error.signal] = {step: float(error.rmse.value[step - 1]) for step in found.horizons}
    return SeedResult(seed=seed, control=trained.control, chosen_step=trained.chosen_step, rmse=rmse)
