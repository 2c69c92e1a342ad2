"""`worldline import`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worldline.cli.column_table import ask_roles, is_terminal, print_columns, print_correction
from worldline.cli.options import ActionLag, Json
from worldline.cli.output import print_next, progress_bars, write_json
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.data.base import Logs
    from worldline.data.importing import ImportReport
    from worldline.data.schema_edits import SchemaEdits
    from worldline.schema import Schema

MAX_LINES = 30

Names = Annotated[list[str] | None, typer.Option(help="Columns with this role, separated by commas.", metavar="NAMES")]
Drop = Annotated[list[str] | None, typer.Option(help="Episodes to leave out, such as 12,40-55.", metavar="LIST")]
SplitAt = Annotated[list[str] | None, typer.Option(help="Rows where episodes are split: 7@310.", metavar="LIST")]
Mask = Annotated[list[str] | None, typer.Option(help="Rows to mark as missing: level:3@100-200.", metavar="LIST")]


def import_logs(
    source: Annotated[Path, typer.Argument(help="Logs: a file or folder in any known format.")],
    destination: Annotated[Path, typer.Argument(help="New folder, or an existing store to extend.")],
    importer: Annotated[str | None, typer.Option(help="Format of the logs.", show_default="detected")] = None,
    schema: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the schema.", show_default="schema.json in the folder of the logs, or inferred"
        ),
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Skip unusable data and report it.")] = False,
    max_error: Annotated[
        int, typer.Option(min=0, max=64, help="Largest error of a pixel in grey levels; 0 is lossless.")
    ] = 0,
    size: Annotated[
        str | None, typer.Option(help="Scale images to HEIGHTxWIDTH, or to a square.", show_default="unchanged")
    ] = None,
    episode: Annotated[
        str | None, typer.Option(help="Column with the episode of each row.", show_default="by name")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Column with times.", show_default="by name")] = None,
    gap_s: Annotated[
        float | None, typer.Option(help="Gap in seconds that ends an episode.", show_default="ten typical steps")
    ] = None,
    rate_hz: Annotated[
        float | None, typer.Option(help="Resample to this number of steps per second.", show_default="no resampling")
    ] = None,
    rule: Annotated[
        Literal["hold", "linear", "nearest"], typer.Option(help="Interpolation of resampled signals.")
    ] = "hold",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Cut longer episodes into this number of steps.", show_default="whole")
    ] = None,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="Read the files in a process with limits of memory and time.")
    ] = False,
    action_lag: ActionLag = None,
    drop: Drop = None,
    split: SplitAt = None,
    mask: Mask = None,
    action: Names = None,
    observation: Names = None,
    exogenous: Names = None,
    reward: Names = None,
    ignore: Names = None,
    json: Json = None,
) -> None:
    """Import logs of any known format into a store. Run it again to resume, or to add new logs."""
    from worldline.data.base import ReadOptions
    from worldline.data.checks import raise_errors
    from worldline.data.importing import import_logs as run
    from worldline.data.importing import with_lag_of
    from worldline.data.log_edits import LogEdits
    from worldline.data.open_logs import open_logs
    from worldline.data.store import open_store
    from worldline.workflows.check import late_actions

    reading = ReadOptions(
        action_lag=action_lag,
        episode=episode,
        time=time,
        gap_s=gap_s,
        rate_hz=rate_hz,
        rule=rule,
        max_steps=max_steps,
    )
    reading = with_lag_of(destination, source, reading)
    known = _known_schema(schema, destination)
    roles = {"action": action, "observation": observation, "exogenous": exogenous, "reward": reward, "ignore": ignore}
    changed = LogEdits.parse(drop=drop or (), split=split or (), mask=mask or ()) if drop or split or mask else None
    edits = _edits(roles)
    how = partial(run, keep_going=keep_going, max_error=max_error, size=_size(size))
    if untrusted:
        with progress_bars() as progress:
            report = how(
                source,
                destination,
                known,
                importer=importer,
                reading=reading,
                edits=edits,
                log_edits=changed,
                untrusted=True,
                progress=progress,
            )
        print_columns(report.columns)
        print_correction(report.columns)
    else:
        opened = partial(open_logs, source, known, importer=importer, reading=reading, log_edits=changed)
        logs = _reviewed(edits, opened)
        with progress_bars() as progress:
            report = how(logs, destination, progress=progress)
    _print(report, is_table_shown=bool(report.columns))
    write_json(json, _figures(report))
    # Without these the store cannot be used for training.
    raise_errors(finding for finding in report.findings if finding.episode is None)
    with progress_bars() as progress:
        late = late_actions(open_store(report.destination), progress)
    if late is not None:
        fix = "Import the logs again as shown below." if _is_too_short(report) else late.finding.fix
        print(replace(late.finding, fix=fix))
    if _is_too_short(report):
        another = destination.with_name(f"{destination.name}-cut")
        given = [part for role, texts in roles.items() if texts for part in (f"--{role}", ",".join(texts))]
        lag = (reading.action_lag or 0) + (late.lag if late else 0)
        given += ["--action-lag", str(lag)] if lag else []
        print_next("import", source, another, *given, "--max-steps", "100")
    elif late is not None:
        print_next(*late.command)
    else:
        print_next("check", report.destination)


def _known_schema(file: Path | None, destination: Path) -> Schema | None:
    """The schema in the file of the user, else that of a store that is extended; None to infer it.

    Raises:
        InputError: the file does not exist.
    """
    from worldline.config import from_json
    from worldline.data.store import is_store, open_store
    from worldline.schema import Schema

    if file is not None and not file.is_file():
        raise InputError(f"--schema {file} does not exist. Give an existing JSON file.")
    if file is not None:
        return from_json(Schema, file.read_bytes(), where=file)
    return open_store(destination).schema if is_store(destination) else None


def _is_too_short(report: ImportReport) -> bool:
    """Whether a table gives too few episodes for learning, so that long ones should be cut."""
    from worldline.data.splits import MIN_EPISODES

    num_present = sum(file.present for file in report.files)
    return report.importer == "table" and report.num_episodes + num_present < MIN_EPISODES


def _reviewed(edits: SchemaEdits, opened: Callable[..., Logs]) -> Logs:
    """Opens the logs and prints their columns; in a terminal, asks for uncertain roles and applies the answers."""
    logs = opened(edits=edits)
    print_columns(logs.columns)
    if not is_terminal():
        print_correction(logs.columns)
    elif logs.columns and (answered := ask_roles(logs.columns)):
        from worldline.data.schema_edits import merged

        return opened(edits=merged(edits, answered))
    return logs


def _edits(roles: Mapping[str, Sequence[str] | None]) -> dict[str, dict[str, str]]:
    """The role of each column that an option names; an option takes several names, separated by commas.

    Raises:
        InputError: two options name the same column.
    """
    found: dict[str, dict[str, str]] = {}
    for role, texts in roles.items():
        for name in (name.strip() for text in texts or () for name in text.split(",") if name.strip()):
            if (before := found.setdefault(name, {"role": role})["role"]) != role:
                raise InputError(f"{name!r} is given to --{before} and to --{role}. Name it once.")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width in pixels."""
    if text is None:
        return None
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--size {text} is not a size. Give HEIGHTxWIDTH in pixels, such as 64x64.")
    return int(numbers[0]), int(numbers[-1])


def _print(report: ImportReport, *, is_table_shown: bool) -> None:
    """Prints findings, assumptions and totals; a table of columns already says what is left out."""
    from worldline.data.splits import MIN_EPISODES

    assumed = [line for line in report.unclear if not (is_table_shown and ": left out, because " in line)]
    lines = [*map(str, report.findings), *assumed]
    for line in lines[:MAX_LINES]:
        print(line)
    if len(lines) > MAX_LINES:
        print(f"{len(lines) - MAX_LINES} more findings; --json FILE writes all of them.")
    left_out = sum(file.left_out for file in report.files)
    present = sum(file.present for file in report.files)
    print(
        f"Read as {report.importer}: {report.num_episodes} episode{'' if report.num_episodes == 1 else 's'} added"
        + (f", {present} already present" if present else "")
        + (f", {left_out} left out" if left_out else "")
        + "."
    )
    if _is_too_short(report):
        print(f"Note:   learning needs {MIN_EPISODES} episodes. Cut a long one with --max-steps into another store.")
    print(f"Signals: {', '.join(f'{signal.name} ({signal.role})' for signal in report.schema.signals)}")
    print(f"Store:  {report.destination}")


def _figures(report: ImportReport) -> dict[str, object]:
    return {
        "importer": report.importer,
        "added": report.num_episodes,
        "present": sum(file.present for file in report.files),
        "left_out": sum(file.left_out for file in report.files),
        "files": {
            file.file: {"added": file.kept, "present": file.present, "left_out": file.left_out} for file in report.files
        },
        "findings": list(map(str, report.findings)),
        "unclear": list(report.unclear),
    }
