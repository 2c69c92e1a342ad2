"""Validity of the exam: error rates of its verdicts, and its metrics against published ones.

Run: .venv/bin/python benchmarks/exam_harness.py [--part synthetic|real|published|stored] [--runs 200] [--tests C3 T3]
Writes benchmarks/results/exam_harness.json, or one part of it. On one idle thread the synthetic and published parts
take a minute; the real part takes hours, its first five tests a quarter of an hour. Tests are written one by one, and
earlier results stay. `--seconds` limits the time per test; the seeds that finish in time count.

Parts, each in a file next to this one:

* synthetic (exam_rates.py): false PASS and false VOID of cells with a known true score, and of whole exams. Also how
  often two equally good subjects seem to differ.
* real (exam_seeds.py): the same on tests of the exam, over seeds of their scenes.
* stored: the metric of IntPhys on the surprises that are stored in the exams of --exams NAME=FOLDER.
* published (exam_published.py): P1's surprises by the metric of IntPhys, C4 against CoPhy's copying baselines, and the
  beta-binomial law that U1 uses to judge counts.

Targets, `met` in the result. Where a rate is limited, the lower end of its Wilson interval must not exceed the limit.

* a model at the boundary 0.5 gets a PASS in at most 2.5 % of cells, per kind of cell;
* an exam has any false pass by Holm in at most 5 % of exams, and a model without knowledge never passes;
* a valid test is VOID in at most 2.5 % of exams;
* equally good subjects with two trainings or more seem to differ in at most 5 % of comparisons;
* the published metric relates to ours as derived, in every row, and copying is beaten as published;
* counts of exact split conformal prediction follow the law (p above 0.01).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import exam_published
import exam_rates
import exam_seeds
import numpy as np

from worldline.audit import scoring
from worldline_exam.exam_tests.counterfactual import CounterfactualTest
from worldline_exam.exam_tests.violation import ViolationOfExpectationTest
from worldline_exam.scenes.puck import NUM_CALIBRATION

RESULT: Final = Path(__file__).parent / "results" / "exam_harness.json"
DUE_CELL: Final = 0.025
DUE_EXAM: Final = 0.05
DUE_EQUAL: Final = 0.05
DUE_P: Final = 0.01
SURE: Final = 5.0
"""Ratio of floor to ceiling from which an oracle's cell must be valid; the exam's labs have 10 or more."""
NUM_LAW: Final = 2000
SETS_SEEDS: Final = (60_001, 60_002, 60_003)
TWIN_SEED: Final = 60_004
NUM_TWINS: Final = 400
OWN: Final = 2000
"""Calibration episodes of U1's oracle."""
EXAMS: Final = ("all at 0.5, one cell a test", "half at 1 and half at 0.5, one cell a test")
Figures = dict[str, Any]


def synthetic(runs: int) -> Figures:
    rng = np.random.default_rng(1)
    found: Figures = {"cells": exam_rates.nulls(2 * runs, rng), "oracles": exam_rates.oracles(runs, rng)}
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
            show(row)
            rows[row["test"]] = row
            write(out, "real", {"tests": list(rows.values()), "met": judged(list(rows.values()))})


def judged(rows: list[Figures]) -> Figures:
    """The targets that real tests meet."""
    nobody = [row for one in rows for name, row in one["models"].items() if name not in ("oracle", "half")]
    halves = {one["test"]: one["models"]["half"] for one in rows if "half" in one["models"]}
    return {
        "VOID": {one["test"]: one["VOID"]["low"] <= DUE_CELL for one in rows},
        "false PASS of who must fail and of floors": all(one["PASS"]["count"] == 0 for one in nobody),
        "false PASS of cells at 0.5": {code: one["cells above 0.5"]["low"] <= DUE_CELL for code, one in halves.items()},
        "false PASS of tests at 0.5": all(one["PASS"]["low"] <= DUE_CELL for one in halves.values()),
    }


def published(runs: int) -> Figures:
    rng = np.random.default_rng(3)
    constructed = exam_published.constructed(rng)
    show(constructed)
    logs = exam_seeds.logs_of(ViolationOfExpectationTest(), 0)
    sets = exam_published.matched_sets(SETS_SEEDS, logs)
    show(sets)
    law = exam_published.split_conformal(NUM_LAW, rng)
    show(law)
    as_used = [row for num in (NUM_CALIBRATION, OWN) for row in exam_published.as_calibrated(num, 5 * runs, rng)]
    show(as_used)
    copying = exam_published.copying(TWIN_SEED, NUM_TWINS, exam_seeds.logs_of(CounterfactualTest(), 0))
    show(copying)
    met = {
        "matched sets": all(one["holds"] for one in constructed.values())
        and all(one["holds"] for parts in sets.values() for one in parts.values()),
        "copying": copying["met"],
        "law": all(p > DUE_P for p in law["p-values"].values())
        and law["in the band"]["low"] <= law["in the band by the law"] <= law["in the band"]["high"],
        "condition of U1": all(one["not met"]["low"] <= DUE_EXAM for one in as_used),
    }
    return {
        "matched sets, constructed": constructed,
        "matched sets of P1": sets,
        "copying on C4": copying,
        "split conformal": law,
        "as calibrated": as_used,
        "met": met,
    }


def stored(exams: Sequence[str]) -> Figures:
    folders = {name: Path(folder) for name, _, folder in (text.partition("=") for text in exams)}
    found = {name: exam_published.of_stored(folder) for name, folder in folders.items()}
    if lost := [name for name, trainings in found.items() if not trainings]:
        raise SystemExit(f"The exam of {', '.join(lost)} has no answers to P1. Run the exam with P1 first.")
    rows = [row for trainings in found.values() for parts in trainings.values() for row in parts.values()]
    return {"subjects": found, "met": all(row["holds"] for row in rows)}


def show(figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def read(out: Path) -> Figures:
    found: Figures = json.loads(out.read_text()) if out.exists() else {}
    return found


def write(out: Path, part: str, found: Figures) -> None:
    """Adds a part and its machine to the result."""
    figures = read(out) | {
        part: found,
        "device": f"CPU, {os.cpu_count()} cores, 1 thread used",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    out.write_text(json.dumps(figures, indent=1) + "\n")
    show(found["met"])


WHOLE: Final[dict[str, Callable[[int], Figures]]] = {"synthetic": synthetic, "published": published}


def main() -> None:
    codes = tuple(case.test.code for case in exam_seeds.CASES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*WHOLE, "real", "stored"), help="default: all")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--tests", nargs="+", choices=codes, default=codes, help="tests of the part real")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time limit per test of the part real")
    parser.add_argument("--exams", nargs="+", metavar="NAME=FOLDER", help="exams of the part stored; required there")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if (given.part == "stored" and not given.exams) or not all("=" in one for one in given.exams or ()):
        parser.error("--part stored needs --exams NAME=FOLDER")
    # The usual bootstrap draws, made once: they take nine tenths of the time.
    with patch.object(scoring, "draw_clusters", exam_rates.kept_draws):
        for name, measure in WHOLE.items():
            if given.part in (None, name):
                begin = time.process_time()
                found = measure(given.runs)
                took = {"runs": given.runs, "CPU seconds": round(time.process_time() - begin, 1)}
                write(given.out, name, {**took, **found})
        if given.part in (None, "real"):
            real(given.runs, given.seconds, given.out, given.tests)
        if given.exams:
            write(given.out, "stored", stored(given.exams))


if __name__ == "__main__":
    main()
