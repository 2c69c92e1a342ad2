"""The tables of `docs/howto/conform.md` are those of the kit: each promise, and the clause that checks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from worldline.testing import engines, worlds

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "conform.md"
CLAUSES: dict[str, Sequence[Callable[[Any], None]]] = {"worlds": worlds.CLAUSES, "engines": engines.CLAUSES}


def table(clauses: Sequence[Callable[[Any], None]]) -> str:
    """The rows that are due."""
    rows = [
        f"| {(clause.__doc__ or '').splitlines()[0]} | `{clause.__module__.split('.')[-1]}.{clause.__name__}` |"
        for clause in clauses
    ]
    return "\n".join(["| promise | clause |", "| --- | --- |", *rows])


@pytest.mark.parametrize("kind", sorted(CLAUSES))
def test_the_table_is_that_of_the_kit(kind: str) -> None:
    shown = re.search(f"<!-- {kind}: begin -->\n(.*?)\n?<!-- {kind}: end -->", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == table(CLAUSES[kind])
