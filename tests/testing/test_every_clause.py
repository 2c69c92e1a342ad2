"""The kit is whole: every clause is in the list that is checked, and has a planted fault that it catches."""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import worldline.testing
from worldline.testing import engines, worlds
from worldline.testing.clauses import Clause

MODULES = [import_module(f"worldline.testing.{one.name}") for one in pkgutil.iter_modules(worldline.testing.__path__)]
PLANTED = set(
    re.findall(
        r"\[?((?:world|engine)\.[a-z_]+)", "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    )
)


def checks(module: ModuleType, case: str) -> list[Callable[[Any], None]]:
    """The public functions of a module that check one thing of a case."""
    found = []
    for name, member in vars(module).items():
        if inspect.isfunction(member) and member.__module__ == module.__name__ and not name.startswith("_"):
            parameters = list(inspect.signature(member).parameters.values())
            if [parameter.annotation for parameter in parameters] == [case]:
                found.append(member)
    return found


@pytest.mark.parametrize(("case", "listed"), [("WorldCase", worlds.CLAUSES), ("EngineCase", engines.CLAUSES)])
def test_every_check_is_listed_once(case: str, listed: tuple[Callable[[Any], None], ...]) -> None:
    every = {check for module in MODULES for check in checks(module, case)}
    assert set(listed) == every
    assert len(set(listed)) == len(listed)
    assert len({check.__name__ for check in listed}) == len(listed)


@pytest.mark.parametrize("kind", ["world", "engine"])
def test_every_clause_has_a_planted_fault(kind: str) -> None:
    clauses = [value for module in MODULES for value in vars(module).values() if isinstance(value, Clause)]
    names = {clause.name for clause in clauses if clause.name.startswith(f"{kind}.")}
    assert names
    assert names - PLANTED == set()


@pytest.mark.parametrize("check", [*worlds.CLAUSES, *engines.CLAUSES], ids=lambda check: check.__name__)
def test_every_check_says_in_a_sentence_what_is_promised(check: Callable[[Any], None]) -> None:
    first = (check.__doc__ or "").splitlines()[0]
    assert re.fullmatch(r"[A-Z`].{20,}\.", first)
