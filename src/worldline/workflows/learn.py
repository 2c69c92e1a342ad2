"""Learns a world from logs and writes a bundle: model, heads, calibration, report, run manifest."""

from __future__ import annotations

import logging
import math
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import chain, count
from json import loads
from pathlib import Path
from typing import Any

from worldline.audit.diagnostics import Diagnostics
from worldline.audit.report_evidence import Choice, Decoded, Evidence
from worldline.bundle import MANIFEST
from worldline.config import from_json, merged, to_json
from worldline.data.checks import Severity, raise_errors
from worldline.data.importing import edit_logs_command
from worldline.data.schema_edits import SchemaEdits
from worldline.data.store import Store, is_store, open_store
from worldline.device import choose_device
from worldline.errors import BundleError, CollapseError, ConfigError, InputError, StoppedError
from worldline.progress import OnProgress, stoppable, tell
from worldline.recipes.recipe import Recipe
from worldline.registry import imported, load
from worldline.report.learn_page import Report, render
from worldline.schema import Kind
from worldline.training.checkpoint import STATE
from worldline.training.distributed import barrier, rank, world_size
from worldline.workflows.budget import Sizing, size_for, within
from worldline.workflows.check import LateActions, review_log
from worldline.workflows.choosing import LINEAR, beats, chooses, compare_models, for_candidate, time_for
from worldline.workflows.decoded_windows import decoded_rmse
from worldline.workflows.learn_options import AUTO, MakeRecipe, Options, make_recipe, run_toml, seconds
from worldline.workflows.learned import Learned
from worldline.workflows.learning_logs import is_stored, open_for_learning, partial_folder, store_folder
from worldline.workflows.manifest import facts, run_manifest
from worldline.workflows.report_data import diagnosis, drawn_imagination, held_out_evidence, training_evidence
from worldline.workflows.training import learn_world, train_model
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world

_logger = logging.getLogger(__name__)

MAX_FINDINGS = 3
"""Warnings about the logs that are shown before the training, the worst first."""

MIN_LEFT = 0.3
"""Smallest share of a time budget that is left for the chosen model."""
TRAINED_SHARE = 0.9
"""Share of this time for its training; the rest is for calibration and report."""
BUDGET = "budget.json"
"""File of the sizes that fit the budget, in the folder of an unfinished run."""


@dataclass(frozen=True, kw_only=True)
class LearnResult:
    """Result of `learn_logs`.

    Args:
        world: the learned world.
        bundle: its folder.
        store: the imported logs with the schema that was used.
        learned: model, heads, calibration and training curves.
        choice: the comparison of models; None if a recipe was given, or the world sees images.
        diagnostics: on held-out episodes; None if the logs have no vector observation.
        decoded: decoded predictions of held-out episodes; empty without a decoder.
        seeds: one row per training seed; the bundle holds the best one for control.
        findings: notes on the logs and on learning, one line each.
        late: actions that are logged too late; None if they are not.
        unclear: ambiguities in the logs and the assumptions made.
        total_s: total wall time.
    """

    world: World
    bundle: Path
    store: Store
    learned: Learned
    choice: Choice | None
    diagnostics: Diagnostics | None
    decoded: tuple[Decoded, ...]
    seeds: tuple[SeedResult, ...]
    findings: tuple[str, ...]
    late: LateActions | None
    unclear: tuple[str, ...]
    total_s: float


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
    logs: Path | str | object,
    out: Path | str | None = None,
    *,
    edits: SchemaEdits | None = None,
    action_lag: int | None = None,
    recipe: str | MakeRecipe | None = None,
    model: str | None = None,
    weights: Path | str | None = None,
    split: str | None = None,
    horizon: int | None = None,
    goals: bool | None = None,
    set: Mapping[str, object] | None = None,  # noqa: A002 (the command has `--set`, and options have the same names in Python)
    config: Path | str | None = None,
    seed: int | None = None,
    num_seeds: int | None = None,
    budget: str | float | None = None,
    track: Sequence[str] = (),
    resume: bool = False,
    device: str = "auto",
    progress: OnProgress | None = None,
    stop: Callable[[], bool] | None = None,
) -> World:
    """Learns a world from logs and saves it as a bundle with a report; every process of `torchrun` returns it.

    Args:
        logs: a store or its folder, or logs that `worldline.data.open` reads: a file or folder, a pandas or polars
            frame, a mapping of arrays, or a list of episodes. These are imported into `<out>.store`, where the inferred
            schema can be edited. A later call uses this schema and adds new episodes; it imports logs in memory anew.
            Fewer than 4 recordings in memory are cut into episodes of 100 steps.
        out: folder of the bundle; an earlier bundle is replaced. Its report is `report.html`, its settings are
            `run.toml`, and `<out>.log` gets the measurements of the training. None for a new folder `world`,
            `world-2` and so on in the working directory, whose path is printed.
        edits: corrections of the inferred schema, such as {"valve": {"role": "action", "unit": "%"}}; for logs that
            are imported. `worldline.data.correct_schema` corrects a store.
        action_lag: steps by which the logs hold actions too late, see `worldline.data.ReadOptions`; for logs that are
            imported. A warning names the lag if it is needed.
        recipe: see `Options`, also for the arguments below.
        model: see `Options`.
        weights: see `Options`.
        split: see `Options`.
        horizon: see `Options`.
        goals: see `Options`.
        set: see `Options`.
        config: see `Options`.
        seed: see `Options`.
        num_seeds: see `Options`.
        budget: see `Options`.
        track: see `Options`.
        resume: see `Options`.
        device: see `Options`.
        progress: called with a `Progress` after each step: stage, completed steps, their total, and the training loss.
        stop: called after each step, such as an update of the training. If it returns True, the call saves what can be
            resumed and raises `StoppedError`, as Ctrl-C does in the command. No world is returned or written.

    Raises:
        DataError: the logs cannot be used; the message names file, episode, signal and step, and the fix.
        UnsupportedError: the family does not support these signals; the message names the reason and alternatives.
        CollapseError: the latents collapsed, or the loss diverged.
        ConfigError: a setting or the file `config` is invalid, or the horizon is too long for the episodes.
        UnknownNameError: there is no such setting, recipe, family or tracker.
        InputError: `out` is not a bundle, `<out>.store` has another `action_lag` or episodes that are not in the logs,
            or the device is unknown or not available.
        BundleError: there is nothing to resume.
        StoppedError: `stop` returned True. Call again with `resume=True` to continue; the message says what was saved.
    """
    options = Options(
        recipe=recipe,
        model=model,
        weights=None if weights is None else Path(weights),
        split=split,
        horizon=horizon,
        goals=goals,
        set=set or {},
        config=None if config is None else Path(config),
        seed=seed,
        num_seeds=num_seeds,
        budget=budget,
        track=tuple(track),
        resume=resume,
        device=device,
    )
    if stop is not None and world_size() > 1:
        raise ConfigError("stop needs a single process. Leave it out, or learn without torchrun.")
    if out is None:
        out = _new_folder()
        print(f"World: {out}")
    if rank():
        run_worker(logs, Path(out), options)
        barrier()
        return open_world(out, device=device)
    try:
        progress = stoppable(progress, stop)
        world = learn_logs(logs, out, options, edits=edits, action_lag=action_lag, progress=progress).world
    except StoppedError as error:
        again = f"out={str(out)!r} and resume=True"  # the next call without `out` would choose another folder
        raise StoppedError(f"{error}. {saved_work(logs, Path(out), resume=again)}") from error
    barrier()  # the bundle is complete
    return world


def _new_folder() -> Path:
    """The first of the folders world, world-2 and so on in the working directory that does not exist."""
    names = chain(["world"], (f"world-{number}" for number in count(2)))
    return next(path for path in map(Path, names) if not path.exists() and not store_folder(path).exists())


def learn_logs(
    logs: Path | str | object,
    out: Path | str,
    options: Options | None = None,
    *,
    edits: SchemaEdits | None = None,
    action_lag: int | None = None,
    progress: OnProgress | None = None,
) -> LearnResult:
    """Like `learn`, but returns all measurements."""
    started, out, options = time.monotonic(), Path(out), (options or Options()).resolved()
    logs = logs.path if isinstance(logs, Store) else logs
    _check(out, options)
    unfinished = partial_folder(out)
    store, findings, unclear = open_for_learning(
        logs, out, progress, edits=edits, action_lag=action_lag, resume=options.resume
    )
    if unfinished.is_dir() and not options.resume:
        shutil.rmtree(unfinished)  # of an earlier run; a later --resume must not use it
    review = review_log(store, progress)  # known before hours of training
    raise_errors(review.findings)
    worst = [one for one in review.findings if one.severity is not Severity.NOTE][:MAX_FINDINGS]
    for finding in worst:
        _logger.warning("%s", finding)
    if edit := edit_logs_command(store.path, worst, len(store)):
        _logger.warning("To leave out or mark these parts: %s", shlex.join(["worldline", *edit]))
    findings = (*map(str, worst), *findings)
    imported_s = time.monotonic() - started
    run = _OpenedLogs(
        logs=logs,
        store=store,
        out=out,
        findings=findings,
        unclear=unclear,
        late=review.late,
        imported_s=imported_s,
        started=started,
        progress=progress,
    )
    result = (_learn_chosen if chooses(store, options) else _learn_given)(run, options)
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    return result


@dataclass(frozen=True, kw_only=True)
class _OpenedLogs:
    """The logs and what is known of them before learning."""

    logs: Path | str | object
    store: Store
    out: Path
    findings: tuple[str, ...]
    unclear: tuple[str, ...]
    late: LateActions | None
    imported_s: float
    started: float
    progress: OnProgress | None


def _learn_given(run: _OpenedLogs, options: Options) -> LearnResult:
    """Learns the recipe of the options and saves the best seed for control."""
    outcomes = list(_learn_seeds(run.store, run.out, options, run.progress))
    learned = [one for one in outcomes if isinstance(one, Learned)]
    failures = [one for one in outcomes if isinstance(one, CollapseError)]
    if not learned:
        raise failures[0]
    return _save(run, options, learned, failures=failures)


def _learn_chosen(run: _OpenedLogs, options: Options) -> LearnResult:
    """Learns a linear world first, then the best model of a comparison, and saves the better one of the two."""
    store, unfinished, device = run.store, partial_folder(run.out), choose_device(options.device)
    begun = time.monotonic()

    @cache  # the choice of lags takes seconds
    def make(name: str) -> Recipe:
        return make_recipe(store, for_candidate(options, name)).with_seed(options.seeds.start)

    tell(run.progress, "learn a linear model", 0)
    recipe = make(LINEAR)
    unfinished.mkdir(parents=True, exist_ok=True)
    linear = learn_world(store, recipe, folder=unfinished / LINEAR, device=device)
    tell(run.progress, "learn a linear model", 1)
    if not run.out.exists():  # a usable world within seconds; an earlier world is replaced only by the final one
        _save_early(run, for_candidate(options, LINEAR), linear)
    kept, budget_s = unfinished / "choice.json", time_for(options)
    if options.resume and kept.exists():
        choice = from_json(Choice, kept.read_text(), where=kept)
    else:
        choice = compare_models(store, make, folder=unfinished, budget_s=budget_s, device=device, progress=run.progress)
        kept.write_text(to_json(choice))
    if choice.chosen == LINEAR:
        return _save(run, for_candidate(options, LINEAR), [linear], choice=choice)
    chosen = for_candidate(options, choice.chosen)
    if budget_s is not None:
        left_s = max(budget_s - (time.monotonic() - begun), MIN_LEFT * budget_s) / len(options.seeds)
        plan = unfinished / BUDGET
        if options.resume and plan.exists():
            sizing = from_json(Sizing, plan.read_text(), where=plan)
        else:
            sizing = within(store, make(choice.chosen), train_s=TRAINED_SHARE * left_s, heads_s=math.inf)
            plan.write_text(to_json(sizing))
        lengths = {"training": {"num_updates": sizing.num_updates, "num_checks": sizing.num_checks}}
        chosen = replace(chosen, set=merged(chosen.set, lengths), budget=None)
    outcomes = list(_learn_seeds(store, run.out, chosen, run.progress))
    learned = [one for one in outcomes if isinstance(one, Learned)]
    failures = [one for one in outcomes if isinstance(one, CollapseError)]
    if learned and beats(store, learned, linear):
        return _save(run, chosen, learned, choice=choice, failures=failures)
    reason = f"{choice.chosen} was best in the trials, but not after the whole training"
    choice = replace(choice, chosen=LINEAR, reason=reason)
    return _save(run, for_candidate(options, LINEAR), [linear], choice=choice, failures=failures)


def _save(
    run: _OpenedLogs,
    options: Options,
    trained: Sequence[Learned],
    *,
    choice: Choice | None = None,
    failures: Sequence[CollapseError] = (),
) -> LearnResult:
    """Measures the seeds, and writes the best one for control with its report."""
    store, progress = run.store, run.progress
    worlds = [(one, _diagnostics(store, one, progress)) for one in trained]
    learned, diagnostics = max(worlds, key=lambda one: one[0].trained.control)
    seeds = tuple(_seed_result(*world) for world in worlds)
    findings = (*run.findings, *_findings(store, learned, diagnostics, failures))
    measured = time.monotonic()
    tell(progress, "report", 0)
    decoded = drawn_imagination(store, learned)
    sections: tuple[Evidence, ...] = (*training_evidence(store, learned, diagnostics), *decoded)
    if diagnostics is not None:
        sections = (*sections, *held_out_evidence(store, learned, diagnostics))
    if choice is not None:
        sections = (*sections, choice)
    times_s = {"import": run.imported_s, **learned.times_s, "report": time.monotonic() - measured}
    manifest = run_manifest(store, learned, times_s=times_s, findings=findings, unclear=run.unclear)
    manifest |= {"seeds": [asdict(one) for one in seeds], "decoded_rmse": decoded_rmse(decoded)}
    if choice is not None:
        manifest["choice"] = loads(to_json(choice))
    subtitle = f"Learned from {len(store):,} logged episodes with the recipe {learned.recipe.name}."
    _write(run, options, learned, manifest, subtitle, sections)
    tell(progress, "report", 1)
    return LearnResult(
        world=learned.world,
        bundle=run.out,
        store=store,
        learned=learned,
        choice=choice,
        diagnostics=diagnostics,
        decoded=decoded,
        seeds=seeds,
        findings=findings,
        late=run.late,
        unclear=run.unclear,
        total_s=time.monotonic() - run.started,
    )


def _save_early(run: _OpenedLogs, options: Options, learned: Learned) -> None:
    """Writes a world that can be used while others are tried, without measurements."""
    times_s = {"import": run.imported_s, **learned.times_s}
    manifest = run_manifest(run.store, learned, times_s=times_s, findings=run.findings, unclear=run.unclear)
    _write(run, options, learned, manifest, "A linear world, which can be used while learning compares others.", ())


def _write(
    run: _OpenedLogs,
    options: Options,
    learned: Learned,
    manifest: dict[str, Any],
    subtitle: str,
    sections: Sequence[Evidence],
) -> None:
    """Writes the world with its settings and report."""
    realign = () if run.late is None else (shlex.join(["worldline", *run.late.command]),)
    report = Report(
        title=Path(run.logs).resolve().name if isinstance(run.logs, Path | str) else run.out.name,
        subtitle=subtitle,
        facts=facts(manifest),
        sections=tuple(sections),
        notices=tuple(manifest["findings"]),
        commands=(*realign, f"worldline audit {run.out} NEW-LOGS", f"worldline serve {run.out}"),
    )
    settings = run_toml(run.store, options, learned.recipe, horizon=learned.calibration.horizon)
    save_world(run.out, learned.world, run=manifest, settings=settings, report=render(report))


def _check(out: Path, options: Options) -> None:
    """Checks folders, and loads named recipes, families and trackers, before hours of importing.

    Raises:
        InputError: `out` is not a bundle.
        BundleError: there is nothing to resume.
        UnknownNameError: there is no such recipe, family or tracker.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists())):
        raise InputError(f"{out} exists and is no bundle. Choose another folder for the world, or delete it first.")
    recipe = None if options.recipe == AUTO else options.recipe
    given = [("recipe", recipe), ("model", options.model), *(("tracker", name) for name in options.track)]
    for kind, name in given:
        if isinstance(name, str):
            (imported if kind == "recipe" and ":" in name else load)(kind, name)
    if options.resume and not partial_folder(out).is_dir():
        raise BundleError(f"{partial_folder(out)} has no checkpoint to resume from. Start the run without --resume.")


def _learn_seeds(
    store: Store, out: Path, options: Options, progress: OnProgress | None
) -> Iterator[Learned | CollapseError]:
    """The result of each seed, or its error; a failed seed does not end the run."""
    unfinished = partial_folder(out)
    trackers = [load("tracker", name)(log_folder(out)) for name in dict.fromkeys(("jsonl", *options.track))]
    for recipe in recipes(store, unfinished, options, progress):
        folder = _seed_folder(unfinished, recipe, options)
        try:
            yield learn_world(
                store,
                recipe,
                folder=folder,
                resume=_resumes(options, unfinished, folder),
                progress=progress,
                trackers=trackers,
                name=out.name,
                device=choose_device(options.device),
            )
        except CollapseError as error:
            yield CollapseError(f"seed {recipe.training.seed}: {error}") if len(options.seeds) > 1 else error


def run_worker(logs: Path | str | object, out: Path, options: Options) -> None:
    """Joins the training that the first process of `torchrun` leads with `learn_logs`.

    Raises:
        InputError: the logs are no store.
    """
    logs = logs.path if isinstance(logs, Store) else logs
    if not is_stored(logs):
        name = logs if isinstance(logs, Path | str) else "an object in memory"
        raise InputError(f"{name} is no store, and several processes cannot import it. Import it first.")
    store, unfinished, options = open_store(logs), partial_folder(out), options.resolved()
    for recipe in recipes(store, unfinished, options, None):
        folder = _seed_folder(unfinished, recipe, options)
        with suppress(CollapseError):  # reported by the first process
            resume = _resumes(options, unfinished, folder)
            train_model(store, recipe, folder=folder, resume=resume, device=choose_device(options.device))


def recipes(store: Store, unfinished: Path, options: Options, progress: OnProgress | None) -> Iterator[Recipe]:
    """The recipe of each seed, fitted to the budget.

    A resumed run keeps the size that is stored with its checkpoint.
    """
    recipe = make_recipe(store, options)
    if options.budget is not None and recipe.training.num_updates:  # else there is nothing to fit to it
        if world_size() > 1:
            raise ConfigError("a budget needs a single process. Leave it out, or learn without torchrun.")
        tell(progress, "fit to the budget", 0)
        plan = unfinished / BUDGET
        if options.resume and plan.exists():
            chosen = from_json(Sizing, plan.read_text(), where=plan)
        else:
            budget_s = seconds(options.budget) / len(options.seeds)
            chosen = size_for(store, recipe, budget_s, device=choose_device(options.device))
            unfinished.mkdir(parents=True, exist_ok=True)
            plan.write_text(to_json(chosen))
        recipe = chosen.apply(recipe)
        tell(progress, "fit to the budget", 1)
    for seed in options.seeds:
        yield recipe.with_seed(seed)


def _seed_folder(unfinished: Path, recipe: Recipe, options: Options) -> Path:
    return unfinished if len(options.seeds) == 1 else unfinished / f"seed{recipe.training.seed}"


def _resumes(options: Options, unfinished: Path, folder: Path) -> bool:
    """Whether this seed resumes; a seed without a checkpoint starts from scratch.

    True if the interrupted run had another number of seeds, so that the missing checkpoint is an error.
    """
    begun, several = (folder / STATE).exists(), any(unfinished.glob(f"seed*/{STATE}"))
    other = several if len(options.seeds) == 1 else not several and (unfinished / STATE).exists()
    return options.resume and (begun or other)


def log_folder(out: Path) -> Path:
    """Folder of the training measurements, next to the bundle, which accepts no other files."""
    return out.with_name(f"{out.name}.log")


def saved_work(logs: Path | str | object, out: Path, *, resume: str) -> str:
    """What an interrupted run saved, and how to resume it; `resume` is the option that does so."""
    if any(partial_folder(out).rglob(STATE)):
        return f"The training is saved in {partial_folder(out)}. Run the same again with {resume}."
    if not is_stored(logs) and is_store(store_folder(out)):
        return f"The imported episodes are in {store_folder(out)}. Run the same again."
    return "Nothing was saved, because the training had not started."


def _diagnostics(store: Store, learned: Learned, progress: OnProgress | None) -> Diagnostics | None:
    card = learned.engine.describe()
    if not any(card.schema[name].kind is Kind.VECTOR for name in card.predicts):
        return None
    tell(progress, "measure", 0)
    found = diagnosis(store, learned)
    tell(progress, "measure", 1)
    return found


def _findings(
    store: Store, learned: Learned, diagnostics: Diagnostics | None, failures: Sequence[CollapseError]
) -> tuple[str, ...]:
    """The notes on learning."""
    return (
        *_unused_inputs(store, learned.recipe),
        *map(str, learned.findings),
        *learned.trained.notes,
        *map(str, failures),
        *_left_out(diagnostics),
        *_short(store, learned),
    )


def _unused_inputs(store: Store, recipe: Recipe) -> tuple[str, ...]:
    names = [one.name for one in store.schema.observations if one.name not in recipe.model_config.inputs]
    return (f"Not among the model's inputs: {', '.join(names)}.",) if names else ()


def _left_out(diagnostics: Diagnostics | None) -> tuple[str, ...]:
    if diagnostics is None or "linear" in {one.world for one in diagnostics.errors}:
        return ()
    return ("No part of the logs is completely observed: persistence is the only baseline.",)


def _short(store: Store, learned: Learned) -> tuple[str, ...]:
    """A note if calibration episodes are too short for the horizon that the user set."""
    horizon, numbers = learned.calibration.horizon, list(learned.split.calibration)
    long = int((store.num_steps[numbers] >= learned.engine.describe().context - 1 + horizon).sum())
    if not learned.recipe.exact_horizon or long == len(numbers):
        return ()
    return (f"{long} of {len(numbers)} calibration episodes are long enough for a horizon of {horizon} steps.",)


def _seed_result(learned: Learned, found: Diagnostics | None) -> SeedResult:
    seed, trained = learned.recipe.training.seed, learned.trained
    rmse: dict[str, dict[int, float]] = {}
    if found is not None:
        for error in found.errors:
            if not error.world:
                rmse[error.signal] = {step: float(error.rmse.value[step - 1]) for step in found.horizons}
    return SeedResult(seed=seed, control=trained.control, chosen_step=trained.chosen_step, rmse=rmse)
