"""The exam's table: every model family on every test, three training seeds each.

Run: .venv/bin/python benchmarks/understanding.py [--sitters ...] [--tests ...] [--seeds 3] [--pixels | --fresh]
A quick look: ... --sizes num_scenes=20 --out FOLDER, which leaves the committed table unchanged.
Adds to benchmarks/results/understanding.json after every subject, and writes docs/understanding.md from all results.

A subject is measured if its results have fewer tests or trainings than requested, or always with `--again`. All
subjects train on logs of the same seed and answer the same scenes, which is checked. Families other than `jepa` use
the recipe `memory` with about as many parameters and as many updates, and their last checkpoint. The number and length
of windows per update depend on the family (`recipes/families.py`) and are listed on the page. Scenes come from the
report's generators, which were not used to improve models, with a reserved seed. `--fresh` examines the best recipe on
logs and scenes of another seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldline.cli.options import free_cores, use_threads
from worldline.config import from_json, to_strict_json
from worldline.contracts.evaluation import Cell, Grade, Verdict
from worldline.registry import names
from worldline.understanding.exam.contract import Pool
from worldline.understanding.exam.results import ExamResult, TestResult, deciding_part
from worldline.understanding.exam.verdicts import weakest
from worldline.understanding.wording import listing
from worldline.workflows.exam import exam
from worldline.workflows.exam_options import ExamOptions
from worldline.workflows.sitters import BLIND, RecipeSitter, Sitter, TrivialSitter

ROOT = Path(__file__).parent.parent
RESULT, TABLE = ROOT / "benchmarks" / "results" / "understanding.json", ROOT / "docs" / "understanding.md"
SEED, FRESH_SEED = 20_261_126, 20_261_128
SITTERS: Mapping[str, Sitter] = {
    "jepa": RecipeSitter(recipe="memory"),
    "jepa-without-memory": RecipeSitter(recipe="vectors"),
    "rssm": RecipeSitter(recipe="memory", family="rssm"),
    "ensemble": RecipeSitter(recipe="memory", family="ensemble"),
    "token": RecipeSitter(recipe="memory", family="token"),
    "token-blind": RecipeSitter(recipe="memory", family=BLIND),
    "linear": TrivialSitter(name="linear"),
    "persistence": TrivialSitter(name="persistence"),
}
PIXEL_SITTERS: Mapping[str, Sitter] = {
    "film": RecipeSitter(recipe="film"),
    "film-rssm": RecipeSitter(recipe="film", family="rssm"),
}
"""Subjects whose family has an encoder for pictures."""
KINDS: Mapping[str, tuple[str, Mapping[str, Sitter]]] = {
    "vectors": ("From vectors", SITTERS),
    "pixels": ("From pictures", PIXEL_SITTERS),
    "fresh": ("From vectors, with a seed that was not used in development", {"jepa": SITTERS["jepa"]}),
}
"""The sections of the page, each with its title and its subjects."""
TITLES = {
    "jepa": "jepa (memory)",
    "jepa-without-memory": "jepa without memory",
    "token-blind": "token without actions",
}
FACTS = ("Parameters", "Updates", "Batches", "Context", "Machine", "Asked later")
INTRODUCTION = """# What each family understands

Sixteen tests of cause, physics, time and confidence, written by `python benchmarks/understanding.py` from
`benchmarks/results/understanding.json`. All families learn from the same logs and answer the same scenes.
Each cell has the verdict, the score of the weakest part and its 95 % interval over scenes.
A score of 0 is the floor that the test names; 1 is the upper bound. The worst training counts.

"""

READING = """\
How to read the table:

* If a test fails, the cell has the weakest failed part. The last row counts the tests that every training passes after
  Holm's correction. [What the tests ask](howto/understand.md).
* `steady_60` is a boat in steady wind whose logged actions follow the wind with weight 0.6. `station_99` has a lamp
  that agrees with the levers in 99 % of the steps.
* `jepa (memory)` and `jepa without memory` are the recipes `memory` and `vectors`. The other families use `memory`,
  with about as many parameters and updates. `vectors` has fewer updates. Least-squares coefficients are not counted.
* `rssm` and `token` see at most eight observations, the ensemble and `linear` three, `vectors` one.
  T2 and T3 need more.
* `linear` passes U1 because its puck moves nearly along a line and the toolkit calibrates the bands.
* C4 is answered by `World.what_if`, whose inference does not depend on the model. A PASS says little of a family.
* These scenes were used several times while the exam and `memory` were developed
  ([log](../benchmarks/log/exam-results.md)). The last section has a seed that was not used in development.
* No text model has taken the exam: `worldline exam language` needs an endpoint.

"""

REFERENCES_IN_PICTURES = """\
The oracle and the models that must fail know the state. Their grades are those of the exam in vectors if a test is the
same in both, and do not measure what the camera shows.

"""

FRESH = """\
P1, U1 and U3 were trained and graded again after two fixes ([log](../benchmarks/log/exam-results.md)). Before, 12 of 16
tests passed.

"""

NOTES = {"vectors": READING, "pixels": REFERENCES_IN_PICTURES, "fresh": FRESH}

Rows = Mapping[str, ExamResult]


def measure(sitter: Sitter, options: ExamOptions, folder: Path | None) -> ExamResult:
    """Runs the exam in this folder, where an interrupted exam continues, or in a temporary one."""
    if folder is not None:
        return exam(sitter, folder, options, resume=True)
    with tempfile.TemporaryDirectory() as new:
        return exam(sitter, Path(new) / "exam", options)


def stored(result: ExamResult) -> dict[str, Any]:
    tests = tuple(replace(one, exhibit=None) for one in result.tests)
    found: dict[str, Any] = json.loads(to_strict_json(replace(result, tests=tests)))
    return found


def joined(before: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row joined with tests of an earlier row that were not repeated; facts of the row with more tests."""
    before = before or {"tests": ()}
    tests = {one["code"]: one for one in (*before["tests"], *row["tests"])}
    whole = max(row, before, key=lambda one: len(one["tests"]))
    facts = dict(whole["facts"])
    if whole is before:
        later = f"{', '.join(one['code'] for one in row['tests'])} ({row['facts']['Machine']})"
        facts["Asked later"] = "; ".join(dict.fromkeys((*facts.get("Asked later", later).split("; "), later)))
    return {**whole, "facts": facts, "tests": [tests[code] for code in sorted(tests)]}


def once(kind: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows, with oracle and models that must fail in the first row only: they are equal in all."""
    told: set[str] = set()
    rows = {}
    for name, row in kind.items():
        tests = [{**one, "oracle": None, "must_fail": {}} if one["code"] in told else one for one in row["tests"]]
        told |= {one["code"] for one in tests if one["must_fail"]}
        rows[name] = {**row, "tests": tests}
    return rows


def is_measured(row: Mapping[str, Any] | None, codes: Sequence[str], num_seeds: int) -> bool:
    """Whether a row has all these tests with at least as many trainings and without errors."""
    tests = [] if row is None else row["tests"]
    asked = {one["code"]: sum(seed["verdict"] != Verdict.ERROR for seed in one["seeds"]) for one in tests}
    return all(asked.get(code, 0) >= num_seeds for code in codes)


def page(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Returns the text of docs/understanding.md."""
    parts = [INTRODUCTION]
    for seen, kept in ((seen, found[seen]) for seen in KINDS if seen in found):
        rows = {name: from_json(ExamResult, json.dumps(row), where=RESULT) for name, row in kept.items()}
        check_scenes(rows)
        parts += [f"## {KINDS[seen][0]}\n\n", seeds(rows), unmeasured(seen, rows), table(rows), "\n", unpassed(rows)]
        parts += [NOTES.get(seen, ""), examiners(rows)]
        parts += [f"\n### {TITLES.get(name, name)}\n\n{words(row)}" for name, row in rows.items()]
    if "pixels" not in found:
        parts.append("\n## From pictures\n\nNot measured yet.\n")
    return "".join(parts)


def check_scenes(rows: Rows) -> None:
    """Raises `SystemExit` if subjects answered different scenes, because their scores do not compare."""
    for code in codes_of(rows):
        scenes = {row: one.scenes for row, one in of(rows, code) if one.scenes}
        if len(set(scenes.values())) > 1:
            raise SystemExit(f"{code} has different scenes: {scenes}. Measure all subjects with this version.")


def seeds(rows: Rows) -> str:
    """A sentence with the seeds."""
    drawn = sorted({row.facts["Generators"] for row in rows.values()})
    trained: dict[str, list[str]] = {}
    for name, row in rows.items():
        trained.setdefault(trainings(row), []).append(TITLES.get(name, name))
    each = "; ".join(f"{text}: {', '.join(who)}" for text, who in trained.items())
    sizes = {row.facts["Sizes"] for row in rows.values() if "Sizes" in row.facts}
    small = f" NOT at full size: {'; '.join(sorted(sizes))}." if sizes else ""
    return f"Logs and scenes: {'; '.join(drawn)}. Trainings, {each}.{small}\n\n"


def unmeasured(seen: str, rows: Rows) -> str:
    """Subjects without results; empty if there are none."""
    lost = [name for name in KINDS[seen][1] if name not in rows]
    return f"Not measured yet: {', '.join(TITLES.get(name, name) for name in lost)}.\n\n" if lost else ""


def trainings(row: ExamResult) -> str:
    """A text such as "3 (seeds 0 to 2)", with the tests that have fewer."""
    counts = {one.code: len(one.seeds) for one in row.tests}
    most = max(counts.values())
    fewer = [f"{code} {count}" for code, count in counts.items() if count < most]
    numbers = f"{most} (seed{'' if most == 1 else 's'} {'0' if most == 1 else f'0 to {most - 1}'})"
    return f"{numbers} but {', '.join(fewer)}" if fewer else numbers


def table(rows: Rows) -> str:
    """One row per test, one column per subject; the oracle last."""
    titles = {one.code: one.title for row in rows.values() for one in row.tests}
    lines = [line("", *(TITLES.get(name, name) for name in rows), "oracle"), line(*["---"] * (2 + len(rows)))]
    for code in codes_of(rows):
        asked = dict(of(rows, code))
        cells = [f"{asked[name].verdict}{score(deciding_part(asked[name]))}" if name in asked else "" for name in rows]
        oracle = next((one.oracle for one in asked.values() if one.oracle), None)
        lines.append(
            line(f"**{code}** {titles[code]}", *cells, score(None if oracle is None else weakest(oracle)).strip())
        )
    passed = [f"**{len(row.passed)} of {len(row.tests)}**" for row in rows.values()]
    return "\n".join([*lines, line("passed (Holm)", *passed, "")]) + "\n"


def unpassed(rows: Rows) -> str:
    """Tests that the best subject does not pass, and tests that none passes."""
    best = max(rows, key=lambda name: len(rows[name].passed))
    lacks = [f"{one.code} ({one.verdict})" for one in rows[best].tests if one.code not in rows[best].passed]
    nobody = [code for code in codes_of(rows) if not any(code in row.passed for row in rows.values())]
    told = [f"The best, {TITLES.get(best, best)}, lacks {listing(lacks)}."] if lacks else []
    return " ".join([*told, *([f"Passed by none: {listing(nobody)}."] if nobody and len(rows) > 1 else [])]) + "\n\n"


def examiners(rows: Rows) -> str:
    """The models that must fail, which every run grades, with the reason of their failure."""
    lines = ["Each run grades models that must fail, by the score of their weakest part and by missed conditions:\n"]
    for code in codes_of(rows):
        one = next((one for _, one in of(rows, code) if one.must_fail), None)
        if one is not None:
            lines.append(f"* **{code}**: " + "; ".join(f"{n}{failing(grade)}" for n, grade in one.must_fail.items()))
    return "\n".join(lines) + "\n"


def failing(grade: Grade) -> str:
    unmet = [condition.found for condition in grade.conditions if not condition.met]
    part = weakest(grade)
    where = "" if part is None else f"{score(part)} in {part.name}"
    return f"{where}{f', {len(unmet)} condition(s) not met' if unmet else ''}"


def words(row: ExamResult) -> str:
    """What a subject passes and does not pass, failures first with reasons, and how it was measured."""
    passed = [one.code for one in row.tests if one.code in row.passed]
    lines = [f"Passes {', '.join(passed)}." if passed else "Passes nothing."]
    order = [Verdict.FAIL, Verdict.PARTIAL, Verdict.INCONCLUSIVE]
    others = [one for one in row.tests if one.code not in row.passed]
    for one in sorted(others, key=lambda one: order.index(one.verdict) if one.verdict in order else len(order)):
        part = deciding_part(one)
        weak = "" if part is None else f", weakest part {part.name}{score(part)}"
        lines.append(f"* {says(one)} **{one.code}** {one.title}{weak}{''.join(f'; {why}' for why in reasons(one))}.")
    known = [f"{name.lower()} {row.facts[name]}" for name in FACTS if name in row.facts]
    return "\n".join([lines[0], "", *lines[1:], *([""] if lines[1:] else []), f"Measured: {'; '.join(known)}."]) + "\n"


def says(one: TestResult) -> str:
    if one.verdict is Verdict.PASS:
        return "Passes, but not after Holm's correction:"
    return {Verdict.FAIL: "Fails", Verdict.PARTIAL: "Passes in part"}.get(one.verdict, f"{one.verdict} in")


def reasons(one: TestResult) -> Iterator[str]:
    """Reasons for a missing grade, conditions not met by some training, unscored parts, and bugs."""
    grades = [seed.grade for seed in one.seeds if seed.grade is not None]
    yield from dict.fromkeys(seed.reason.removesuffix(".") for seed in one.seeds if seed.reason)
    unmet: dict[str, dict[str, None]] = {}
    for condition in (condition for grade in grades for condition in grade.conditions if not condition.met):
        unmet.setdefault(condition.name, {})[condition.found] = None
    yield from (f"not met: {name} ({' / '.join(found)})" for name, found in unmet.items())
    silent = [cell for grade in grades for cell in grade.cells if cell.score is None]
    yield from dict.fromkeys(f"not scored: {cell.name} ({cell.note})" for cell in silent)
    yield from dict.fromkeys(f"a bug: {bug}" for grade in grades for bug in grade.bugs)


def score(part: Cell | None) -> str:
    if part is None or part.score is None:
        return ""
    value, low, high = part.score.value, part.score.low, part.score.high
    return f" {number(value)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def codes_of(rows: Rows) -> list[str]:
    return sorted({one.code for row in rows.values() for one in row.tests})


def of(rows: Rows, code: str) -> list[tuple[str, TestResult]]:
    return [(name, one) for name, row in rows.items() for one in row.tests if one.code == code]


def show(name: str, result: ExamResult) -> None:
    print(f"\n{name}: {len(result.passed)} of {len(result.tests)}; {result.facts['Wall time']}", flush=True)
    for one in result.tests:
        print(f"  {one.code} {one.verdict:<14}{score(deciding_part(one))} {'; '.join(reasons(one))[:100]}", flush=True)


def read_sizes(texts: Sequence[str]) -> dict[str, int]:
    return {name: int(value) for name, _, value in (text.partition("=") for text in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sitters", nargs="+", choices=[*SITTERS, *PIXEL_SITTERS], help="default: all of the section")
    parser.add_argument("--tests", nargs="+", default=names("test"))
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds: 0, 1, ...")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--pixels", action="store_const", dest="kind", const="pixels", help="pictures, not vectors")
    shown.add_argument(
        "--fresh", action="store_const", dest="kind", const="fresh", help="logs and scenes of another seed"
    )
    parser.set_defaults(kind="vectors")
    parser.add_argument("--again", action="store_true", help="measure existing results again")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--sizes", nargs="+", default=[], metavar="NAME=N", help="sizes of the tests, such as num_scenes=20"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for JSON and table; default: the committed ones")
    parser.add_argument(
        "--work", type=Path, default=None, help="folder that keeps the exams, to continue them with this version"
    )
    given = parser.parse_args()
    if given.sizes and given.out is None:
        parser.error("--sizes needs --out FOLDER, because its results do not belong in the committed table")
    if given.again and given.work is not None:
        parser.error("--again and --work exclude each other: --work continues an exam. Remove one.")
    seen, (_, sitters) = given.kind, KINDS[given.kind]
    if lost := [name for name in given.sitters or () if name not in sitters]:
        parser.error(
            f"{', '.join(lost)}: unknown here; choose from {', '.join(sitters)}, or change --pixels or --fresh"
        )
    use_threads(1)
    options = ExamOptions(
        codes=tuple(given.tests),
        pool=Pool.REPORT,
        pixels=seen == "pixels",
        seed=FRESH_SEED if seen == "fresh" else SEED,
        num_seeds=given.seeds,
        num_processes=given.threads or free_cores(),
        sizes=read_sizes(given.sizes),
    )
    result, written = (RESULT, TABLE) if given.out is None else (given.out / RESULT.name, given.out / TABLE.name)
    result.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(result.read_text()) if result.exists() else {}
    kind = found.setdefault(seen, {})
    for name in given.sitters or sitters:
        if not given.again and is_measured(kind.get(name), given.tests, given.seeds):
            continue
        measured = measure(sitters[name], options, given.work and given.work / seen / name)
        show(name, measured)
        found = json.loads(result.read_text()) if result.exists() else {}  # another may have added to it
        kind = found.setdefault(seen, {})
        kind[name] = joined(kind.get(name), stored(measured))
        found[seen] = kind = once({name: kind[name] for name in sitters if name in kind})  # in the order of the table
        result.write_text(json.dumps(found) + "\n")
    written.write_text(page(found))
    broken = [name for name, row in kind.items() for one in row["tests"] if one["verdict"] == Verdict.ERROR]
    print(f"\nwritten to {written}{'; tests with errors: ' + ', '.join(broken) if broken else ''}")


if __name__ == "__main__":
    main()
