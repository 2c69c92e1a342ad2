"""What `benchmarks/understanding.py` makes of what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table_of_record", BENCHMARKS / "understanding.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(*codes: str, verdicts: tuple[str, ...] = ("PASS",)) -> dict[str, Any]:
    seeds = [{"verdict": verdict} for verdict in verdicts]
    return {"tests": [{"code": code, "seeds": seeds} for code in codes], "facts": {"Machine": f"cpu {len(codes)}"}}


def test_the_page_is_that_of_the_record(made: ModuleType) -> None:
    assert made.TABLE.read_text(encoding="utf-8") == made.page(json.loads(made.RESULT.read_text(encoding="utf-8")))


def test_what_is_asked_again_takes_the_place_of_what_was_and_is_told(made: ModuleType) -> None:
    before, after = row("C1", "P1", "T1"), row("P1", verdicts=("FAIL",))
    found = made.joined(before, after)
    assert [(one["code"], one["seeds"][0]["verdict"]) for one in found["tests"]] == [
        ("C1", "PASS"),
        ("P1", "FAIL"),
        ("T1", "PASS"),
    ]
    assert found["facts"] == {"Machine": "cpu 3", "Asked later": "P1 (cpu 1)"}
    assert made.joined(None, after) == after
    assert made.joined(after, before)["facts"] == before["facts"]


def test_what_all_sitters_have_alike_is_kept_once(made: ModuleType) -> None:
    known = {"oracle": {"cells": 1}, "must_fail": {"blind": {"cells": 2}}}
    broken, one, other = (
        {"code": "C1", "seeds": [], **more} for more in ({"oracle": None, "must_fail": {}}, known, known)
    )
    found = made.once({name: {"tests": [test]} for name, test in (("a", broken), ("b", one), ("c", other))})
    assert [bool(row["tests"][0]["must_fail"]) for row in found.values()] == [False, True, False]
    assert found["b"]["tests"] == [one]
    assert found["c"]["tests"] == [{**other, "oracle": None, "must_fail": {}}]


@pytest.mark.parametrize(
    ("kept", "measured"),
    [
        (None, False),
        (row("C1"), False),
        (row("C1", "P1"), False),
        (row("C1", "P1", verdicts=("PASS", "FAIL")), True),
        (row("C1", "P1", "T1", verdicts=("VOID", "FAIL", "PASS")), True),
        (row("C1", "P1", verdicts=("PASS", "ERROR")), False),
    ],
)
def test_what_broke_or_has_fewer_trainings_is_not_measured(
    made: ModuleType, kept: dict[str, Any] | None, measured: bool
) -> None:
    assert made.is_measured(kept, ("C1", "P1"), 2) is measured
