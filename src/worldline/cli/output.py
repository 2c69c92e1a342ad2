"""Output of results as tables and JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldline.errors import InputError


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is left-aligned, and brackets are not rich markup."""
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def check_json(path: Path | None, option: str = "--json") -> None:
    """Checks the path of an output file before the command does its work.

    Raises:
        InputError: the path is a folder, or its folder does not exist.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(
            f"{option} {path} is not a file in an existing folder. Give the path of a file in an existing folder."
        )


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Writes the results as JSON, if a path is given."""
    if path is not None:
        write_text(path, json.dumps(figures, indent=2) + "\n", "--json")


def write_text(path: Path, text: str, option: str) -> None:
    """Writes the text to the path of an option.

    Raises:
        InputError: the file cannot be written; the message names the option and the reason.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}. Choose another path.") from error
