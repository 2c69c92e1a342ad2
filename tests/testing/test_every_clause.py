"""The kit is whole: every clause is in a suite, and has a planted fault that it catches."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import worldline.testing
from worldline.testing import engines, models, planners, worlds
from worldline.testing.clauses import Clause

SUITES = {"world": worlds.CLAUSES, "engine": engines.CLAUSES, "model": models.CLAUSES, "planner": planners.CLAUSES}
TESTS = [import_module(f"tests.testing.{path.stem}") for path in Path(__file__).parent.glob("test_*.py")]


def test_every_clause_is_in_a_suite() -> None:
    modules = [
        import_module(f"worldline.testing.{one.name}") for one in pkgutil.iter_modules(worldline.testing.__path__)
    ]
    every = {value for module in modules for value in vars(module).values() if isinstance(value, Clause)}
    assert {clause for suite in SUITES.values() for clause in suite} == every


@pytest.mark.parametrize("kind", SUITES)
def test_every_clause_of_a_suite_has_its_name_and_a_planted_fault(kind: str) -> None:
    names = [clause.__name__ for clause in SUITES[kind]]
    assert len(set(names)) == len(names)
    planted = {fault[1] for test in TESTS for fault in getattr(test, f"{kind.upper()}_FAULTS", ())}
    assert set(SUITES[kind]) - planted == set()


@pytest.mark.parametrize(
    "clause", dict.fromkeys(clause for suite in SUITES.values() for clause in suite), ids=lambda one: one.__name__
)
def test_every_clause_states_its_promise_in_a_sentence(clause: Clause[Any]) -> None:
    first = (clause.__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z`].{20,}\.", first)
