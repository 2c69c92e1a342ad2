"""The table of record: every model family on every test of the exam, three training seeds each.

Run: .venv/bin/python benchmarks/understanding.py [--pixels] [--models ...] [--tests ...] [--seeds 3]
Add exam seeds of `memory`: worldline exam memory --seed N --out FOLDER; then ... --add FOLDER [FOLDER ...]
Write the page only: ... --page. Measure again: ... --again. A quick look: ... --sizes num_scenes=20 --out FOLDER

The results go to benchmarks/results/understanding.json, one model at a time, and those of exam seeds to
understanding-exam-seeds.json. docs/understanding.md is written from both.
A model is skipped if it has answered all requested tests with at least `--seeds` trainings and without an error.
All models train on logs of the same seed and answer the same scenes; the script checks the scenes. Families other than
`jepa` use the recipe `memory`, with about as many parameters and as many updates. The size of an update is a property
of the family (`recipes/families.py`). Scenes come from the report generators, on which no model was developed.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldline.audit.grades import Cell, Grade, Verdict
from worldline.audit.verdicts import weakest
from worldline.cli.options import free_cores, use_threads
from worldline.config import from_json, to_strict_json
from worldline.registry import names
from worldline_exam.base import Pool
from worldline_exam.folder import read_exam
from worldline_exam.options import ExamOptions
from worldline_exam.results import ExamResult, TestResult, deciding_part
from worldline_exam.run import exam
from worldline_exam.subjects import BLIND, ExamSubject, RecipeSubject, TrivialSubject

ROOT = Path(__file__).parent.parent
RESULT, TABLE = ROOT / "benchmarks" / "results" / "understanding.json", ROOT / "docs" / "understanding.md"
SEED = 20_261_126
BEST, RECIPE = "jepa", "memory"
"""The row that is examined on further exam seeds, and its recipe."""
MODELS: Mapping[str, ExamSubject] = {
    BEST: RecipeSubject(recipe=RECIPE),
    "jepa-without-memory": RecipeSubject(recipe="vectors"),
    "rssm": RecipeSubject(recipe=RECIPE, family="rssm"),
    "ensemble": RecipeSubject(recipe=RECIPE, family="ensemble"),
    "token": RecipeSubject(recipe=RECIPE, family="token"),
    "token-blind": RecipeSubject(recipe=RECIPE, family=BLIND),
    "linear": TrivialSubject(name="linear"),
    "persistence": TrivialSubject(name="persistence"),
}
PIXEL_MODELS: Mapping[str, ExamSubject] = {
    "film": RecipeSubject(recipe="film"),
    "film-rssm": RecipeSubject(recipe="film", family="rssm"),
}
"""The families that have an image encoder."""
KINDS: Mapping[str, Mapping[str, ExamSubject]] = {"vectors": MODELS, "pixels": PIXEL_MODELS}
EXAM_SEEDS = "exam_seeds"
"""Key of the results of `memory` on further exam seeds, by seed."""
TITLES = {
    "jepa": "`memory` (JEPA)",
    "jepa-without-memory": "`vectors` (JEPA, no memory)",
    "rssm": "RSSM",
    "ensemble": "ensemble",
    "token": "token",
    "token-blind": "token, no actions",
    "film": "`film` (JEPA)",
    "film-rssm": "`film` (RSSM)",
}
SEED_NOTES = {
    "20261126": "used repeatedly while tests and recipes were developed",
    "20261128": "P1, U1 and U3 repeated after two faults were corrected",
}
"""What a reader must know of an exam seed; the others were drawn after tests and recipes were fixed."""
TEXTS = (
    ("surely above", "significantly above"),
    ("the levers have 0.5 to 1.5 of their true effect", "predicted lever effect 0.5 to 1.5 of the true effect"),
    (
        "at steps that are not scored the error is at most 0.05 of the climatology above the floor's",
        "unscored steps: error at most 0.05 of the climatology above that of the floor",
    ),
    (
        "where the logs tell, the bands hold 0.85 to 0.97 of what is observed and of what is set",
        "identifiable boats: observational and interventional coverage 0.85 to 0.97",
    ),
    ("where the logs tell, the median width", "identifiable boats: median width"),
    ("the bands hold at least 0.85 of what is observed", "observational coverage at least 0.85"),
    ("where nothing is confounded, the slope is", "unconfounded boat: slope"),
    ("as the beta-binomial law of 500 calibration episodes allows", "within the beta-binomial law of 500 episodes"),
    ("] set, ", "] interventional, "),
    ("no look at the episode", "ignores the episode"),
    ("nearness alone", "distance only"),
    ("discs that stay", "static discs"),
    ("straight on", "straight lines"),
    ("another rollout", "rollout of another scene"),
    ("bands of each step", "per-step bands"),
    ("all but what drills tell", "ignores the randomised steps"),
    ("the toolkit's trust", "the calibrated trust"),
    ("how usual the pushes are, beside", "typicality of the actions, with the trust of"),
    ("how usual the pushes are", "typicality of the actions"),
    ("novelty of the present", "novelty of the last observation"),
    ("usual values", "typical values"),
    ("harmful from harmless", "harmful against harmless"),
    ("ranks errors", "rank correlation with errors"),
    (", on its way", ", pulse before the present"),
    (", ahead", ", pulse after the present"),
    (": from real pictures the world does not read ", ": "),
)
"""Plain words for texts in results of version 0.1."""
ADVICE = re.compile(r": an R\^2 of 0\.9 .*? train it longer")
"""The end of a reason for UNREADABLE; the page says it once."""

READING = """\
Each cell holds the verdict, the score of the weakest part and its 95 % interval over scenes. A score of 0 is the best
trivial model, 1 is the best that the history allows. The worst of three trainings counts; a failed test shows its
worst failed part. The last row counts tests that every training passes after Holm's correction. [How to read a
report](howto/understand.md) explains verdicts, parts and what each test asks.

`memory` and `vectors` are recipes of the JEPA family. RSSM, ensemble and token use the recipe `memory`, with about as
many parameters and as many updates. `linear` is least squares with actions.
"""

SEEDS_READING = """\
Each exam seed draws new logs and new scenes. The score is that of the weakest part, from the lowest to the highest exam
seed. With several trainings on one exam seed, the worst counts.
"""

PARTS = """\
Boats (C2, U2) are named for their wind: steady, drilled (steady, with 10 % randomised steps) or gusty (new in each
step). The number is the strength of the confounding in percent. `station_99` (C3) is the station whose lamp agrees with
the levers in 99 % of the steps.
"""

PICTURES = """\
The same scenes, but the models see camera images instead of vectors. UNREADABLE: for some signal of the test, the
model's readout has an R² below 0.9 on real frames. The oracle and the models that must fail know the state, so their
scores say nothing about the images.
"""

UNREAD = """\
Signals that the readout misses, with R² in the first training:
"""

CONDITIONS = """\
Scores alone can be reached without the ability that a test names. So most tests also have conditions. A missed
condition excludes PASS. A missed gate excludes PARTIAL as well. A model is listed if one of its trainings misses the
condition.
"""

MUST_FAIL = """\
Each exam also grades models that lack the ability by construction. If the weakest part of one of them scores 0.25, or
is above 0 at 99.9 %, the test is VOID. A model that a gate must stop may have the score. The table shows the weakest
part of each model.
"""

LANGUAGE = """\
A language model answers the same tests through a chat endpoint ([how](howto/language.md)).

| model | result | command |
| --- | --- | --- |
| any chat model | NOT MEASURED | `worldline exam language --endpoint URL --endpoint-model NAME` |

"""

LIMITATIONS = """\
* One exam seed is one draw. Quote the range over exam seeds, not the first table alone.
* Models other than `memory` have one exam seed only. No language model was measured.
* Each training of `memory` differs: a verdict near a bound can change. `worldline compare` quantifies this.
* C4 measures the toolkit more than the model. `World.what_if` infers hidden causes with a linear residual model that
  every calibrated world has, so `linear` passes too.
* `linear` passes U1, because the puck moves almost linearly and the prediction bands come from the toolkit.
* C3 tests function class and training. It does not show that a model weighs evidence
  ([why](design/exam.md#limits-of-single-tests)).
* Context lengths differ by family. RSSM and token see at most 8 observations, ensemble and `linear` 3, `vectors` 1. T2
  and T3 need more.
* Least-squares parts of `memory` are not counted as parameters. `vectors` has fewer updates.
* Intervals are over scenes. They do not contain the spread between trainings.
"""

COMMANDS = {
    "models from vectors": "python benchmarks/understanding.py",
    "models from pictures": "python benchmarks/understanding.py --pixels",
    "one more exam seed of `memory`": "worldline exam memory --seed N --out FOLDER",
    "its results on this page": "python benchmarks/understanding.py --add FOLDER",
    "this page, from `benchmarks/results/understanding*.json`": "python benchmarks/understanding.py --page",
    "error rates of the verdicts": "python benchmarks/exam_harness.py",
}
"""How each result is made."""

Rows = Mapping[str, ExamResult]


def measure(model: ExamSubject, options: ExamOptions, folder: Path | None) -> ExamResult:
    """In this folder, where an interrupted exam is resumed, or in a temporary one."""
    if folder is not None:
        return exam(model, folder, options, resume=True)
    with tempfile.TemporaryDirectory() as new:
        return exam(model, Path(new) / "exam", options)


def stored(result: ExamResult) -> dict[str, Any]:
    tests = tuple(replace(one, figure=None) for one in result.tests)
    found: dict[str, Any] = json.loads(to_strict_json(replace(result, tests=tests)))
    return found


def joined(before: Mapping[str, Any] | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """The new row, with those tests of the earlier row that it lacks; facts are those of the larger row."""
    before = before or {"tests": ()}
    tests = {one["code"]: one for one in (*before["tests"], *row["tests"])}
    whole = max(row, before, key=lambda one: len(one["tests"]))
    facts = dict(whole["facts"])
    if whole is before:
        later = f"{', '.join(one['code'] for one in row['tests'])} ({row['facts']['Machine']})"
        facts["Asked later"] = "; ".join(dict.fromkeys((*facts.get("Asked later", later).split("; "), later)))
    return {**whole, "facts": facts, "tests": [tests[code] for code in sorted(tests)]}


def once(kind: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows; the oracle and the models that must fail, equal for all rows, only in the first row that has them."""
    known: set[str] = set()
    rows = {}
    for name, row in kind.items():
        tests = [{**one, "oracle": None, "must_fail": {}} if one["code"] in known else one for one in row["tests"]]
        known |= {one["code"] for one in tests if one["must_fail"]}
        rows[name] = {**row, "tests": tests}
    return rows


def is_measured(row: Mapping[str, Any] | None, codes: Sequence[str], num_seeds: int) -> bool:
    """Whether a model answered all of these tests with at least as many trainings, without an error."""
    tests = [] if row is None else row["tests"]
    asked = {one["code"]: sum(seed["verdict"] != Verdict.ERROR for seed in one["seeds"]) for one in tests}
    return all(asked.get(code, 0) >= num_seeds for code in codes)


def with_exam_seed(found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The results with those of an exam folder of `memory`.

    Raises:
        SystemExit: the folder holds an exam of another recipe, or not the full exam in vectors.
    """
    exam_in = read_exam(folder)
    options = exam_in.options
    if exam_in.result.subject != RECIPE:
        raise SystemExit(f"{folder} holds an exam of {exam_in.result.subject}. Only exams of {RECIPE} can be added.")
    if options.pixels or options.pool is not Pool.REPORT or options.sizes:
        raise SystemExit(f"{folder} is not a full report exam in vectors. Run: worldline exam {RECIPE} --seed N.")
    if options.seed == SEED:
        raise SystemExit(f"{folder} has exam seed {SEED}, which the first table holds. Run the exam with another seed.")
    rows = dict(found.get(EXAM_SEEDS, {}))
    rows[str(options.seed)] = joined(rows.get(str(options.seed)), stored(exam_in.result))
    return {**found, EXAM_SEEDS: {seed: rows[seed] for seed in sorted(rows, key=int)}}


def page(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The whole page from all results."""
    kinds = {kind: read(found.get(kind, {})) for kind in KINDS}
    for rows in kinds.values():
        check_scenes(rows)
    vectors, pictures = kinds["vectors"], kinds["pixels"]
    by_seed = {str(SEED): vectors[BEST]} if BEST in vectors else {}
    by_seed |= read(found.get(EXAM_SEEDS, {}))
    by_seed = {seed: by_seed[seed] for seed in sorted(by_seed, key=int)}
    sections = {
        "": headline(vectors, by_seed) + (table(vectors) + "\n" + READING if vectors else ""),
        "`memory` over exam seeds": over_seeds(by_seed) + "\n" + SEEDS_READING + "\n" + each_seed(by_seed),
        "Where `memory` does not pass": misses(by_seed) + "\n" + PARTS,
        "From pictures": pictures_section(pictures),
        "Conditions and gates": CONDITIONS + "\n" + conditions(vectors),
        "Models that must fail": MUST_FAIL + "\n" + examiners(vectors),
        "Language models": LANGUAGE,
        "Size and training": sizes({**vectors, **pictures}),
        "Limitations": LIMITATIONS,
        "How the numbers were made": commands() + "\n" + provenance({**vectors, **pictures}),
    }
    parts = [f"## {title}\n\n{text.strip()}\n" if title else text for title, text in sections.items()]
    return "# What each model understands\n\n" + "\n".join(parts)


def read(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, ExamResult]:
    return {name: from_json(ExamResult, json.dumps(row), where=RESULT) for name, row in kept.items()}


def check_scenes(rows: Rows) -> None:
    """Raises `SystemExit` if models answered different scenes: their scores cannot be compared."""
    for code in codes_of(rows):
        scenes = {row: one.scenes for row, one in of(rows, code) if one.scenes}
        if len(set(scenes.values())) > 1:
            raise SystemExit(f"{code} has different scenes: {scenes}. Measure all models with this version.")


def headline(vectors: Rows, by_seed: Rows) -> str:
    """One sentence."""
    if not by_seed:
        return f"`{RECIPE}` is not measured.\n\n"
    passed = [len(row.passed) for row in by_seed.values()]
    seeds = f"{len(by_seed)} exam seed{'s' if len(by_seed) > 1 else ''}"
    count = f"`{RECIPE}` passes {span(passed)} of {max(len(row.tests) for row in by_seed.values())} tests over {seeds}"
    others = [len(row.passed) for name, row in vectors.items() if name != BEST]
    return f"{count}{f'; no other model passes more than {max(others)}' if others else ''}.\n\n"


def table(rows: Rows) -> str:
    """A row a test, a column a model; the oracle last."""
    lines = [line("test", *(TITLES.get(name, name) for name in rows), "oracle"), rule(2 + len(rows))]
    for code in codes_of(rows):
        asked = dict(of(rows, code))
        cells = [f"{asked[name].verdict}{score(deciding_part(asked[name]))}" if name in asked else "" for name in rows]
        oracle = next((one.oracle for one in asked.values() if one.oracle), None)
        known = score(None if oracle is None else weakest(oracle)).strip()
        lines.append(line(f"**{code}** {title_of(rows, code)}", *cells, known))
    passed = [f"**{len(row.passed)} of {len(row.tests)}**" for row in rows.values()]
    return "\n".join([*lines, line("passed", *passed, "")]) + "\n"


def over_seeds(by_seed: Rows) -> str:
    """The range of scores and the number of exam seeds with each verdict, a row a test."""
    verdicts = [Verdict.PASS, Verdict.PARTIAL, Verdict.INCONCLUSIVE, Verdict.FAIL]
    seen = {one.verdict for row in by_seed.values() for one in row.tests}
    verdicts += [one for one in Verdict if one in seen and one not in verdicts]
    lines = [line("test", "exam seeds", "score, lowest to highest", *verdicts), rule(3 + len(verdicts))]
    for code in codes_of(by_seed):
        asked = [one for _, one in of(by_seed, code)]
        parts = [part.score.value for part in map(deciding_part, asked) if part is not None and part.score is not None]
        scores = f"{number(min(parts))} to {number(max(parts))}" if parts else ""
        counts = Counter(one.verdict for one in asked)
        shown = [str(counts[verdict]) for verdict in verdicts]
        lines.append(line(f"**{code}** {title_of(by_seed, code)}", str(len(asked)), scores, *shown))
    passed = span([len(row.passed) for row in by_seed.values()])
    return "\n".join([*lines, line("passed", str(len(by_seed)), f"**{passed}**", *[""] * len(verdicts))]) + "\n"


def each_seed(by_seed: Rows) -> str:
    """What is passed on each exam seed."""
    lines = [line("exam seed", "trainings", "passed", "not passed", "note"), rule(5)]
    for seed, row in by_seed.items():
        lost = [f"{one.code} ({one.verdict})" for one in row.tests if one.code not in row.passed]
        passed = f"{len(row.passed)} of {len(row.tests)}"
        lines.append(line(seed, trainings(row), passed, ", ".join(lost), SEED_NOTES.get(seed, "")))
    return "\n".join(lines) + "\n"


def misses(by_seed: Rows) -> str:
    """The weakest part and the missed conditions of each test that is not passed."""
    lines = [line("test", "exam seed", "verdict", "weakest part", "score", "conditions and notes"), rule(6)]
    for code in codes_of(by_seed):
        for seed, one in of(by_seed, code):
            if code in by_seed[seed].passed:
                continue
            part = deciding_part(one)
            where = ("", "") if part is None else (plain(part.name), score(part).strip())
            lines.append(line(code, seed, one.verdict, *where, "; ".join(reasons(one))))
    return "\n".join(lines) + "\n"


def pictures_section(rows: Rows) -> str:
    if not rows:
        return "Not measured.\n"
    lines = [line("test", "model", "signals"), rule(3)]
    for code in codes_of(rows):
        for name, one in of(rows, code):
            if one.verdict is Verdict.UNREADABLE:
                lines.append(line(code, TITLES.get(name, name), plain(one.seeds[0].reason.removesuffix("."))))
    counts = "; ".join(f"{TITLES.get(name, name)} {trainings(row)}" for name, row in rows.items())
    return f"{PICTURES}\n{table(rows)}\nTrainings: {counts}.\n\n{UNREAD}\n" + "\n".join(lines) + "\n"


def conditions(rows: Rows) -> str:
    """Every condition, whether it is a gate, and the models that miss it."""
    lines = [line("test", "condition", "gate", "missed by"), rule(4)]
    for code in codes_of(rows):
        gates: dict[str, bool] = {}
        lost: dict[str, dict[str, None]] = {}
        for name, one in of(rows, code):
            for condition in (item for seed in one.seeds if seed.grade for item in seed.grade.conditions):
                gates[condition.name] = condition.gate
                if not condition.met:
                    lost.setdefault(condition.name, {})[TITLES.get(name, name)] = None
        for condition_name, gate in gates.items():
            missed = "; ".join(lost.get(condition_name, ())) or "none"
            lines.append(line(code, plain(condition_name), "yes" if gate else "no", missed))
    return "\n".join(lines) + "\n"


def examiners(rows: Rows) -> str:
    """The models that must fail, by their weakest part."""
    lines = [line("test", "model", "weakest part", "score", "conditions missed"), rule(5)]
    for code in codes_of(rows):
        one = next((one for _, one in of(rows, code) if one.must_fail), None)
        for name, grade in ({} if one is None else one.must_fail).items():
            lines.append(line(code, plain(name), *failing(grade)))
    return "\n".join(lines) + "\n"


def failing(grade: Grade) -> tuple[str, str, str]:
    """The weakest part, its score, and how many conditions are missed."""
    unmet = sum(not condition.met for condition in grade.conditions)
    part = weakest(grade)
    return ("" if part is None else plain(part.name), score(part).strip(), str(unmet))


def sizes(rows: Rows) -> str:
    """Ranges over the worlds of an exam: one for each of its datasets."""
    lines = [
        line("model", "parameters", "updates", "windows per update", "observations per window", "context"),
        rule(6),
    ]
    for name, row in rows.items():
        batches = re.findall(r"(\d+) windows of (\d+)", row.facts.get("Batches", ""))
        ranges = [
            span(numbers(row.facts.get("Parameters", "").split(", "))),
            span(numbers(row.facts.get("Updates", "").split(", "))),
            span(numbers(windows for windows, _ in batches)),
            span(numbers(length for _, length in batches)),
            span(numbers(re.findall(r"(\d+) observation", row.facts.get("Context", "")))),
        ]
        lines.append(line(TITLES.get(name, name), *ranges))
    return "\n".join(lines) + "\n\nContext: observations that the model sees. Each range is over the datasets.\n"


def commands() -> str:
    lines = [line(result, f"`{command}`") for result, command in COMMANDS.items()]
    return "\n".join([line("result", "command"), rule(2), *lines]) + "\n"


def provenance(rows: Rows) -> str:
    """Generators, machine and versions."""
    lines = [line("fact", "value"), rule(2)]
    for fact in ("Generators", "Machine", "Versions", "Sizes"):
        values = list(dict.fromkeys(row.facts[fact] for row in rows.values() if fact in row.facts))
        if values:
            lines.append(line(fact.lower(), "; ".join(values)))
    return "\n".join(lines) + "\n"


def trainings(row: ExamResult) -> str:
    """Such as "3", or with tests that have fewer."""
    counts = {one.code: len(one.seeds) for one in row.tests}
    most = max(counts.values())
    fewer = [f"{code} {count}" for code, count in counts.items() if count < most]
    return f"{most} ({', '.join(fewer)})" if fewer else str(most)


def reasons(one: TestResult) -> Iterator[str]:
    """Why there is no grade, conditions that some training misses, parts that are not scored, and bugs."""
    grades = [seed.grade for seed in one.seeds if seed.grade is not None]
    yield from dict.fromkeys(plain(seed.reason.removesuffix(".")) for seed in one.seeds if seed.reason)
    unmet: dict[str, dict[str, None]] = {}
    for condition in (condition for grade in grades for condition in grade.conditions if not condition.met):
        unmet.setdefault(condition.name, {})[plain(condition.found)] = None
    yield from (f"missed: {plain(name)} ({' / '.join(found)})" for name, found in unmet.items())
    silent = [cell for grade in grades for cell in grade.cells if cell.score is None]
    yield from dict.fromkeys(f"not scored: {plain(cell.name)} ({cell.note})" for cell in silent)
    yield from dict.fromkeys(f"bug: {bug}" for grade in grades for bug in grade.bugs)


def plain(text: str) -> str:
    for old, new in TEXTS:
        text = text.replace(old, new)
    return ADVICE.sub("", text)


def score(part: Cell | None) -> str:
    if part is None or part.score is None:
        return ""
    value, low, high = part.score.value, part.score.low, part.score.high
    return f" {number(value)} ({number(low)} to {number(high)})"


def number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1e}"


def numbers(texts: Iterable[str]) -> list[int]:
    return [int(text.replace(",", "")) for text in texts if text]


def span(values: Sequence[int]) -> str:
    """Such as "12 to 13"; one number if all are equal."""
    return " to ".join(f"{value:,}" for value in sorted({min(values), max(values)})) if values else "–"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return line(*["---"] * columns)


def codes_of(rows: Rows) -> list[str]:
    return sorted({one.code for row in rows.values() for one in row.tests})


def read_record(result: Path) -> dict[str, Any]:
    """The figures of the table, and those of the exam seeds, which have a file of their own."""
    seeds = seeds_file(result)
    found = json.loads(result.read_text()) if result.exists() else {}
    return found | ({EXAM_SEEDS: json.loads(seeds.read_text())} if seeds.exists() else {})


def write_record(result: Path, found: Mapping[str, Any]) -> None:
    """Writes both files, without spaces, so that each stays below 1 MiB."""
    seeds = found.get(EXAM_SEEDS, {})
    table = {name: value for name, value in found.items() if name != EXAM_SEEDS}
    for path, part in ((result, table), (seeds_file(result), seeds)):
        path.write_text(json.dumps(part, separators=(",", ":")) + "\n")


def seeds_file(result: Path) -> Path:
    return result.with_stem(f"{result.stem}-exam-seeds")


def title_of(rows: Rows, code: str) -> str:
    return next(one.title for _, one in of(rows, code))


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
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *PIXEL_MODELS], help="default: all of the table")
    parser.add_argument("--tests", nargs="+", default=names("test"))
    parser.add_argument("--seeds", type=int, default=3, help="trainings, with seeds 0, 1, ...")
    parser.add_argument("--pixels", action="store_const", dest="kind", const="pixels", help="pictures, not vectors")
    parser.set_defaults(kind="vectors")
    parser.add_argument("--again", action="store_true", help="measure again what has been measured")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--sizes", nargs="+", default=[], metavar="NAME=N", help="of the tests, such as num_scenes=20")
    parser.add_argument("--out", type=Path, default=None, help="folder for JSON and page; default: the record")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps exams, to resume with this version")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--add", type=Path, nargs="+", default=[], metavar="FOLDER", help=f"exams of {RECIPE}, any seed")
    only.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    if given.sizes and given.out is None:
        parser.error("--sizes makes no table of record. Give a folder for it: --out")
    if given.again and given.work is not None:
        parser.error("--again measures again, and --work resumes an exam. Remove one of them.")
    kind, models = given.kind, KINDS[given.kind]
    if lost := [name for name in given.models or () if name not in models]:
        parser.error(f"{', '.join(lost)}: choose from {', '.join(models)}, or change --pixels")
    result, written = (RESULT, TABLE) if given.out is None else (given.out / RESULT.name, given.out / TABLE.name)
    result.parent.mkdir(parents=True, exist_ok=True)
    found = read_record(result)
    if given.add or given.page:
        for folder in given.add:
            found = with_exam_seed(found, folder)
        write_record(result, found)
        written.write_text(page(found))
        print(f"written to {written}")
        return
    use_threads(1)
    options = ExamOptions(
        tests=tuple(given.tests),
        pool=Pool.REPORT,
        pixels=kind == "pixels",
        seed=SEED,
        num_seeds=given.seeds,
        num_processes=given.threads or free_cores(),
        sizes=read_sizes(given.sizes),
    )
    rows = found.setdefault(kind, {})
    for name in given.models or models:
        if not given.again and is_measured(rows.get(name), given.tests, given.seeds):
            continue
        measured = measure(models[name], options, given.work and given.work / kind / name)
        show(name, measured)
        found = read_record(result)  # another process may have added to it
        rows = found.setdefault(kind, {})
        rows[name] = joined(rows.get(name), stored(measured))
        found[kind] = rows = once({name: rows[name] for name in models if name in rows})  # in the order of the table
        write_record(result, found)
    written.write_text(page(found))
    broken = [name for name, row in rows.items() for one in row["tests"] if one["verdict"] == Verdict.ERROR]
    print(f"\nwritten to {written}{'; tests with errors: ' + ', '.join(broken) if broken else ''}")


if __name__ == "__main__":
    main()
