"""`worldline import`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.errors import InputError

if TYPE_CHECKING:
    from worldline.data.importing import ImportReport

MAX_LINES = 30


class Rule(StrEnum):
    """What a resampled signal is between two of its rows."""

    HOLD = "hold"
    LINEAR = "linear"
    NEAREST = "nearest"


def import_logs(
    source: Annotated[Path, typer.Argument(help="Logs: a file or folder in any format that an importer knows.")],
    destination: Annotated[Path, typer.Argument(help="The store: a new folder, or a store to add to.")],
    importer: Annotated[str | None, typer.Option("--as", help="Format.", show_default="recognised")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="What the signals are.", show_default="schema.json beside the logs, or inferred")
    ] = None,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Leave out what is unusable, and say so.")] = False,
    max_error: Annotated[
        int, typer.Option(min=0, max=64, help="How far off a pixel may be, in grey levels; 0 is lossless.")
    ] = 0,
    size: Annotated[
        str | None, typer.Option(help="Scale pictures, as HEIGHTxWIDTH or one number.", show_default="as they are")
    ] = None,
    episode: Annotated[
        str | None, typer.Option(help="Column that tells episodes apart.", show_default="by name")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Column of times.", show_default="by name")] = None,
    gap: Annotated[
        float | None, typer.Option(help="Seconds after which an episode ends.", show_default="ten usual steps")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Resample to so many steps a second.", show_default="rows as they are")
    ] = None,
    rule: Annotated[Rule, typer.Option(help="What a resampled signal is between two rows.")] = Rule.HOLD,
    json: Json = None,
) -> None:
    """Bring logs of any known format into a store. Run it again to go on, or to add what is new."""
    from worldline.cli.output import check_json, write_json
    from worldline.cli.progress import progress_bars
    from worldline.config import from_json
    from worldline.data.base import ReadOptions
    from worldline.data.checks import raise_errors
    from worldline.data.importing import import_logs as run
    from worldline.schema import Schema

    check_json(json)
    reading = ReadOptions(episode=episode, time=time, gap_s=gap, rate_hz=rate, rule=rule.value)
    if schema is not None and not schema.is_file():
        raise InputError(f"--schema {schema}: there is no such file.")
    known = None if schema is None else from_json(Schema, schema.read_bytes(), where=schema)
    with progress_bars() as stage:
        report = run(
            source,
            destination,
            known,
            importer=importer,
            reading=reading,
            keep_going=keep_going,
            max_error=max_error,
            size=_size(size),
            progress=lambda done, total: stage("import", done, total),
        )
    _print(report)
    write_json(json, _figures(report))
    raise_errors(finding for finding in report.findings if finding.episode is None)  # nothing can be learned


def _size(text: str | None) -> tuple[int, int] | None:
    """Height and width."""
    if text is None:
        return None
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--size {text}: give HEIGHTxWIDTH in pixels, such as 64x64.")
    return int(numbers[0]), int(numbers[-1])


def _print(report: ImportReport) -> None:
    lines = [*map(str, report.findings), *report.unclear]
    for line in lines[:MAX_LINES]:
        print(line)
    if len(lines) > MAX_LINES:
        print(f"... and {len(lines) - MAX_LINES} more; --json FILE has them all.")
    left_out = sum(file.left_out for file in report.files)
    present = sum(file.present for file in report.files)
    print(
        f"Read as {report.importer}: {report.num_episodes} episodes added"
        + (f", {present} were there already" if present else "")
        + (f", {left_out} left out" if left_out else "")
        + "."
    )
    print(f"Signals: {', '.join(f'{signal.name} ({signal.role})' for signal in report.schema.signals)}")
    print(f"Store:   {report.destination}")
    print(f"Next:    worldline check {report.destination}")


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
