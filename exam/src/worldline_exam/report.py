"""HTML report of an exam: a summary card, then one block per test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from worldline.audit import Cell, Score, Verdict, weakest
from worldline.formatting import listing, number, plural
from worldline.report import (
    Chapter,
    ChartLine,
    Chips,
    Dot,
    Facts,
    FindingBlock,
    Group,
    Header,
    IntervalChart,
    LineChart,
    Note,
    PagePart,
    Phrase,
    Table,
    render_page,
)
from worldline_exam.base import Section
from worldline_exam.figures import ExamFigure, FigurePanel
from worldline_exam.results import ExamResult, TestResult, is_any_graded, is_fully_graded, section_weakest

_TONES: Final = {
    Verdict.PASS: "good",
    Verdict.PARTIAL: "unclear",
    Verdict.INCONCLUSIVE: "unclear",
    Verdict.FAIL: "bad",
    Verdict.ERROR: "bad",
}
_DOTS: Final = {"good": "world", "unclear": "peer", "bad": "missed"}
_TITLES: Final = {
    Section.CAUSE: "Cause and effect",
    Section.PHYSICS: "Physical constraints",
    Section.TIME: "Time",
    Section.CONFIDENCE: "Confidence",
}
_MEANINGS: Final = {
    Verdict.VOID: "The test was not valid in this run, so there is no grade.",
    Verdict.ERROR: "The test raised an error or the answers are invalid. This is neither a pass nor a fail.",
    Verdict.UNREADABLE: "The signals that the test needs cannot be read from this world.",
    Verdict.UNSUPPORTED: "This world lacks a feature that the test needs.",
    Verdict.NOT_MEASURED: "This was not measured.",
    Verdict.NOT_IDENTIFIABLE: "The logs do not identify this effect, for any model.",
    Verdict.INCONCLUSIVE: (
        "Neither a pass nor a fail: the interval of a part includes 0, a gate is not met, or a part has no score."
    ),
}
_SENTENCES: Final = {
    Verdict.PARTIAL: "It is above the floor in {} without passing.",
    Verdict.FAIL: "It fails {}.",
    Verdict.UNREADABLE: "It does not predict the signals of {}.",
}
_LISTED: Final = {
    Verdict.INCONCLUSIVE: "Undecided",
    Verdict.UNSUPPORTED: "Unsupported",
    Verdict.NOT_IDENTIFIABLE: "Not identifiable from the logs",
    Verdict.NOT_MEASURED: "Not measured",
}
HORIZON: Final = "horizon"
"""Raw figure h*: number of steps that are predictable at all."""
LAST: Final = "last_with_skill"
"""Raw figure: last step at which the lower end of the skill is above 0."""
_RAW: Final = {
    "loss": "loss of this world",
    "floor": "loss of the floor",
    "ceiling": "loss of the ceiling",
    "marginal": "loss of the mean",
    HORIZON: "h* (step)",
    LAST: "last step with low > 0",
}
_AXIS: Final = (-0.5, 0.0, 0.5, 1.0)
"""Ticks of the score axis. Scores outside are drawn at its ends."""


def render(result: ExamResult) -> str:
    """The HTML page: UTF-8, self-contained, deterministic."""
    details = [Facts(list(result.facts.items())), *_notes(result)]
    return render_page(
        f"Exam of {result.subject}",
        _top(result),
        *(_section(result, section) for section in _sections(result.tests)),
        Chapter("Details", details),
    )


def _top(result: ExamResult) -> Header:
    """Number of passes, summary card and summary sentences."""
    passed, total = len(result.passed), len(result.tests)
    graded = is_any_graded(result.tests)
    title = f"{passed} of {total} tests passed" if graded else "No test was graded"
    caption = "A test counts if every training passes it, significant over all tests (Holm)." if graded else ""
    card = Group([_card_row(result.tests, section) for section in _sections(result.tests)], "card")
    lede = " ".join(text for text in (_lede(result), caption) if text)
    return Header(title=title, eyebrow=f"Exam of {result.subject}", lede=lede, parts=[card])


def _lede(result: ExamResult) -> str:
    """Summary sentences; together they mention every test."""
    having: dict[Verdict, list[TestResult]] = {}
    for test in result.tests:
        having.setdefault(test.verdict, []).append(test)
    passes = having.get(Verdict.PASS, [])
    passed, alone = ([test for test in passes if (test.code in result.passed) is kept] for kept in (True, False))
    parts = ["It observes images only."] if result.facts.get("Seen") == "pictures" else []
    if passed:
        parts.append(f"It passes {_quoted(passed)}.")
    if alone:
        parts.append(f"It passes {_quoted(alone)} individually, but not significantly over all tests.")
    parts += [text.format(_quoted(having[verdict])) for verdict, text in _SENTENCES.items() if verdict in having]
    parts += [f"{text}: {_codes(having[verdict])}." for verdict, text in _LISTED.items() if verdict in having]
    if void := having.get(Verdict.VOID):
        parts.append(f"Void in this run, without a grade: {plural(len(void), 'test')}.")
    if failed := having.get(Verdict.ERROR):
        parts.append(f"{plural(len(failed), 'test')} raised an error.")
    return " ".join(parts)


def _quoted(tests: Sequence[TestResult]) -> str:
    return listing([f"\N{LEFT DOUBLE QUOTATION MARK}{test.title}\N{RIGHT DOUBLE QUOTATION MARK}" for test in tests])


def _codes(tests: Sequence[TestResult]) -> str:
    return listing([test.code for test in tests])


def _sections(tests: Sequence[TestResult]) -> list[Section]:
    """The sections of these tests, ordered by their weakest lower bound."""

    def low(section: Section) -> float:
        lowest = section_weakest(tests, section)
        return -math.inf if lowest is None else lowest[1].low

    return sorted({test.section for test in tests}, key=lambda section: (low(section), section))


def _card_row(tests: Sequence[TestResult], section: Section) -> Chips:
    """A section with its weakest lower bound and a chip for each test."""
    lowest = section_weakest(tests, section)
    bound = "not graded" if lowest is None else f"at least {_plain(lowest[1].low)}"
    where = "" if lowest is None else f" in {lowest[0].code}"
    lost = sum(test.section is section and not is_fully_graded(test) for test in tests)
    where += f", {lost} not fully graded" if lowest is not None and lost else ""
    chips = [
        (test.code, str(test.verdict).lower(), f"#{test.code}", f"chip {_tone(test.verdict)}")
        for test in tests
        if test.section is section
    ]
    return Chips(chips, _TITLES[section], f"{bound}{where}")


def _section(result: ExamResult, section: Section) -> Chapter:
    """A chapter with a block for each of its tests."""
    tests = [test for test in result.tests if test.section is section]
    return Chapter(_TITLES[section], [_test(test, result.command) for test in tests])


def _test(test: TestResult, command: str) -> FindingBlock:
    """Block of a test: verdict, claim, figure, scores, conditions and how to reproduce it."""
    parts: list[PagePart] = [Note(f"A pass means: {test.claim}"), *_trainings(test), *_reasons(test)]
    parts += [] if test.figure is None else _figure(test.figure)
    parts += [*_scores(test), *_raw(test)]
    parts += [_conditions(test)] if any(seed.grade and seed.grade.conditions for seed in test.seeds) else []
    result = Phrase(str(test.verdict), f"verdict {_tone(test.verdict)}")
    return FindingBlock(f"{test.title}.", [*parts, _reproduce(test, command)], anchor=test.code, result=result)


def _reasons(test: TestResult) -> list[PagePart]:
    """Reasons for missing grades or scores and bugs of the world, with the trainings that they affect."""
    meaning = _MEANINGS.get(test.verdict)
    reasons = [(seed.reason, seed.seed) for seed in test.seeds if seed.reason]
    graded = [(seed.grade, seed.seed) for seed in test.seeds if seed.grade is not None]
    reasons += [(f"{cell.name}: {cell.note}", at) for grade, at in graded for cell in grade.cells if cell.score is None]
    reasons += [(f"A bug: {bug}", at) for grade, at in graded for bug in grade.bugs]
    of: dict[str, list[str]] = {}
    for text, training in dict.fromkeys(reasons):
        of.setdefault(text, []).append(str(training))
    lines = [f"{_of(trainings, test)}{text}" for text, trainings in of.items()]
    return [Note(text, "note reason") for text in ([meaning] if meaning else []) + lines]


def _of(trainings: Sequence[str], test: TestResult) -> str:
    """Such as "Training 1: "; empty if it is all of them."""
    if len(trainings) == len(test.seeds):
        return ""
    return f"Training{'s' if len(trainings) > 1 else ''} {listing(trainings)}: "


def _trainings(test: TestResult) -> list[PagePart]:
    """The verdict of each training, if they differ."""
    if len({seed.verdict for seed in test.seeds}) == 1:
        return []
    verdicts = ", ".join(f"{seed.seed} {seed.verdict}" for seed in test.seeds)
    return [Note(f"Training {verdicts}.")]


def _figure(figure: ExamFigure) -> list[PagePart]:
    names = list(dict.fromkeys(line.name for panel in figure.panels for line in panel.lines))
    others = [name for name in names if name not in ("truth", "this world")]
    styles = {name: f"other{place % 6}" for place, name in enumerate(others)} | {"truth": "real", "this world": "world"}
    charts = [_panel(panel, styles) for panel in figure.panels if any(line.x for line in panel.lines)]
    return [Group.gallery(charts), Note(figure.caption)]


def _panel(panel: FigurePanel, styles: dict[str, str]) -> LineChart:
    order = {"this world": 2, "truth": 1}
    drawn = [line for line in panel.lines if line.x]  # a line may be empty, for example without contacts
    lines = sorted(drawn, key=lambda line: order.get(line.name, 0))
    return LineChart(
        title=panel.title,
        alt=f"{panel.title}: {panel.y_label} over {panel.x_label}",
        x_label=panel.x_label,
        y_label=panel.y_label,
        lines=[
            ChartLine(
                label=line.name,
                style=styles[line.name],
                x=line.x,
                y=line.y,
                low=line.low,
                high=line.high,
                drawn="points" if line.points else "line",
            )
            for line in lines
        ],
        equal=panel.equal,
    )


def _scores(test: TestResult) -> list[PagePart]:
    """Scores of every part and training, then the weakest part of the oracle and of each must-fail model."""
    rows: list[Dot] = []
    many = _many(test)
    for seed in test.seeds:
        for cell in () if seed.grade is None else seed.grade.cells:
            if cell.score is not None:
                name = f"{cell.name}{_reach(cell)}{f', training {seed.seed}' if many else ''}"
                rows.append(_dot(name, cell.score, _DOTS.get(_tone(seed.verdict), "world")))
    references = [("the oracle", test.oracle, "ceiling")] if test.oracle else []
    references += [(f"must fail: {name}", grade, "floor") for name, grade in test.must_fail.items()]
    unscored: list[PagePart] = []
    for name, grade, style in references:
        weakest_cell = weakest(grade)
        gated = any(condition.gate and not condition.met for condition in grade.conditions)
        label = f"{name}{', gate not met' if gated else ''}"
        if weakest_cell is not None and weakest_cell.score is not None:
            rows.append(_dot(label, weakest_cell.score, style))
        else:
            why = "; ".join(f"{cell.name}: {cell.note}" for cell in grade.cells)
            unscored.append(Note(f"Without a score: {label} ({why})."))
    if not rows:
        return unscored
    floor = f"0 is the best trivial baseline ({test.floor})" if test.floor else "0 is the floor of the test"
    chart = IntervalChart(
        title=f"Score: {floor}, 1 is the upper bound",
        alt=f"Scores of {test.title} with 95 % intervals over scenes",
        rows=rows,
        ticks=_AXIS,
        show=_plain,
        zero=True,
    )
    return [chart, *unscored]


def _reach(cell: Cell) -> str:
    """The predictable horizon and the horizon of the world's skill, if the test reports them."""
    if HORIZON not in cell.raw or LAST not in cell.raw:
        return ""
    return f" (h* {number(cell.raw[HORIZON])}, skill to step {number(cell.raw[LAST])})"


def _raw(test: TestResult) -> list[PagePart]:
    """Collapsed table of the raw figures of each part and training, in the units of the test."""
    cells = [(cell, seed.seed) for seed in test.seeds if seed.grade for cell in seed.grade.cells if cell.raw]
    names = list(dict.fromkeys(name for cell, _ in cells for name in cell.raw))
    if not names:
        return []
    many = _many(test)
    rows = [
        [
            cell.name,
            *([str(training)] if many else []),
            *(number(cell.raw[name], 4) if name in cell.raw else "" for name in names),
        ]
        for cell, training in cells
    ]
    head = ("part", *(["training"] if many else []), *(_RAW.get(name, name.replace("_", " ")) for name in names))
    units = "in the units of the test; a ceiling of 0 is ground truth"
    return [Table(f"Raw figures of {test.code}, {units}", head, rows, folded="Raw figures")]


def _dot(name: str, score: Score, style: str) -> Dot:
    return Dot.of(name, score, f"{_plain(score.value)} ({_plain(score.low)} to {_plain(score.high)})", style)


def _plain(value: float) -> str:
    """A score with two decimals and a minus sign; two significant digits from 100 on."""
    if abs(value) >= 100:
        return number(value, 2)
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "\N{MINUS SIGN}")


def _conditions(test: TestResult) -> Table:
    rows = [
        [
            f"{condition.name}{' (a gate)' if condition.gate else ''}",
            str(seed.seed),
            condition.found,
            "met" if condition.met else "NOT met",
        ]
        for seed in test.seeds
        if seed.grade is not None
        for condition in seed.grade.conditions
    ]
    return Table("Conditions", ("condition", "training", "found", ""), rows, style="prose")


def _reproduce(test: TestResult, command: str) -> Note:
    """The command that reproduces the test. A resumed exam reuses stored answers, so its time excludes them."""
    took = f"graded (and queried, without stored answers) in {number(test.elapsed_s, 2)} s"
    text = f"Scenes {test.scenes[:12]}, {took}. " if test.scenes else "Not run. "
    return Note(text, code=f"{command} --tests {test.code}" if command else "")  # the last --tests counts


def _notes(result: ExamResult) -> list[PagePart]:
    texts = (
        "A score of 0 is the floor: the best trivial baseline or an uninformative answer. A score of 1 is the upper "
        "bound from the same information. "
        "Intervals are 95 % bootstraps over scenes (2,000 draws). PASS needs every part above 0.5 with its whole "
        "interval and every condition met; the worst training counts.",
        "Every run also grades an oracle, which must reach the upper bound, and models that must fail. "
        "Otherwise the test is VOID and has no grade.",
        "There is no total score. A section is summarised by its weakest lower bound.",
    )
    again = [Note("Repeat: ", code=result.command)] if result.command else []
    return [*again, *map(Note, texts)]


def _many(test: TestResult) -> bool:
    return len(test.seeds) > 1


def _tone(verdict: Verdict) -> str:
    return _TONES.get(verdict, "none")
