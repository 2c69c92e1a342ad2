"""Effect of another processor's rounding on a retrained `memory`: `worldline compare` of two exams.

Run: .venv/bin/python benchmarks/retrained.py [--exams HERE OTHER] [--seeds 3]
Takes an hour on two cores without --exams. Writes benchmarks/results/retrained.json.

Both exams have the tests, logs, scenes and trainings of the published table. One uses all instructions of this
processor. The other uses AVX2 at most and no bfloat16, like an older processor. --exams takes the folders of two
existing exams, trained on any machine.

Target: every interval of the difference, over scenes and trainings, includes 0. Without a target: the intervals of each
training alone, which are over scenes only and ignore the variation between trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from understanding import SEED

from worldline_exam.comparison import ExamComparison
from worldline_exam.folder import read_exam
from worldline_exam.run import compare

RESULT: Final = Path(__file__).parent / "results" / "retrained.json"
TESTS: Final = "C2,C3,P4,T3,U1"
OLDER: Final = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
WITHOUT_BFLOAT16: Final = "import worldline.device as p; p.has_bfloat16 = lambda: False; "
RUN: Final = "from worldline.cli.main import app; app()"

Figures = dict[str, Any]


def sit(out: Path, seeds: int) -> list[Path]:
    """Folders of the exams with this processor and with an older one, run in parallel on one core each."""
    folders, sitting = [out / "here", out / "older"], []
    for folder, before, further in zip(folders, ("", WITHOUT_BFLOAT16), ({}, OLDER), strict=True):
        asked = [
            "--tests",
            TESTS,
            "--seed",
            str(SEED),
            "--num-seeds",
            str(seeds),
            "--threads",
            "1",
            "--out",
            str(folder),
        ]
        command = [sys.executable, "-c", before + RUN, "exam", "memory", *asked]
        sitting.append(subprocess.Popen(command, env={**os.environ, **further, "OMP_NUM_THREADS": "1"}))
    for one in sitting:
        if one.wait():
            raise SystemExit(f"An exam ended with status {one.returncode}: {one.args!r}")
    return folders


def told(found: ExamComparison) -> Figures:
    """Counts the intervals that include 0."""
    return {"intervals": len(found.differences), "include 0": sum(one.includes_zero for one in found.differences)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exams", nargs=2, type=Path, metavar=("HERE", "OTHER"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = given.exams or sit(Path(scratch), given.seeds)
        together = compare(ours, theirs)
        trainings = sorted({pair for one in together.differences for pair in one.pairs})
        verdicts = {
            name: {one.code: [str(seed.verdict) for seed in one.seeds] for one in read_exam(folder).result.tests}
            for name, folder in (("here", ours), ("other", theirs))
        }
        alone = {str(pair[0]): told(compare(ours, theirs, pair)) for pair in trainings}
        again = {f"{a} and {b}": told(compare(ours, ours, (a, b))) for a, _ in trainings for b, _ in trainings if a < b}
    figures: Figures = {
        "verdicts": verdicts,
        "differences": {
            f"{one.code} {one.cell}": {name: round(getattr(one, name), 4) + 0.0 for name in ("value", "low", "high")}
            for one in together.differences
        },
        "all trainings": told(together),
        "one training": alone,
        "two trainings of one processor": again,
        "met": all(one.includes_zero for one in together.differences),
        "machine": platform.machine(),
        "torch": torch.__version__.split("+")[0],
    }
    RESULT.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
