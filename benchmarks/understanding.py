"""The table of record: every family on every test of the exam, three training seeds each.

Run: .venv/bin/python benchmarks/understanding.py [--sitters ...] [--tests ...] [--seeds 3] [--pixels] [--again]
Adds to benchmarks/results/understanding.json after every sitter and writes the table in docs/understanding.md from all
that is there; a sitter that was measured is not measured again unless `--again` is given. All sit on the same logs and
answer the same scenes, with as many parameters and updates as the recipe has. Scenes are those of the report's
generators, which no model was improved on, with a seed that was used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldline.cli.options import free_cores, use_threads
from worldline.config import to_json
from worldline.contracts.evaluation import Verdict
from worldline.registry import names
from worldline.understanding.exam.contract import Pool
from worldline.understanding.exam.results import ExamResult, TestResult
from worldline.understanding.exam.verdicts import weakest
from worldline.workflows.exam import ExamOptions, exam
from worldline.workflows.sitters import RecipeSitter, Sitter, TrivialSitter

ROOT = Path(__file__).parent.parent
RESULT, TABLE = ROOT / "benchmarks" / "results" / "understanding.json", ROOT / "docs" / "understanding.md"
SEED = 20_261_126
SITTERS: Mapping[str, Sitter] = {
    "jepa": RecipeSitter(recipe="vectors"),
    "rssm": RecipeSitter(recipe="vectors", family="rssm"),
    "ensemble": RecipeSitter(recipe="vectors", family="ensemble"),
    "token": RecipeSitter(recipe="vectors", family="token"),
    "token, no actions": RecipeSitter(recipe="vectors", family="token-blind"),
    "linear": TrivialSitter(name="linear"),
    "persistence": TrivialSitter(name="persistence"),
}
INTRODUCTION = """# What each family understands

Written by `python benchmarks/understanding.py` from `benchmarks/results/understanding.json`. Every family learns from
the same logs with as many parameters and updates, and answers the same scenes, three trainings each; the worst training
counts. Each cell is the verdict, the score of the test's weakest part and, in brackets, its 95 % interval over scenes:
0 is the best trivial model, 1 the best that can be known. [What the tests ask](howto/understand.md).

"""


def measure(sitter: Sitter, options: ExamOptions) -> ExamResult:
    with tempfile.TemporaryDirectory() as folder:
        return exam(sitter, Path(folder) / "exam", options, stage=None)


def stored(result: ExamResult) -> dict[str, Any]:
    tests = tuple(replace(one, exhibit=None) for one in result.tests)
    return {**json.loads(to_json(replace(result, tests=tests))), "passed": list(result.passed)}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a sitter, a column a test; the oracle above, what must fail below."""
    codes = [one["code"] for one in next(iter(found.values()))["tests"]]
    titles = {one["code"]: one["title"] for row in found.values() for one in row["tests"]}
    lines = [f"| {' | '.join(['', *found])} |", f"| {' | '.join(['---'] * (1 + len(found)))} |"]
    for code in codes:
        cells = [cell(row["tests"], code) for row in found.values()]
        lines.append(f"| {' | '.join([f'**{code}** {titles[code]}', *cells])} |")
    passed = [f"**{len(row['passed'])} of {len(row['tests'])}**" for row in found.values()]
    lines.append(f"| {' | '.join(['passed (Holm)', *passed])} |")
    return "\n".join(lines) + "\n"


def cell(tests: Sequence[Mapping[str, Any]], code: str) -> str:
    for one in tests:
        if one["code"] == code:
            scores = [
                min((part["score"] for part in seed["grade"]["cells"] if part["score"]), key=lambda s: s["low"])
                for seed in one["seeds"]
                if seed["grade"] and any(part["score"] for part in seed["grade"]["cells"])
            ]
            worst = min(scores, key=lambda score: score["low"], default=None)
            text = "" if worst is None else f" {worst['value']:.2f} ({worst['low']:.2f} to {worst['high']:.2f})"
            return f"{one['verdict']}{text}"
    return ""


def show(name: str, result: ExamResult) -> None:
    print(f"\n{name}: {len(result.passed)} of {len(result.tests)}; {result.facts['Wall time']}", flush=True)
    for one in result.tests:
        print(f"  {one.code} {one.verdict:<14} {weakest_of(one)}", flush=True)


def weakest_of(one: TestResult) -> str:
    found = [weakest(seed.grade) for seed in one.seeds if seed.grade is not None]
    scored = [(part.score, part.name) for part in found if part is not None and part.score is not None]
    if not scored:
        return next((seed.reason for seed in one.seeds if seed.reason), "")[:100]
    score, name = min(scored, key=lambda pair: pair[0].low)
    unmet = {c.name for seed in one.seeds if seed.grade for c in seed.grade.conditions if not c.met}
    return f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f}) {name} {'; '.join(sorted(unmet))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sitters", nargs="+", default=list(SITTERS), choices=list(SITTERS))
    parser.add_argument("--tests", nargs="+", default=names("test"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings, with seeds 0, 1, ...")
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    use_threads(1)
    options = ExamOptions(
        codes=tuple(given.tests),
        pool=Pool.REPORT,
        pixels=given.pixels,
        seed=SEED,
        num_seeds=given.seeds,
        num_processes=given.threads or free_cores(),
    )
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    kind = found.setdefault("pixels" if given.pixels else "vectors", {})
    for name in given.sitters:
        if name in kind and not given.again:
            continue
        result = measure(SITTERS[name], options)
        show(name, result)
        kind[name] = stored(result)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    parts = [f"## From {seen}\n\n{table(rows)}" for seen, rows in found.items()]
    TABLE.write_text(INTRODUCTION + "\n".join(parts))
    broken = [name for name, row in kind.items() for one in row["tests"] if one["verdict"] == Verdict.ERROR]
    print(f"\nwritten to {TABLE.name}{'; tests that broke: ' + ', '.join(broken) if broken else ''}")


if __name__ == "__main__":
    main()
