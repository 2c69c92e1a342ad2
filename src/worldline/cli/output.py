"""Figures as a table, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from worldline.errors import InputError


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table: the first column to the left, all others to the right; brackets are text, not rich's markup."""
    table = Table(title=Text(title, style="bold"), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def check_json(path: Path | None, option: str = "--json") -> None:
    """Refuses a place that cannot be written to, before anything was measured.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise InputError(f"{option} {path}: no file can be written there. Give a file in a folder that exists.")


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Writes the figures, where a path was given; see `write_text`."""
    if path is not None:
        write_text(path, json.dumps(figures, indent=2) + "\n", "--json")


def write_text(path: Path, text: str, option: str) -> None:
    """Writes the text to where an option says.

    Raises:
        InputError: it cannot be written there; names the option and says why.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written: {error.strerror}. Choose another place.") from error
