"""`worldline import`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.column_table import confirmed_roles, is_terminal, print_columns, print_correction, split_names
from worldline.cli.options import Json, Workers
from worldline.cli.output import print_next, progress_bars, write_json
from worldline.data.read_options import ReadOptions
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.data.base import Logs
    from worldline.data.importing import ImportedFile, ImportReport
    from worldline.data.schema_edits import SchemaEdits
    from worldline.schema import Schema

MAX_LINES = 30
OTHERS = {"present": "already present", "left_out": "left out"}

Names = Annotated[list[str] | None, typer.Option(metavar="NAMES")]
Places = Annotated[list[str] | None, typer.Option(metavar="LIST")]


def import_logs(
    context: typer.Context,
    source: Path,
    destination: Path,
    *,
    importer: str | None = None,
    schema: Path | None = None,
    keep_going: bool = False,
    max_error: Annotated[int, typer.Option(min=0, max=64)] = 0,
    size: str | None = None,
    reading: ReadOptions,
    untrusted: bool = False,
    drop: Places = None,
    split: Places = None,
    mask: Places = None,
    action: Names = None,
    observation: Names = None,
    exogenous: Names = None,
    reward: Names = None,
    ignore: Names = None,
    workers: Workers = "1",
    yes: bool = False,
    json: Json = None,
) -> None:
    """Import logs of any known format into a store. Run it again to resume, or to add new logs.

    Args:
        source: logs: a file or folder in any known format.
        destination: new folder, or an existing store to extend.
        importer: format of the logs. Default: detected.
        schema: JSON file with the schema. Default: schema.json in the folder of the logs, or inferred.
        keep_going: skip unusable data and report it.
        max_error: largest error of a pixel in grey levels; 0 is lossless.
        size: scale images to HEIGHTxWIDTH, or to a square. Default: unchanged.
        untrusted: read the files in a process with limits of memory and time.
        drop: episodes to leave out, such as 12,40-55.
        split: rows where episodes are split: 7@310.
        mask: rows to mark as missing: level:3@100-200.
        action: columns with this role, separated by commas.
        observation: columns with this role, separated by commas.
        exogenous: columns with this role, separated by commas.
        reward: columns with this role, separated by commas.
        ignore: columns with this role, separated by commas.
        yes: accept uncertain roles without a question.
    """
    from worldline.data.checks import raise_errors
    from worldline.data.importing import import_logs as run
    from worldline.data.importing import with_lag_of
    from worldline.data.limited_process import import_untrusted
    from worldline.data.log_edits import LogEdits
    from worldline.data.open_logs import open_logs

    reading = with_lag_of(destination, source, reading)
    known = _known_schema(schema, destination)
    roles = {"action": action, "observation": observation, "exogenous": exogenous, "reward": reward, "ignore": ignore}
    changed = LogEdits.parse(drop=drop or (), split=split or (), mask=mask or ()) if drop or split or mask else None
    edits = _edits(roles)
    storing: dict[str, Any] = {"keep_going": keep_going, "max_error": max_error, "size": _size(size)}
    opening: dict[str, Any] = {"importer": importer, "reading": reading, "log_edits": changed}
    if untrusted:
        report = import_untrusted(source, destination, schema=known, **opening, **storing, edits=edits)
        print_columns(report.columns)
        print_correction(report.columns)
    else:
        logs = _reviewed(edits, partial(open_logs, source, known, **opening), context.meta["typed"], yes=yes)
        with progress_bars() as progress:
            report = run(logs, destination, **storing, workers=workers, progress=progress)
    _print(report)
    write_json(json, _figures(report))
    # Without these the store cannot be used for training.
    raise_errors(finding for finding in report.findings if finding.episode is None)
    _print_next(report, source, roles, reading.action_lag or 0)


def _print_next(report: ImportReport, source: Path, roles: Mapping[str, Sequence[str] | None], lag: int) -> None:
    """Prints late actions, and the command that moves them or cuts long episodes; else the check of the store."""
    from worldline.data.store import open_store
    from worldline.workflows.check import late_actions

    store = Path(report.destination)
    with progress_bars() as progress:
        late = late_actions(open_store(store), progress)
    if late is not None:
        fix = "Import the logs again as shown below." if _is_too_short(report) else late.finding.fix
        print(replace(late.finding, fix=fix))
        lag += late.lag
    if _is_too_short(report):
        options = [part for role, texts in roles.items() if texts for part in (f"--{role}", ",".join(texts))]
        options += ["--action-lag", str(lag)] if lag else []
        print_next("import", source, store.with_name(f"{store.name}-cut"), *options, "--max-steps", "100")
    elif late is not None:
        print_next(*late.command)
    else:
        print_next("check", store)


def _known_schema(file: Path | None, destination: Path) -> Schema | None:
    """The schema in the file of the user, else that of a store that is extended; None to infer it."""
    from worldline.config import from_json
    from worldline.data.store import is_store, open_store
    from worldline.schema import Schema

    if file is not None:
        return from_json(Schema, file.read_bytes(), where=file)
    return open_store(destination).schema if is_store(destination) else None


def _is_too_short(report: ImportReport) -> bool:
    """Whether a table gives too few episodes for learning, so that long ones should be cut."""
    from worldline.data.splits import MIN_EPISODES

    counts = _counts(report.files)
    return report.importer == "table" and counts["added"] + counts["present"] < MIN_EPISODES


def _reviewed(edits: SchemaEdits, opened: Callable[..., Logs], words: list[str], *, yes: bool) -> Logs:
    """Opens the logs and prints their columns; asks for uncertain roles, or stops where nobody can answer."""
    from worldline.data.schema_edits import merged

    logs = opened(edits=edits)
    print_columns(logs.columns)
    if not yes and (answered := confirmed_roles(logs.columns, words, words)):
        return opened(edits=merged(edits, answered))
    if yes or not is_terminal():
        print_correction(logs.columns)
    return logs


def _edits(roles: Mapping[str, Sequence[str] | None]) -> dict[str, dict[str, str]]:
    """The role of each column that an option names; an option takes several names, separated by commas.

    Raises:
        InputError: two options name the same column.
    """
    edits: dict[str, dict[str, str]] = {}
    for role, texts in roles.items():
        for name in split_names(",".join(texts or ())):
            if (before := edits.setdefault(name, {"role": role})["role"]) != role:
                raise InputError(f"{name!r} is given to --{before} and to --{role}. Name it once.")
    return edits


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width in pixels."""
    if text is None:
        return None
    parts = re.fullmatch(r"(\d+)(?:x(\d+))?", text.lower())
    if parts is None:
        raise InputError(f"--size {text} is not a size. Give HEIGHTxWIDTH in pixels, such as 64x64.")
    return int(parts[1]), int(parts[2] or parts[1])


def _print(report: ImportReport) -> None:
    """Prints findings, assumptions and totals; a table of columns already says what is left out."""
    from worldline.data.splits import MIN_EPISODES

    assumed = [line for line in report.unclear if not (report.columns and ": left out, because " in line)]
    lines = [*map(str, report.findings), *assumed]
    for line in lines[:MAX_LINES]:
        print(line)
    if len(lines) > MAX_LINES:
        print(f"{len(lines) - MAX_LINES} more findings; --json FILE writes all of them.")
    counts = _counts(report.files)
    totals = [f"{counts['added']} episode{'' if counts['added'] == 1 else 's'} added"]
    totals += [f"{counts[name]} {text}" for name, text in OTHERS.items() if counts[name]]
    print(f"Read as {report.importer}: {', '.join(totals)}.")
    if _is_too_short(report):
        print(f"Note:   learning needs {MIN_EPISODES} episodes. Cut a long one with --max-steps into another store.")
    print(f"Signals: {', '.join(f'{signal.name} ({signal.role})' for signal in report.schema.signals)}")
    print(f"Store:  {report.destination}")


def _counts(files: Sequence[ImportedFile]) -> dict[str, int]:
    """The numbers of episodes of these files."""
    others = {name: sum(getattr(file, name) for file in files) for name in OTHERS}
    return {"added": sum(file.kept for file in files), **others}


def _figures(report: ImportReport) -> dict[str, object]:
    return {
        "importer": report.importer,
        **_counts(report.files),
        "files": {file.file: _counts([file]) for file in report.files},
        "findings": list(map(str, report.findings)),
        "unclear": report.unclear,
    }
