"""Learns a world from logs and writes a bundle: model, heads, calibration, report, run manifest.

`learn_logs` has all steps in order. `training.py` trains, fits heads and calibrates; `evaluation.py` evaluates.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, TypeGuard, Unpack

from worldline.audit.signal_table import Section
from worldline.audit.training_measurements import Choice
from worldline.bundle import MANIFEST
from worldline.config import to_json
from worldline.data.base import Logs, ReadOptions, noted_lag, schema_beside
from worldline.data.checks import Finding, Severity, check_actions, raise_errors
from worldline.data.formats.tables.tables import TableLogs
from worldline.data.importing import ImportReport, import_logs, with_lag_of
from worldline.data.open_logs import open_logs
from worldline.data.schema_edits import SchemaEdits
from worldline.data.splits import MIN_EPISODES
from worldline.data.store import Store, is_store, open_store
from worldline.data.store_notes import correct_schema, edit_logs_command, logged_actions, uncertain_roles, wider_bounds
from worldline.device import choose_device
from worldline.errors import BundleError, CollapseError, ConfigError, InputError, StoppedError, WorldlineError
from worldline.models.base import WorldModel
from worldline.progress import OnProgress, shown, stoppable, tell, telling
from worldline.recipes.recipe import Recipe, check_settings
from worldline.registry import imported, load
from worldline.report.learn_page import Report, render
from worldline.schema import Kind, Schema
from worldline.training.checkpoint import STATE
from worldline.training.distributed import barrier, rank, world_size
from worldline.workers import is_alone, run_tasks
from worldline.workflows.budget import size_for, stored_sizing
from worldline.workflows.check import LateActions, review_log
from worldline.workflows.choosing import LINEAR, beats, choose_model, chooses, for_candidate, has, make_recipe
from worldline.workflows.choosing_images import choose_recipe
from worldline.workflows.decoded_windows import decoded_rmse
from worldline.workflows.evaluation import Evaluation, evaluate
from worldline.workflows.learn_options import AUTO, Options, OptionsDict, seconds
from worldline.workflows.learn_result import LearnResult, facts, run_manifest, run_toml
from worldline.workflows.training import Learned, learn_world, train_model
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world

_logger = logging.getLogger(__name__)

MAX_FINDINGS = 3
"""Warnings about the logs that are shown before the training, the worst first."""
CUT_STEPS = 100
"""Steps of each episode that a long recording in memory is cut into."""


def learn(
    logs: Path | str | object,
    out: Path | str | None = None,
    options: Options | None = None,
    *,
    progress: OnProgress | Literal["auto"] | None = "auto",
    stop: Callable[[], bool] | None = None,
    **shortcuts: Unpack[OptionsDict],
) -> World:
    """Learns a world from logs and saves it as a bundle with a report.

    With several processes (`torchrun`, `accelerate launch`, Ray Train) every process returns it.

    Args:
        logs: a store or its folder, or logs that `worldline.data.open` reads: a file or folder, a pandas or polars
            frame, a mapping of arrays, or a list of episodes. These are imported into `<out>.store`, where the inferred
            schema can be edited. A later call uses this schema and adds new episodes; it imports logs in memory anew.
            Fewer than 4 recordings in memory are cut into episodes of 100 steps.
        out: folder of the bundle; an earlier bundle is replaced. Its report is `report.html`, its settings are
            `run.toml`, and `<out>.log` gets the measurements of the training. None for a new folder `world`,
            `world-2` and so on in the working directory, whose path is printed.
        options: recipe, settings, budget and others, see `Options`; None for the defaults.
        progress: called with a `Progress` after each step: stage, completed steps, their total, and the training loss.
            "auto" shows bars on a terminal and in a notebook, and nothing elsewhere; None shows nothing.
        stop: called after each step, such as an update of the training. If it returns True, the call saves what can be
            resumed and raises `StoppedError`, as Ctrl-C does in the command. No world is returned or written.
        shortcuts: fields of `options` by name, such as `recipe="memory"` or `budget="10min"`; they replace those there.

    Raises:
        DataError: the logs cannot be used; the message names file, episode, signal and step, and the fix.
        UnsupportedError: the family does not support these signals; the message names the reason and alternatives.
        CollapseError: the latents collapsed, or the loss diverged.
        ConfigError: a setting or the file `config` is invalid, or the horizon is too long for the episodes.
        UnknownNameError: there is no such option, setting, recipe, family or tracker.
        InputError: `out` is not a bundle, `<out>.store` has another `action_lag` or episodes that are not in the logs
            (`force` replaces it), or the device is unknown or not available.
        BundleError: there is nothing to resume.
        StoppedError: `stop` returned True. Call again with `resume=True` to continue; the message says what was saved.
    """
    options = (options or Options()).replaced(shortcuts)
    if stop is not None and world_size() > 1:
        raise ConfigError("stop needs a single process. Leave it out, or learn without torchrun.")
    if out is None:
        out = _new_folder()
        print(f"World: {out}")
    if rank():
        run_worker(logs, Path(out), options)
        barrier()
        return open_world(out, device=options.device)
    try:
        with shown(progress) as report:
            world = learn_logs(logs, out, options, progress=stoppable(report, stop)).world
    except StoppedError as error:
        again = f"out={str(out)!r} and resume=True"  # the next call without `out` would choose another folder
        raise StoppedError(f"{error}. {saved_work(logs, Path(out), resume=again)}") from error
    barrier()  # the bundle is complete
    return world


def learn_logs(
    logs: Path | str | object, out: Path | str, options: Options | None = None, *, progress: OnProgress | None = None
) -> LearnResult:
    """Like `learn`, but returns all measurements."""
    started, out, options = time.monotonic(), Path(out), (options or Options()).resolved()
    _check_call(out, options)
    run = _open(logs, out, options, progress, started)
    store = run.store

    # Without a named recipe, several models are compared; without images, a linear world comes first.
    choice, trial, linear, failures = None, None, None, list[CollapseError]()
    folder, device = partial_folder(out), choose_device(options.device)
    shared: dict[str, Any] = {"folder": folder, "device": device, "progress": progress}
    has_choice = chooses(store, options)
    if has_choice:
        make_recipe(store, options)  # otherwise candidates with invalid settings would be left out
    if has_choice and has(store, Kind.IMAGE):
        choice, trial, options = choose_recipe(store, options, **shared)
    elif has_choice:
        begun_s, linear_options = time.monotonic(), for_candidate(options, LINEAR)
        linear = _learn_linear(run, linear_options)
        choice, trial, options = choose_model(store, options, linear, begun_s=begun_s, **shared)
    if choice is None or choice.chosen != LINEAR:
        worlds, failures = _train(run, options, trial)  # trains, fits heads and calibrates, per seed
        if linear is None and not worlds:
            raise failures[0]
        if choice is not None and linear is not None and not (worlds and beats(store, worlds, linear)):
            reason = f"{choice.chosen} was better in the trials, but not after the whole training"
            choice = replace(choice, chosen=LINEAR, reason=reason)
    if choice is not None and linear is not None and choice.chosen == LINEAR:
        worlds, options = [linear], linear_options

    evaluation = evaluate(store, worlds, failures=failures, progress=progress)
    findings = (*run.findings, *evaluation.findings)
    _write(run, options, evaluation.learned, evaluation=evaluation, choice=choice)
    tell(progress, "report", 1)
    if folder.is_dir():
        shutil.rmtree(folder)
    return LearnResult(
        **{**vars(evaluation), "findings": findings},
        bundle=out,
        store=store,
        choice=choice,
        late=run.late,
        unclear=run.unclear,
        total_s=time.monotonic() - started,
    )


def _new_folder() -> Path:
    """The first of the folders world, world-2 and so on in the working directory that does not exist."""
    names = chain(["world"], (f"world-{number}" for number in count(2)))
    return next(path for path in map(Path, names) if not path.exists() and not store_folder(path).exists())


def _check_call(out: Path, options: Options) -> None:
    """Checks folders and names of settings, and loads recipes, families and trackers, before hours of importing.

    Raises:
        InputError: `out` is not a bundle, or it cannot be written.
        BundleError: there is nothing to resume.
        UnknownNameError: there is no such recipe, family, tracker or setting.
    """
    for path in (log_folder(out), store_folder(out), partial_folder(out)):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, and learning writes a folder there. Move it, or choose another --out.")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).exists())):
        raise InputError(f"{out} exists and is no bundle. Choose another folder for the world, or delete it first.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{out} cannot be written ({reason}). Choose another folder for the world.") from error
    check_settings(options.set)
    recipe = None if options.recipe == AUTO else options.recipe
    names = [("recipe", recipe), ("model", options.model), *(("tracker", name) for name in options.track)]
    for kind, name in names:
        if isinstance(name, str):
            (imported if kind == "recipe" and ":" in name else load)(kind, name)
    if options.resume and not partial_folder(out).is_dir():
        raise BundleError(f"{partial_folder(out)} has no checkpoint to resume from. Start the run without --resume.")


# Open and check


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
    progress: OnProgress | None


def _open(
    logs: Path | str | object, out: Path, options: Options, progress: OnProgress | None, started: float
) -> _OpenedLogs:
    """Opens the logs as a store and checks it, before hours of training.

    Raises:
        DataError: nothing can be learned from the logs.
    """
    logs = logs.path if isinstance(logs, Store) else logs
    store, noticed, unclear = _open_store(logs, out, options, progress)
    if partial_folder(out).is_dir() and not options.resume:
        shutil.rmtree(partial_folder(out))  # of an earlier run; a later --resume must not use it
    findings, late = review_log(store, progress)
    raise_errors(findings)
    worst = [finding for finding in findings if finding.severity is not Severity.NOTE][:MAX_FINDINGS]
    for finding in worst:
        _logger.warning("%s", finding)
    if edit := edit_logs_command(store.path, worst, len(store)):
        _logger.warning("To leave out or mark these parts: %s", shlex.join(["worldline", *edit]))
    return _OpenedLogs(
        logs=logs,
        store=store,
        out=out,
        findings=(*map(str, worst), *map(str, noticed)),
        unclear=unclear,
        late=late,
        imported_s=time.monotonic() - started,
        progress=progress,
    )


def _open_store(
    logs: Path | str | object, out: Path, options: Options, progress: OnProgress | None
) -> tuple[Store, Sequence[Finding], tuple[str, ...]]:
    """The store, the findings about the logs, and the ambiguities in them.

    A store is used in place, other logs are imported into a store next to the world. Inferred bounds of actions are
    widened to all episodes.
    """
    report, other_schema = None, tuple[str, ...]()
    if is_stored(logs):
        store = open_store(logs)
        if options.edits or options.action_lag not in (None, noted_lag(store.card.notes)):
            raise InputError(
                f"edits or another action_lag are given, but {logs} is a store. Correct it with "
                f"worldline.data.correct_schema, or move its actions: worldline import {logs} NEW-STORE --action-lag N."
            )
    else:
        report = _import(logs, out, options, progress)
        store = open_store(report.destination)
    guessed = uncertain_roles(store)
    if guessed and report is not None:
        edits = {name: {"role": role} for name, role in guessed.items()}
        _logger.warning("Roles are uncertain. Confirm or correct them in Python with edits=%s", edits)
    if wider := wider_bounds(store):
        store = correct_schema(store, wider)
    widened = tuple(f"{name}: its inferred bounds were widened to the range of all logs." for name in wider)
    widened += tuple(f"{name}: its role {role} is uncertain ({role}?)." for name, role in guessed.items())
    findings = report.findings if report is not None else check_actions(store.schema, logged_actions(store))
    if report is not None and isinstance(logs, Path | str) and schema_beside(Path(logs)) not in (None, store.schema):
        other_schema = (
            f"The schema next to the logs was not used: {store.path} has another. Move this store away to use the "
            "schema.",
        )
    useless = [finding for finding in findings if finding.episode is None and finding.severity is Severity.ERROR]
    raise_errors(replace(finding, fix=" ".join((finding.fix, *other_schema))) for finding in useless)
    return store, findings, (*(() if report is None else report.unclear), *widened, *other_schema)


def _import(logs: Path | str | object, out: Path, options: Options, progress: OnProgress | None) -> ImportReport:
    """Imports logs into the store next to the world.

    `force` and logs in memory replace an earlier store. It stays if the new logs cannot be read.

    Raises:
        InputError: the earlier store has other logs than those in memory.
    """
    destination, unfinished, earlier = store_folder(out), partial_folder(out), None
    unfinished.mkdir(parents=True, exist_ok=True)
    in_memory, known = not isinstance(logs, Path | str), None
    if is_store(destination):
        known = open_store(destination)
        if not options.resume and (options.force or in_memory):
            if not options.force:
                _check_in_memory(known)
            earlier, known = destination.with_name(f"{destination.name}.earlier"), None
            shutil.rmtree(earlier, ignore_errors=True)
            destination.rename(earlier)
    reading = with_lag_of(destination, logs, ReadOptions(action_lag=options.action_lag))
    try:
        if in_memory:
            logs = _cut_into_episodes(logs, known.schema if known else None, options.edits, reading)
        report = import_logs(
            logs, destination, reading=reading, edits=options.edits, keep_going=True, only=True, progress=progress
        )
    except WorldlineError:
        with suppress(OSError):  # not empty: it has a checkpoint
            unfinished.rmdir()
        if earlier is not None:
            shutil.rmtree(destination, ignore_errors=True)
            earlier.rename(destination)
        raise
    if earlier is not None:
        shutil.rmtree(earlier)
    return report


def is_stored(logs: object) -> TypeGuard[Path | str]:
    """Whether the logs are a store."""
    return isinstance(logs, Path | str) and is_store(logs)


def _check_in_memory(store: Store) -> None:
    """Raises InputError if a store holds episodes of files, also if they were added later; they may be nowhere else."""
    in_memory = store.card.notes.get("importer") == "memory"
    names = [str(entry.source.get("file", "frame")) for entry in store.entries()]
    if not in_memory or not all(re.fullmatch(r"frame( \d+)?", name) for name in names):
        raise InputError(
            f"{store.path} holds logs that were not in memory. Choose another `out`, or replace them with `force`."
        )


def _cut_into_episodes(logs: object, schema: Schema | None, edits: SchemaEdits | None, reading: ReadOptions) -> Logs:
    """Logs in memory; one long recording becomes episodes of `CUT_STEPS` steps."""
    opened = open_logs(logs, schema, edits=edits)
    note = f"The logs are {len(opened)} recordings without episodes; they were cut into episodes of {CUT_STEPS} steps."
    is_cut = len(opened) < MIN_EPISODES and isinstance(opened, TableLogs)
    if is_cut or reading.action_lag:
        reading = replace(reading, max_steps=CUT_STEPS if is_cut else None)
        opened = open_logs(logs, schema, edits=edits, reading=reading)
        opened.unclear = (*opened.unclear, *([note] if is_cut else []))
    return opened


# Choose, train, fit heads and calibrate


def _learn_linear(run: _OpenedLogs, options: Options) -> Learned:
    """The linear world. It can be used within seconds; an earlier world is replaced only by the final one."""
    with telling(run.progress, "learn a linear model"):
        recipe = make_recipe(run.store, options).with_seed(options.seeds.start)
        partial_folder(run.out).mkdir(parents=True, exist_ok=True)
        device = choose_device(options.device)
        linear = learn_world(run.store, recipe, folder=partial_folder(run.out) / LINEAR, device=device)
    if not run.out.exists():
        _write(run, options, linear)
    return linear


def _train(run: _OpenedLogs, options: Options, begun: WorldModel | None) -> tuple[list[Learned], list[CollapseError]]:
    """The world of each seed, and the errors of the others; a failed seed does not end the run.

    Args:
        run: the logs.
        options: of the chosen recipe.
        begun: a training of the first seed to continue; None to start anew.
    """
    worlds, failures, name = list[Learned](), list[CollapseError](), run.out.name
    runs = list[tuple[Recipe, dict[str, Any]]]()
    for recipe, place in trainings(run.store, run.out, options, run.progress):
        if begun is not None and recipe.training.seed == options.seeds.start:
            recipe = replace(recipe, pretrained=partial(_copy_weights, begun))
        runs.append((recipe, place))
    names, several = tuple(dict.fromkeys(("jsonl", *options.track))), len(runs) > 1
    # Workers train to the last checkpoint, from which this process goes on as after an interruption.
    ended = dict[str, str]()
    if several and not is_alone(options.workers) and runs[0][0].training.num_updates:
        tasks = {
            f"seed {recipe.training.seed}": (run.store, recipe, place, names, log_folder(run.out), name)
            for recipe, place in runs
        }
        ended = dict(run_tasks(_train_seed, tasks, options.workers, "learn", run.progress))
    trackers = [load("tracker", name)(log_folder(run.out)) for name in names]
    for recipe, place in runs:
        seed = f"seed {recipe.training.seed}"
        try:
            if ended.get(seed):
                raise CollapseError(ended[seed])
            shown: Any = {"progress": run.progress, "trackers": trackers, "name": name}
            worlds.append(
                learn_world(run.store, recipe, **(place | {"resume": seed in ended or place["resume"]}), **shown)
            )
        except CollapseError as error:
            failures.append(CollapseError(f"{seed}: {error}") if several else error)
    return worlds, failures


def _train_seed(
    store: Store, recipe: Recipe, place: dict[str, Any], track: Sequence[str], logs: Path, name: str
) -> str:
    """Trains to the last checkpoint in a worker; returns why it failed, or "". A second start continues."""
    trackers = [load("tracker", tracker)(logs) for tracker in track]
    try:
        place = place | {"resume": (place["folder"] / STATE).exists()}
        train_model(store, recipe, **place, trackers=trackers, name=name)
    except CollapseError as error:
        return str(error)
    return ""


def _copy_weights(begun: WorldModel, model: WorldModel) -> None:
    model.load_state_dict(begun.state_dict())


def run_worker(logs: Path | str | object, out: Path, options: Options) -> None:
    """Joins the training that the first process of `torchrun` leads with `learn_logs`.

    Raises:
        InputError: the logs are no store.
    """
    logs = logs.path if isinstance(logs, Store) else logs
    if not is_stored(logs):
        name = logs if isinstance(logs, Path | str) else "an object in memory"
        raise InputError(f"{name} is no store, and several processes cannot import it. Import it first.")
    store = open_store(logs)
    for recipe, place in trainings(store, out, options.resolved(), None):
        with suppress(CollapseError):  # reported by the first process
            train_model(store, recipe, **place)


def trainings(
    store: Store, out: Path, options: Options, progress: OnProgress | None
) -> Iterator[tuple[Recipe, dict[str, Any]]]:
    """The recipe of each seed, fitted to the budget, with the folder and the device of the training."""
    recipe, unfinished, device = make_recipe(store, options), partial_folder(out), choose_device(options.device)
    if options.budget is not None and recipe.training.num_updates:  # else there is nothing to fit to it
        if world_size() > 1:
            raise ConfigError("a budget needs a single process. Leave it out, or learn without torchrun.")
        with telling(progress, "fit to the budget"):
            budget_s = seconds(options.budget) / len(options.seeds)
            sizing = stored_sizing(unfinished, lambda: size_for(store, recipe, budget_s, device=device))
            recipe = sizing.apply(recipe)
    for seed in options.seeds:
        folder = unfinished if len(options.seeds) == 1 else unfinished / f"seed{seed}"
        resume = options.resume and (folder / STATE).exists()
        yield recipe.with_seed(seed), {"folder": folder, "resume": resume, "device": device}


# Save and write the page


def _write(
    run: _OpenedLogs,
    options: Options,
    learned: Learned,
    *,
    evaluation: Evaluation | None = None,
    choice: Choice | None = None,
) -> None:
    """Writes the world with its settings and report; without evaluation, one to be used while others are compared."""
    times_s, findings, sections = {"import": run.imported_s, **learned.times_s}, run.findings, list[Section]()
    subtitle = "A linear world, which can be used while learning compares others."
    measured = dict[str, Any]()
    if evaluation is not None:
        times_s["report"] = evaluation.report_s
        findings, sections = (*findings, *evaluation.findings), [*evaluation.sections]
        subtitle = f"Learned from {len(run.store):,} logged episodes with the recipe {learned.recipe.name}."
        measured = {
            "seeds": [asdict(seed) for seed in evaluation.seeds],
            "decoded_rmse": decoded_rmse(evaluation.decoded),
        }
    if choice is not None:
        measured["choice"] = json.loads(to_json(choice))
        sections.append(choice)
    manifest = run_manifest(run.store, learned, times_s=times_s, findings=findings, unclear=run.unclear) | measured
    realign = () if run.late is None else (shlex.join(["worldline", *run.late.command]),)
    report = Report(
        title=Path(run.logs).resolve().name if isinstance(run.logs, Path | str) else run.out.name,
        subtitle=subtitle,
        facts=facts(manifest),
        sections=tuple(sections),
        notices=findings,
        commands=(*realign, f"worldline audit {run.out} NEW-LOGS", f"worldline serve {run.out}"),
    )
    settings = run_toml(run.store, options, learned.recipe, horizon=learned.calibration.horizon)
    save_world(run.out, learned.world, run=manifest, settings=settings, report=render(report))


# Folders


def partial_folder(out: Path) -> Path:
    """Folder of the checkpoint of an interrupted training, next to the bundle.

    It is empty if the import was interrupted, and absent if there is nothing to resume.
    """
    return out.with_name(f"{out.name}.partial")


def store_folder(out: Path) -> Path:
    """Folder of the imported logs, next to the bundle."""
    return out.with_name(f"{out.name}.store")


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
