"""`benchmarks/understanding.py`: how it stores results and what the page shows."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from worldline.audit.grades import Verdict
from worldline.config import to_json
from worldline_exam.base import Pool
from worldline_exam.folder import RESULT, Stored
from worldline_exam.options import ExamOptions
from worldline_exam.results import ExamResult

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table_of_record", BENCHMARKS / "understanding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_record(made: ModuleType) -> None:
    assert made.TABLE.read_text(encoding="utf-8") == made.page(made.read_record(made.RESULT))


@pytest.fixture
def record(made: ModuleType) -> dict[str, Any]:
    """The committed results of `memory` from vectors."""
    found: dict[str, Any] = made.read_record(made.RESULT)
    return {"vectors": {made.BEST: found["vectors"][made.BEST]}, made.EXAM_SEEDS: found[made.EXAM_SEEDS]}


def exam_of_memory(made: ModuleType, record: dict[str, Any], *failed: str) -> ExamResult:
    """The committed exam of `memory`, with a FAIL in these tests."""
    result = made.read({"memory": record["vectors"][made.BEST]})["memory"]
    tests = (replace(one, verdict=Verdict.FAIL) if one.code in failed else one for one in result.tests)
    return replace(result, tests=tuple(tests))


def kept(folder: Path, result: ExamResult, **options: Any) -> Path:
    """A folder with this exam."""
    folder.mkdir()
    (folder / RESULT).write_text(to_json(Stored(options=ExamOptions(**options), result=result)))
    return folder


def test_exam_folders_of_any_number_widen_the_range(made: ModuleType, record: dict[str, Any], tmp_path: Path) -> None:
    before = made.read(record[made.EXAM_SEEDS]) | {str(made.SEED): exam_of_memory(made, record)}
    for seed, failed in ((7, ("T1", "T4")), (8, ("T1",))):
        result = exam_of_memory(made, record, *failed)
        record = made.with_exam_seed(record, kept(tmp_path / str(seed), result, seed=seed))
    most = max(len(row.passed) for row in before.values())
    fewest = len(before[str(made.SEED)].passed) - 2
    text = made.page(record)
    assert text.split("\n\n")[1].startswith(f"`memory` passes {fewest} to {most} of 16 tests over {len(before) + 2} ")
    row = next(row for row in text.split("over exam seeds\n")[1].splitlines() if row.startswith("| **T1**"))
    assert row.split(" | ")[1] == str(len(before) + 2)
    assert int(row.removesuffix(" |").split(" | ")[-1]) == 2 + sum(
        one.verdict is Verdict.FAIL for _, one in made.of(before, "T1")
    )


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("vectors", {"seed": 7}, "an exam of vectors"),
        ("memory", {"seed": 7, "pool": Pool.DEVELOPMENT}, "not a full report exam"),
        ("memory", {"seed": 7, "pixels": True}, "not a full report exam"),
        ("memory", {"seed": 7, "sizes": {"num_scenes": 20}}, "not a full report exam"),
        ("memory", {"seed": 20_261_126}, "another seed"),
    ],
)
def test_other_exams_are_not_added(
    made: ModuleType, record: dict[str, Any], tmp_path: Path, recipe: str, options: dict[str, Any], message: str
) -> None:
    result = replace(exam_of_memory(made, record), subject=recipe)
    with pytest.raises(SystemExit, match=message):
        made.with_exam_seed(record, kept(tmp_path / "exam", result, **options))
