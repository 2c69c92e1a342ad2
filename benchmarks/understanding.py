"""The table of record: every family on every test of the exam, three training seeds each.

Run: .venv/bin/python benchmarks/understanding.py [--sitters ...] [--tests ...] [--seeds 3] [--pixels | --fresh]
Measured again with --again. A quick look: ... --sizes num_scenes=20 --out FOLDER, which leaves the record alone.
Adds to benchmarks/results/understanding.json after every sitter and writes docs/understanding.md from all that it has.
A sitter is measured where these tests were not asked of it with as many trainings: one with a single training is
measured again for three, and one that is there is not, unless `--again` is given. All sit on logs of the same seed and
answer the same scenes, which is checked. Families other than `jepa` sit with the recipe `memory`, at the width with
about as many parameters and with as many updates, and like it as they are after the last; how many windows an update
has and how long they are is a family's own (`recipes/families.py`), and is written below each. Scenes are those of the
report's generators, which no model was improved on, with a seed that is kept for this; the page says what else it
served. `--fresh` asks the best recipe on logs and scenes of another seed, which was chosen when all else was fixed.
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
"""Those of the families that have an encoder for pictures."""
KINDS: Mapping[str, tuple[str, Mapping[str, Sitter]]] = {
    "vectors": ("From vectors", SITTERS),
    "pixels": ("From pictures", PIXEL_SITTERS),
    "fresh": ("From vectors, on logs and scenes that nobody had looked at", {"jepa": SITTERS["jepa"]}),
}
"""The parts of the page, each with its title and who sits."""
TITLES = {
    "jepa": "jepa (memory)",
    "jepa-without-memory": "jepa without memory",
    "token-blind": "token without actions",
}
FACTS = ("Parameters", "Updates", "Batches", "Context", "Machine", "Asked later")
INTRODUCTION = """# What each family understands

Written by `python benchmarks/understanding.py` from `benchmarks/results/understanding.json`. All learn from the same
logs and answer the same scenes; the worst training counts. `jepa (memory)` and `jepa without memory` are the recipes
`memory` and `vectors`; the other families sit with `memory`, at the width with about as many parameters, for as many
updates. Parameters and updates stand below each, with how many windows an update has and how far a model looks back,
which is a family's own: `rssm` and `token` look at eight observations at most, the ensemble and `linear` at three and
`vectors` at one, where T2 and T3 ask for more. What `memory` fits by least squares is counted as no parameter, and
`vectors` has fewer updates.

Each cell is the verdict, the score of the test's weakest part (where it fails, of those that fail) and, in brackets,
its 95 % interval over scenes: 0 is the floor that the test names, 1 the best that can be known. The last row counts
what every training passes and Holm's procedure keeps. [What the tests ask](howto/understand.md). Parts have names such
as `steady_60`, a boat under a steady wind on which whoever logged leaned by 0.6, and `station_99`, whose lamp agrees
with the levers in 99 % of the steps.

`linear`, least squares that heed actions, passes U1, as its puck nearly moves along a line and bands are the
toolkit's, and C4. That one is answered by `World.what_if`, which infers hidden causes and noise by a line that every
calibrated world has, whatever model is behind it: a PASS there is the toolkit's, and says little of a family.

The recipe `memory` was held to these scenes three times: it passed 12, then 11 after a change that was made on other
generators and had two faults, then, with these mended on those, 15 (`benchmarks/log/exam-recipes.md`,
"Energy"); between the first two the logs of the elastic pucks grew from 1,000 to 1,600 episodes. Then readers found
that P1, P4, U2 and U3 could be
passed without what they ask for, that C3 asks for less than it claimed, and that T1 looked away where its floor is
good. All were mended on other generators ([how](design/exam.md)), all were asked anew, and `memory`, unchanged, was
learned anew three times. After that, with the answers as they were, more was asked of the models that must fail (C3,
C5, T2, U3), of P2's paths, and of a PARTIAL: gates took six from U2. The same seed has served to time an exam, and to
retrain `memory` as on another processor.

A text model (`worldline exam language`) has not sat: that takes an endpoint.

"""

REFERENCES_IN_PICTURES = """\
The oracle and the models that must fail know the state and are asked without a camera: their grades are those of the
exam in vectors, where a test asks both alike, and say nothing of what is drawn.

"""

FRESH = """\
This seed was chosen when tests, references and recipe were fixed. The training for P1 could not go on; the fault that
it showed was mended (`benchmarks/log/exam-results.md`), and P1 was learned and asked again. U1 was
INCONCLUSIVE, as bands held too much (0.950, 0.947): worlds were calibrated for more steps than are asked. That was
found and mended on other seeds, and
U1 and U3 were learned and asked again, here and above.

"""

NOTES = {"pixels": REFERENCES_IN_PICTURES, "fresh": FRESH}

Rows = Mapping[str, ExamResult]


def measure(sitter: Sitter, options: ExamOptions, folder: Path | None) -> ExamResult:
    """In this folder, where an exam that was broken off goes on, or in one that is removed."""
    if folder is not None:
        return exam(sitter, folder, options, resume=True)
    with tempfile.TemporaryDirectory() as new:
        return exam(sitter, Path(new) / "exam", options)


def stored(result: ExamResult) -> dict[str, Any]:
    tests = tuple(replace(one, exhibit=None) for one in result.tests)
    found: dict[str, Any] = json.loads(to_strict_json(replace(result, tests=tests)))
    return found


def joined(before: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with those tests of an earlier one that were not asked again; the small print of who was asked more."""
    before = before or {"tests": ()}
    tests = {one["code"]: one for one in (*before["tests"], *row["tests"])}
    whole = max(row, before, key=lambda one: len(one["tests"]))
    facts = dict(whole["facts"])
    if whole is before:
        later = f"{', '.join(one['code'] for one in row['tests'])} ({row['facts']['Machine']})"
        facts["Asked later"] = "; ".join(dict.fromkeys((*facts.get("Asked later", later).split("; "), later)))
    return {**whole, "facts": facts, "tests": [tests[code] for code in sorted(tests)]}


def once(kind: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows with oracle and models that must fail, which all sitters have alike, in the first that has them."""
    told: set[str] = set()
    rows = {}
    for name, row in kind.items():
        tests = [{**one, "oracle": None, "must_fail": {}} if one["code"] in told else one for one in row["tests"]]
        told |= {one["code"] for one in tests if one["must_fail"]}
        rows[name] = {**row, "tests": tests}
    return rows


def is_measured(row: Mapping[str, Any] | None, codes: Sequence[str], num_seeds: int) -> bool:
    """Whether a sitter was asked all of these tests with at least as many trainings, and nothing broke."""
    tests = [] if row is None else row["tests"]
    asked = {one["code"]: sum(seed["verdict"] != Verdict.ERROR for seed in one["seeds"]) for one in tests}
    return all(asked.get(code, 0) >= num_seeds for code in codes)


def page(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The whole page from all that was measured."""
    parts = [INTRODUCTION]
    for seen, kept in ((seen, found[seen]) for seen in KINDS if seen in found):
        rows = {name: from_json(ExamResult, json.dumps(row), where=RESULT) for name, row in kept.items()}
        check_scenes(rows)
        parts += [f"## {KINDS[seen][0]}\n\n", seeds(rows), unmeasured(seen, rows), table(rows), "\n", unpassed(rows)]
        parts += [NOTES.get(seen, ""), examiners(rows)]
        parts += [f"\n### {TITLES.get(name, name)}\n\n{words(row)}" for name, row in rows.items()]
    if "pixels" not in found:
        parts.append("\n## From pictures\n\nNobody has sat the whole exam in pictures yet.\n")
    return "".join(parts)


def check_scenes(rows: Rows) -> None:
    """Raises `SystemExit` where sitters answered different scenes: their scores are then not beside each other."""
    for code in codes_of(rows):
        scenes = {row: one.scenes for row, one in of(rows, code) if one.scenes}
        if len(set(scenes.values())) > 1:
            raise SystemExit(f"{code} was asked about other scenes: {scenes}. Measure all sitters with this version.")


def seeds(rows: Rows) -> str:
    """Which seeds, in a sentence."""
    drawn = sorted({row.facts["Generators"] for row in rows.values()})
    trained: dict[str, list[str]] = {}
    for name, row in rows.items():
        trained.setdefault(trainings(row), []).append(TITLES.get(name, name))
    each = "; ".join(f"{text}: {', '.join(who)}" for text, who in trained.items())
    sizes = {row.facts["Sizes"] for row in rows.values() if "Sizes" in row.facts}
    small = f" NOT at full size: {'; '.join(sorted(sizes))}." if sizes else ""
    return f"Logs and scenes: {'; '.join(drawn)}. Trainings, {each}.{small}\n\n"


def unmeasured(seen: str, rows: Rows) -> str:
    """Who has not sat yet; empty where all have."""
    lost = [name for name in KINDS[seen][1] if name not in rows]
    return f"Not measured yet: {', '.join(TITLES.get(name, name) for name in lost)}.\n\n" if lost else ""


def trainings(row: ExamResult) -> str:
    """Such as "3 (seeds 0 to 2)", or with tests that have fewer."""
    counts = {one.code: len(one.seeds) for one in row.tests}
    most = max(counts.values())
    fewer = [f"{code} {count}" for code, count in counts.items() if count < most]
    numbers = f"{most} (seed{'' if most == 1 else 's'} {'0' if most == 1 else f'0 to {most - 1}'})"
    return f"{numbers} but {', '.join(fewer)}" if fewer else numbers


def table(rows: Rows) -> str:
    """A row a test, a column a sitter; the oracle last."""
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
    """What the best sitter does not pass, and what nobody does."""
    best = max(rows, key=lambda name: len(rows[name].passed))
    lacks = [f"{one.code} ({one.verdict})" for one in rows[best].tests if one.code not in rows[best].passed]
    nobody = [code for code in codes_of(rows) if not any(code in row.passed for row in rows.values())]
    told = [f"The best, {TITLES.get(best, best)}, lacks {listing(lacks)}."] if lacks else []
    return " ".join([*told, *([f"Passed by nobody: {listing(nobody)}."] if nobody and len(rows) > 1 else [])]) + "\n\n"


def examiners(rows: Rows) -> str:
    """What every run grades beside the sitters: models that must fail, and by what they do."""
    lines = ["Each run grades models that must fail: the score of their weakest part, and conditions missed as well:\n"]
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
    """What a sitter passes and what it does not, failures first and in full, and how it was measured."""
    passed = [f"{one.title} ({one.code})" for one in row.tests if one.code in row.passed]
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
        return "Passes, but not surely over all tests:"
    return {Verdict.FAIL: "Fails", Verdict.PARTIAL: "Passes in part"}.get(one.verdict, f"{one.verdict} in")


def reasons(one: TestResult) -> Iterator[str]:
    """Why there is no grade, conditions that some training does not meet, parts that are not scored, and bugs."""
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
    parser.add_argument("--sitters", nargs="+", choices=[*SITTERS, *PIXEL_SITTERS], help="all that see what is shown")
    parser.add_argument("--tests", nargs="+", default=names("test"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings, with seeds 0, 1, ...")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--pixels", action="store_const", dest="kind", const="pixels", help="pictures, not vectors")
    shown.add_argument(
        "--fresh", action="store_const", dest="kind", const="fresh", help="logs and scenes of another seed"
    )
    parser.set_defaults(kind="vectors")
    parser.add_argument("--again", action="store_true", help="measure again what is there")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sizes", nargs="+", default=[], metavar="NAME=N", help="of the tests, such as num_scenes=20")
    parser.add_argument("--out", type=Path, default=None, help="folder for JSON and table; the record if left out")
    parser.add_argument("--work", type=Path, default=None, help="folder where exams stay, to go on with this version")
    given = parser.parse_args()
    if given.sizes and given.out is None:
        parser.error("--sizes makes no table of record. Give a folder for it: --out")
    if given.again and given.work is not None:
        parser.error("--again measures again, and in --work an exam goes on. Leave one of them out.")
    seen, (_, sitters) = given.kind, KINDS[given.kind]
    if lost := [name for name in given.sitters or () if name not in sitters]:
        parser.error(f"{', '.join(lost)}: choose of {', '.join(sitters)}, or change --pixels or --fresh")
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
    print(f"\nwritten to {written}{'; tests that broke: ' + ', '.join(broken) if broken else ''}")


if __name__ == "__main__":
    main()
