"""`worldline doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_list, print_next, print_table, write_json
from worldline.formatting import number, size


def doctor(folder: Annotated[Path, typer.Argument()] = Path(), json: Json = None) -> None:
    """Show what this machine has and lacks, and measure how fast worlds train and plan on it. Takes about 10 seconds.

    The exit status is 1 if a package of the core is missing or has the wrong version.

    Args:
        folder: folder on the disk to measure. Nothing stays in it.
    """
    from worldline.errors import install_command
    from worldline.workflows.doctor import PURPOSES, examine_machine

    report = examine_machine(folder)
    print_table("Machine", ("", "value"), [*map(_fact, report.facts.items())], left=("value",))
    extras = [(name, PURPOSES.get(name, ""), ", ".join(unmet) or "installed") for name, unmet in report.extras.items()]
    print_table("Extras", ("extra", "for", "state"), extras, left=("for", "state"))
    for name in (name for name, unmet in report.extras.items() if unmet):
        print(f"To install {name}: {install_command(name)}")
    places = list(dict.fromkeys(place for row in report.rates.values() for place in row))
    rows = [(name, *(number(row[p]) if p in row else "" for p in places)) for name, row in report.rates.items()]
    print_table("Rates", ("", *places), rows)
    print_list("What the rates mean", report.conclusions)
    print_list("\nProblems", report.problems)
    write_json(json, report)
    if report.broken:
        raise typer.Exit(1)
    print()
    print_next("demo")


def _fact(fact: tuple[str, object]) -> tuple[str, str]:
    """A name and a value for the table."""
    name, value = fact
    if not isinstance(value, int | float):
        return name.replace("_", " ") if name.islower() else name, str(value)
    shown = size(value) if name.endswith("_bytes") else number(value)
    return name.removesuffix("_bytes").replace("_", " "), shown
