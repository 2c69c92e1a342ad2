"""The report of an exam, on a result that is made up."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from worldline.audit.grades import Cell, Condition, Grade, Score, Verdict
from worldline_exam.base import Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.report import render
from worldline_exam.results import ExamResult, SeedGrade, TestResult, deciding_part


def cell(name: str, value: float, half: float = 0.05, p_half: float = 0.0005) -> Cell:
    score = Score(value=value, low=value - half, high=value + half, surely=value - 2 * half, p_half=p_half)
    return Cell(name=name, score=score, raw={"loss": 0.1})


GAIN = Condition(name="gain in [0.8, 1.2]", met=True, found="0.97")
EXHIBIT = ExamFigure(
    caption="The block is pushed to the left or the right.",
    panels=(
        FigurePanel(
            title="Where the block goes",
            x_label="x [m]",
            y_label="y [m]",
            equal=True,
            lines=(
                FigureLine(name="truth", x=(0.0, 0.1, 0.05), y=(0.0, 0.2, 0.4)),
                FigureLine(name="this world", x=(0.0, 0.12, 0.06), y=(0.0, 0.2, 0.38)),
                FigureLine(name="blind", x=(0.0,), y=(0.0,), points=True),
                FigureLine(name="marks that there are none of", x=(), y=(), points=True),
            ),
        ),
        FigurePanel(
            title="Error",
            x_label="step",
            y_label="m",
            lines=(FigureLine(name="this world", x=(1.0, 2.0), y=(0.1, 0.2), low=(0.0, 0.1), high=(0.2, 0.3)),),
        ),
        FigurePanel(
            title="Nothing happened", x_label="step", y_label="m", lines=(FigureLine(name="truth", x=(), y=()),)
        ),
    ),
)


def outcome(code: str, verdict: Verdict, section: Section, *cells: Cell, reason: str = "") -> TestResult:
    grade = Grade(cells=cells, conditions=(GAIN,)) if cells else None
    return TestResult(
        code=code, section=section, title=f"Title of {code}", claim="It knows what the motor does.",
        verdict=verdict, seeds=(SeedGrade(seed=0, verdict=verdict, grade=grade, reason=reason),),
        oracle=Grade(cells=(cell("all", 1.0, 0.0),)), must_fail={"action-blind": Grade(cells=(cell("all", 0.0),))},
        flaws=(), floor="persistence", scenes="0123456789abcdef", elapsed_s=3.2, figure=EXHIBIT if cells else None,
    )  # fmt: skip


RESULT = ExamResult(
    subject="vectors",
    facts={"Machine": "CPU"},
    command="worldline exam vectors --seed 7",
    tests=(
        outcome("C1", Verdict.PASS, Section.CAUSE, cell("pusher", 0.97), cell("block", 0.81)),
        outcome("C2", Verdict.FAIL, Section.CAUSE, cell("history", -0.2)),
        outcome("P1", Verdict.VOID, Section.PHYSICS, reason="copy must fail but scores 0.40"),
        outcome("T1", Verdict.PARTIAL, Section.TIME, cell("pendulum", 0.4)),
        outcome("U1", Verdict.ERROR, Section.CONFIDENCE, reason="ZeroDivisionError: planted"),
    ),
)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


def test_the_card_says_how_many_are_passed_and_the_weakest_bound_of_each_section() -> None:
    text = text_of(render(RESULT))
    assert "1 of 5" in text
    assert "Cause and effect at least −0.25 in C2" in text
    assert "Time at least 0.35 in T1" in text
    assert "It passes “Title of C1”. It is above the floor in “Title of T1” without passing. It fails" in text
    assert "1 test raised an error." in text


def trainings(one: TestResult, *others: SeedGrade) -> TestResult:
    """The test with more trainings than the first."""
    return replace(one, seeds=(*one.seeds, *others))


KILLED = SeedGrade(seed=1, verdict=Verdict.ERROR, grade=None, reason="it was killed")


def unscored(note: str) -> Cell:
    return Cell(name="history", score=None, note=note)


@pytest.mark.parametrize(
    "partly",
    [
        trainings(outcome("C1", Verdict.ERROR, Section.CAUSE, cell("pusher", 0.8)), KILLED),
        outcome("C1", Verdict.INCONCLUSIVE, Section.CAUSE, unscored("undefined for these answers")),
        outcome("C1", Verdict.INCONCLUSIVE, Section.CAUSE, cell("pusher", 0.8), unscored("undefined")),
        outcome("C1", Verdict.NOT_IDENTIFIABLE, Section.CAUSE, unscored("NOT IDENTIFIABLE: no drill")),
        outcome("C1", Verdict.VOID, Section.CAUSE, reason="no oracle"),
    ],
    ids=("killed", "no score", "a part without", "not told", "void"),
)
def test_a_test_of_which_a_part_has_no_score_is_counted_beside_the_bound(partly: TestResult) -> None:
    told = outcome("C2", Verdict.PASS, Section.CAUSE, cell("pusher", 0.7), unscored("gated: it is still"))
    text = text_of(render(replace(RESULT, tests=(partly, told))))
    assert "at least 0.65 in C2, 1 not fully graded" in text


def test_every_test_is_in_a_sentence() -> None:
    kinds = {
        "C1": Verdict.PASS, "C2": Verdict.PASS, "C3": Verdict.INCONCLUSIVE, "C4": Verdict.UNSUPPORTED,
        "C5": Verdict.NOT_IDENTIFIABLE, "P1": Verdict.NOT_MEASURED, "P2": Verdict.NOT_MEASURED,
    }  # fmt: skip
    tests = tuple(
        outcome(code, verdict, Section.CAUSE, cell("all", 0.8, p_half=0.04 if code == "C2" else 0.0005))
        for code, verdict in kinds.items()
    )
    text = text_of(render(replace(RESULT, tests=tests)))
    assert (
        "It passes “Title of C1”. It passes “Title of C2” individually, but not significantly over all tests. "
        "Undecided: C3. Unsupported: C4. Not identifiable from the logs: C5. Not measured: P1 and P2. "
    ) in text
    assert "1 of 7 tests passed" in text
    assert "A test counts if every training passes it, significant over all tests (Holm)." in text


def test_where_nothing_was_measured_the_count_is_no_failure() -> None:
    tests = tuple(outcome(code, Verdict.NOT_MEASURED, Section.CAUSE, reason="no endpoint") for code in ("C1", "C2"))
    page = render(replace(RESULT, tests=tests))
    assert "<h1>No test was graded</h1>" in page
    assert "significant over all" not in page
    assert "Not measured: C1 and C2." in text_of(page)
    failed = render(replace(RESULT, tests=(outcome("C1", Verdict.FAIL, Section.CAUSE, cell("all", -1.0)),)))
    assert "<h1>0 of 1 tests passed</h1>" in failed


def test_what_is_told_of_a_test_is_what_decided_it() -> None:
    mixed = outcome("C1", Verdict.FAIL, Section.CAUSE, cell("wide", -5.0, 6.0), cell("bad", -0.2))
    assert deciding_part(mixed) == cell("bad", -0.2)
    nothing = outcome("C1", Verdict.FAIL, Section.CAUSE, cell("wide", -5.0, 6.0), cell("nothing", 0.0, 0.0))
    assert deciding_part(nothing) == cell("nothing", 0.0, 0.0)
    assert deciding_part(outcome("C1", Verdict.PARTIAL, Section.CAUSE, cell("a", 0.9), cell("b", 0.2))) == cell(
        "b", 0.2
    )
    assert deciding_part(outcome("C1", Verdict.UNSUPPORTED, Section.CAUSE)) is None
    assert deciding_part(outcome("C1", Verdict.INCONCLUSIVE, Section.CAUSE, unscored("gated: still"))) is None


def test_of_several_trainings_each_has_its_verdict_and_its_reasons() -> None:
    one = outcome("C1", Verdict.ERROR, Section.CAUSE, cell("pusher", 0.8), unscored("gated: it is still"))
    grade = one.seeds[0].grade
    assert grade is not None
    third = SeedGrade(seed=2, verdict=Verdict.FAIL, grade=replace(grade, bugs=("a leak",)))
    one = replace(trainings(one, KILLED, third), seeds=(replace(one.seeds[0], verdict=Verdict.PASS), KILLED, third))
    text = text_of(render(replace(RESULT, tests=(one,))))
    for shown in (
        "Training 0 PASS, 1 ERROR, 2 FAIL.", "Training 1: it was killed", "Training 2: A bug: a leak",
        "Trainings 0 and 2: history: gated: it is still", "pusher, training 0", "pusher, training 2",
    ):  # fmt: skip
        assert shown in text, shown
    same = outcome("C1", Verdict.ERROR, Section.CAUSE, reason="it was killed")
    text = text_of(render(replace(RESULT, tests=(trainings(same, KILLED),))))
    assert text.count("it was killed") == 1
    assert "raining 0" not in text, "all of them were"
    assert "Training 0" not in text_of(render(RESULT))


def test_the_weakest_section_comes_first_and_what_was_not_graded_before_it() -> None:
    chapters = re.findall(r"<h2>([^<]+)</h2>", render(RESULT))
    assert chapters == ["Confidence", "Physical constraints", "Cause and effect", "Time", "Details"]


def test_a_test_shows_its_picture_its_parts_and_what_examined_it() -> None:
    page = render(RESULT)
    block = text_of("</style>" + page.partition('id="C1"')[2].partition("</article>")[0])
    for shown in (
        "pusher", "block", "0.81 (0.76 to 0.86)", "the oracle", "must fail: action-blind", "gain in [0.8, 1.2]",
        "The block is pushed", "0123456789ab", "worldline exam vectors --seed 7 --tests C1", "persistence",
    ):  # fmt: skip
        assert shown in block, shown


def test_a_test_shows_its_raw_figures_and_what_the_logs_do_not_tell() -> None:
    first = replace(cell("pendulum", 0.4), raw={"loss": 0.25, "floor": 0.5, "ceiling": 0.0, "horizon": 43.0,
                                                "last_with_skill": 38.0})  # fmt: skip
    second = replace(cell("gusty", 0.4), score=None, note="NOT IDENTIFIABLE: no drill", raw={"b_hat": 2.5})
    page = render(replace(RESULT, tests=(outcome("T1", Verdict.PARTIAL, Section.TIME, first, second),)))
    block = text_of("</style>" + page.partition('id="T1"')[2].partition("</article>")[0])
    for shown in (
        "pendulum (h* 43, skill to step 38)", "gusty: NOT IDENTIFIABLE: no drill", "gusty 2.500",
        "loss of this world loss of the floor loss of the ceiling h* (step) last step with low &gt; 0 b hat",
        "pendulum 0.2500 0.5000 0 43 38",
    ):  # fmt: skip
        assert shown in block, shown


@pytest.mark.parametrize(("code", "reason"), [("P1", "copy must fail"), ("U1", "ZeroDivisionError: planted")])
def test_a_test_without_a_grade_says_why_and_prints_what_examined_it_alone(code: str, reason: str) -> None:
    block = render(RESULT).partition(f'id="{code}"')[2].partition("</article>")[0]
    assert reason in block
    assert re.findall('<div class="row-label">([^<]+)</div>', block) == ["the oracle", "must fail: action-blind"]
    assert "Raw figures" not in block
    assert "Conditions" not in block


@pytest.mark.parametrize("oracle", [Grade(cells=(cell("all", 1.0),)), Grade(cells=(unscored("undefined"),))])
def test_a_model_that_must_fail_and_has_no_score_is_told_with_its_reasons(oracle: Grade) -> None:
    gate = Condition(name="it moves", met=False, found="0", gate=True)
    silent = Grade(cells=(unscored("undefined for these answers"), replace(unscored("gated: still"), name="block")))
    one = replace(
        outcome("C1", Verdict.VOID, Section.CAUSE, reason="no part of it is scored"),
        oracle=oracle,
        must_fail={"silent": silent, "stopped": replace(silent, conditions=(gate,))},
    )
    text = text_of(render(replace(RESULT, tests=(one,))))
    why = "(history: undefined for these answers; block: gated: still)."
    assert f"Without a score: must fail: silent {why}" in text
    assert f"Without a score: must fail: stopped, gate not met {why}" in text
    assert ("Without a score: the oracle (history: undefined)." in text) is (oracle.cells[0].score is None)


def test_it_takes_nothing_from_outside_and_escapes_what_it_is_given(tmp_path: Path) -> None:
    page = render(replace(RESULT, subject="<script>alert(1)</script>"))
    assert "<script>alert" not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
