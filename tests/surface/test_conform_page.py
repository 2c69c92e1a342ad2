"""The tables of `docs/howto/conform.md` list each promise of the kit and the clause that checks it.

`python -m tests.surface.test_conform_page` writes the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from worldline.testing import engines, worlds

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "conform.md"
CLAUSES: dict[str, Sequence[Callable[[Any], None]]] = {"worlds": worlds.CLAUSES, "engines": engines.CLAUSES}


def table(clauses: Sequence[Callable[[Any], None]]) -> str:
    """The expected rows."""
    rows = [
        f"| {(clause.__doc__ or '').splitlines()[0]} | `{clause.__module__.split('.')[-1]}.{clause.__name__}` |"
        for clause in clauses
    ]
    return "\n".join(["| promise | clause |", "| --- | --- |", *rows])


def with_tables(page: str) -> str:
    """The page with the tables of this version."""
    for kind, clauses in CLAUSES.items():
        begin, end = f"<!-- {kind}: begin -->\n", f"\n<!-- {kind}: end -->"
        before, rest = page.split(begin)
        page = before + begin + table(clauses) + end + rest.split(end)[1]
    return page


def test_the_tables_are_those_of_the_kit() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run `python -m tests.surface.test_conform_page`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
