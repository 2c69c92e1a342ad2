"""The tables of `docs/howto/conform.md` list each promise of the kit and the clause that checks it.

`python -m tests.surface.test_conform_page` writes the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldline.testing.clauses import CLAUSES, Clause

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "conform.md"


def table(clauses: Sequence[Clause]) -> str:
    """The expected rows."""
    rows = [
        f"| {(clause.__doc__ or '').splitlines()[0]} | `{clause.__module__.split('.')[-1]}.{clause.__name__}` |"
        for clause in clauses
    ]
    return "\n".join(["| promise | clause |", "| --- | --- |", *rows])


def with_tables(page: str) -> str:
    """The page with the tables of this version."""
    for kind in ("world", "engine"):
        begin, end = f"<!-- {kind}s: begin -->\n", f"\n<!-- {kind}s: end -->"
        before, rest = page.split(begin)
        page = before + begin + table(CLAUSES[kind]) + end + rest.split(end)[1]
    return page


def test_the_tables_are_those_of_the_kit() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "run `python -m tests.surface.test_conform_page`"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
