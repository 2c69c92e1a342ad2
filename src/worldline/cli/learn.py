"""`worldline learn` and `goals`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.column_table import confirmed_roles, print_columns
from worldline.cli.options import Json, Threads, use_threads
from worldline.cli.output import print_next, print_table, progress_bars, write_json
from worldline.workflows.learn_options import Options

if TYPE_CHECKING:
    from worldline.workflows.learn_result import LearnResult


def learn(
    context: typer.Context,
    logs: Path,
    out: Annotated[Path, typer.Option()],
    *,
    options: Options,
    threads: Threads = None,
    yes: bool = False,
    json: Json = None,
) -> None:
    """Train a world from logs. The result is a bundle with a report.

    Args:
        logs: a store, or logs in any format that `worldline import` reads.
        out: folder for the world; an earlier world is replaced.
        yes: accept uncertain roles without a question, if logs are imported.
    """
    from worldline.training.distributed import rank
    from worldline.workflows.learn import learn_logs, log_folder, run_worker
    from worldline.workflows.learn_result import learn_figures

    use_threads(threads)
    if isinstance(options.recipe, str) and ":" in options.recipe:
        sys.path.append(str(Path.cwd()))  # recipes are imported from the working directory, after installed packages
    if rank():  # not the first process of torchrun
        run_worker(logs, out, options)
        return
    with _saved_work_named(logs, out):
        options = options if yes else _with_certain_roles(logs, out, options, context.meta["typed"])
    with _saved_work_named(logs, out), progress_bars() as progress:
        result = learn_logs(logs, out, options, progress=progress)
    for line in (*result.findings, *result.unclear):
        print(line)
    _print_choice(result)
    _print(result)
    if len(result.seeds) > 1:
        title = f"{len(result.seeds)} trainings; seed {result.learned.recipe.training.seed} was kept"
        print_table(title, ("seed", "control"), [(row.seed, f"{row.control:.3f}") for row in result.seeds])
    write_json(json, learn_figures(result))
    print(f"Schema: {result.store.path / 'schema.json'}")
    print(f"Config: {out / 'run.toml'}")
    print(f"Report: {out / 'report.html'}")
    if result.learned.trained.curves:
        print(f"Curves: {log_folder(out)}")
    if bands := result.world.describe().facts()["bands"]:
        print(f"Bands:  {bands}")
    print(f"World:  {out}")
    print(f"Studio: {shlex.join(['worldline', 'studio', str(out), str(result.store.path)])}")
    print_next(*(("audit", out, result.store.path) if result.late is None else result.late.command))


def _with_certain_roles(logs: Path, out: Path, options: Options, words: list[str]) -> Options:
    """The options with the roles that the user confirms, if the logs are imported for the first time."""
    from worldline.data.base import ReadOptions
    from worldline.data.open_logs import open_logs
    from worldline.data.roles import uncertain
    from worldline.data.store import is_store
    from worldline.workflows.learn import is_stored, store_folder

    store = store_folder(out)
    if not logs.exists() or is_stored(logs) or (is_store(store) and not options.force):
        return options
    columns = open_logs(logs, reading=ReadOptions(action_lag=options.action_lag)).columns
    if not uncertain(columns):
        return options
    print_columns(columns)
    lag = ["--action-lag", str(options.action_lag)] if options.action_lag else []
    again = [str(store) if word == str(logs) else word for word in words]
    edits = confirmed_roles(columns, words, ["import", str(logs), str(store), *lag], again)
    return replace(options, edits=edits) if edits else options


@contextmanager
def _saved_work_named(logs: Path, out: Path) -> Iterator[None]:
    """Names the saved work if the user or the system interrupts a run."""
    from worldline.workflows.learn import saved_work

    try:
        yield
    except KeyboardInterrupt:
        print(f"worldline: stopped. {saved_work(logs, out, resume='--resume')}", file=sys.stderr)
        raise typer.Exit(130) from None
    except OSError as error:
        with suppress(OSError):  # the path may be unreadable
            error.add_note(saved_work(logs, out, resume="--resume"))
        raise


def _print_choice(result: LearnResult) -> None:
    """The compared models and their errors; nothing if a recipe was given."""
    choice = result.choice
    if choice is None:
        return
    marks = {choice.chosen: " (chosen)"}
    if rows := [[trial.name + marks.get(trial.name, ""), *trial.cells()] for trial in choice.trials]:
        print_table(f"Models tried; {choice.compared_figures}", choice.head, rows)
    print("\n".join([*choice.failures, f"Chosen: {choice.chosen} ({choice.reason})."]))


def _print(result: LearnResult) -> None:
    """The table of the signals of the report."""
    from worldline.audit.signal_table import measured_signals, signal_table

    measured, trust = measured_signals(result.sections)
    if measured is None or trust is None or (table := signal_table(measured, trust)) is None:
        print("The logs have no vector observation that varies, so no error was measured.")
        return
    head, *rows = ([str(getattr(cell, "text", cell)) for cell in row] for row in (table.head, *table.rows))
    print_table(table.caption, head, rows)
