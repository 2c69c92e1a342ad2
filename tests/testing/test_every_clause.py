"""The table is whole: every clause has its name, its sentence, and a planted fault that it catches."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from worldline.testing.clauses import CLAUSES

TESTS = [import_module(f"tests.testing.{path.stem}") for path in Path(__file__).parent.glob("test_*.py")]


@pytest.mark.parametrize("kind", CLAUSES)
def test_every_clause_has_its_name_a_sentence_and_a_planted_fault(kind: str) -> None:
    names = [clause.__name__ for clause in CLAUSES[kind]]
    assert len(set(names)) == len(names)
    planted = {fault[1] for test in TESTS for fault in getattr(test, f"{kind.upper()}_FAULTS", ())}
    assert set(names) == planted
    for clause in CLAUSES[kind]:
        assert re.fullmatch(r"[A-Z`].{20,}\.", (clause.__doc__ or "").splitlines()[0])
