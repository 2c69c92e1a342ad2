"""Error rates of the exam's verdicts.

Run: .venv/bin/python benchmarks/exam_harness.py [--part synthetic real] [--runs 200] [--tests C3 T3] [--seconds 600]
Writes benchmarks/results/exam_harness.json, or one part of it. On one idle thread the synthetic part takes a minute;
the real part takes hours, its first five tests a quarter of an hour. Tests are written one by one, and earlier results
stay. `--seconds` limits the time per test; the seeds that finish in time count.

Parts, each in a file next to this one:

* synthetic (exam_rates.py): false PASS and false VOID of cells with a known true score, and of whole exams. Also how
  often two equally good subjects seem to differ.
* real (exam_seeds.py): the same on tests of the exam, over seeds of their scenes.

Targets, `met` in the result. Where a rate is limited, the lower end of its Wilson interval must not exceed the limit.

* a model at the boundary 0.5 gets a PASS in at most 2.5 % of cells, per kind of cell;
* an exam has any false pass by Holm in at most 5 % of exams, and a model without knowledge never passes;
* a valid test is VOID in at most 2.5 % of exams;
* equally good subjects with two trainings or more seem to differ in at most 5 % of comparisons.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final
from unittest.mock import patch

import exam_rates
import exam_seeds
import numpy as np
from common import Row, arguments, read, write

from worldline.audit import scoring

DUE_CELL: Final = 0.025
DUE_EXAM: Final = 0.05
DUE_EQUAL: Final = 0.05
SURE: Final = 5.0
"""Ratio of floor to ceiling from which an oracle's cell must be valid; the exam's labs have 10 or more."""
TESTS: Final = tuple(case.test.code for case in exam_seeds.CASES)


def synthetic(runs: int) -> Row:
    """The part of synthetic cells."""
    rng = np.random.default_rng(1)
    found: Row = {"cells": exam_rates.nulls(2 * runs, rng), "oracles": exam_rates.oracles(runs, rng)}
    found["exams"] = exam_rates.exams(runs, rng)
    found["comparisons"] = exam_rates.comparisons(2 * runs, np.random.default_rng(2))
    found["met"] = {
        "false PASS of a cell, by kind": {
            kind: all(one["true 0.5: PASS"]["low"] <= DUE_CELL for one in found["cells"] if one["kind"] == kind)
            for kind in exam_rates.KINDS
        },
        "false PASS at 0": all(one["true 0: PASS"]["count"] == 0 for one in found["cells"]),
        "false VOID": all(
            one[f"VOID by {why}"]["low"] <= DUE_CELL
            for one in found["oracles"]
            for why in ("oracle", "must fail")
            if one["floor over ceiling"] >= SURE
        ),
        "false pass of an exam by Holm": {
            one["exams"]: one["any by Holm"]["low"] <= DUE_EXAM for one in found["exams"]
        },
        "equals that seem to differ, of several trainings": all(
            one["seem to differ"]["low"] <= DUE_EQUAL for one in found["comparisons"] if one["trainings"] > 1
        ),
    }
    return found


def real(runs: int, seconds: float, out: Path, codes: Collection[str]) -> None:
    """Measures the tests one by one and writes each result; earlier results stay."""
    rows = {one["test"]: one for one in read(out).get("real", {}).get("tests", ())}
    for case in exam_seeds.CASES:
        if case.test.code in codes:
            row = exam_seeds.measure(case, runs, seconds)
            print(json.dumps(row), flush=True)
            rows[row["test"]] = row
            add(out, "real", {"tests": list(rows.values()), "met": judged(list(rows.values()))})


def judged(rows: list[Row]) -> Row:
    """The targets that real tests meet."""
    nobody = [row for one in rows for name, row in one["models"].items() if name not in ("oracle", "half")]
    halves = {one["test"]: one["models"]["half"] for one in rows if "half" in one["models"]}
    return {
        "VOID": {one["test"]: one["VOID"]["low"] <= DUE_CELL for one in rows},
        "false PASS of who must fail and of floors": all(one["PASS"]["count"] == 0 for one in nobody),
        "false PASS of cells at 0.5": {code: one["cells above 0.5"]["low"] <= DUE_CELL for code, one in halves.items()},
        "false PASS of tests at 0.5": all(one["PASS"]["low"] <= DUE_CELL for one in halves.values()),
    }


def add(out: Path, part: str, result: Row) -> None:
    """Adds a part to the result."""
    write(out, read(out) | {part: result, "numpy": np.__version__})
    print(json.dumps(result["met"]), flush=True)


def main() -> None:
    """Measures the parts."""
    options = arguments(__doc__, part=("synthetic", "real"), runs=200, tests=TESTS, seconds=math.inf)
    # The usual bootstrap draws, made once: they take nine tenths of the time.
    with patch.object(scoring, "draw_clusters", exam_rates.kept_draws):
        if "synthetic" in options.part:
            begin = time.process_time()
            result = synthetic(options.runs)
            took = {"runs": options.runs, "CPU seconds": round(time.process_time() - begin, 1)}
            add(options.out, "synthetic", {**took, **result})
        if "real" in options.part:
            real(options.runs, options.seconds, options.out, options.tests)


if __name__ == "__main__":
    main()
