"""Output of results as tables and JSON files, and progress bars."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from worldline.progress import progress_bars

__all__ = ["print_list", "print_next", "print_table", "print_wrapped", "progress_bars", "write_json"]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str] = ()) -> None:
    """Prints a table; the first column and those in `left` are left-aligned, and brackets are not rich markup.

    Cells wrap between words and never inside one, so that names can be copied. None is an empty cell. Columns without
    any text are left out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_header=any(columns))
    shown = [n for n in range(len(columns)) if not cells or any(row[n] for row in cells)]
    for n in shown:
        words = [word for text in (columns[n], *(row[n] for row in cells)) for word in text.split()]
        justify: Literal["left", "right"] = "right" if n and columns[n] not in left else "left"
        table.add_column(Text(columns[n]), justify=justify, min_width=max(map(len, words), default=0))
    for row in cells:
        table.add_row(*(Text(row[n]) for n in shown))
    Console().print(Text(title, style="bold"))
    Console().print(table, crop=False)
    print()


def print_wrapped(text: str, indent: str = "") -> None:
    """Prints text wrapped at words, with the further lines indented; line ends at its start and end are kept."""
    from rich.console import Console

    before, after = len(text) - len(text.lstrip("\n")), len(text) - len(text.rstrip("\n"))
    wrapped = textwrap.fill(
        text.strip("\n"), Console().width, initial_indent=indent, subsequent_indent=" " * len(indent)
    )
    print("\n" * before + wrapped + "\n" * after)


def print_list(heading: str, lines: Sequence[str]) -> None:
    """Prints sentences as a list below a heading; nothing without sentences."""
    if lines:
        print_wrapped(heading)
    for line in lines:
        print_wrapped(line, "  - ")


def print_next(*parts: object) -> None:
    """Prints the command to type next, without its first word `worldline`, as the last line of a command.

    Args:
        parts: words, paths and names; those with spaces are quoted.
    """
    print(f"Next:   {shlex.join(['worldline', *map(str, parts)])}", flush=True)


def write_json(path: Path | None, figures: object) -> None:
    """Writes the results as JSON, if a path is given: dataclasses as objects, numbers that are not finite as text."""
    from pydantic_core import to_json

    from worldline.data.fsync import name_in_errors

    if path is not None:
        with name_in_errors(path):
            path.write_bytes(to_json(figures, indent=2, inf_nan_mode="strings") + b"\n")
