"""From grades to verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.audit.grades import Cell, Condition, Grade, Score, Verdict
from worldline.audit.verdicts import flaws, holm, p_value, verdict_of, worst
from worldline.errors import InputError


def cell(low: float, high: float, *, name: str = "part", p_half: float = 0.001, surely: float | None = None) -> Cell:
    value = (low + high) / 2
    found = Score(value=value, low=low, high=high, surely=low if surely is None else surely, p_half=p_half)
    return Cell(name=name, score=found)


GATED = Cell(name="still", score=None, note="gated: the best trivial model is as good as can be")
WORSE = Cell(name="still", score=None, note=f"{GATED.note}; this one is worse")
SILENT = Cell(name="gusty", score=None, note="NOT IDENTIFIABLE: nobody drilled", raw={"b_hat": 2.5})
MET, UNMET = (Condition(name="gain in [0.8, 1.2]", met=met, found="1.0") for met in (True, False))
OPEN, SHUT = (Condition(name="coverage", met=met, found="0.9", gate=True) for met in (True, False))


def grade(*cells: Cell, conditions: tuple[Condition, ...] = (), bugs: tuple[str, ...] = ()) -> Grade:
    return Grade(cells=cells, conditions=conditions, bugs=bugs)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (grade(cell(0.6, 0.9)), Verdict.PASS),
        (grade(cell(0.6, 0.9), GATED, conditions=(MET,)), Verdict.PASS),
        (grade(cell(0.6, 0.9), WORSE), Verdict.PARTIAL),
        (grade(cell(0.6, 0.9), conditions=(MET, UNMET)), Verdict.PARTIAL),
        (grade(cell(0.6, 0.9), conditions=(UNMET, OPEN)), Verdict.PARTIAL),
        (grade(cell(0.6, 0.9), conditions=(MET, SHUT)), Verdict.INCONCLUSIVE),
        (grade(cell(-0.3, 0.0), conditions=(SHUT,)), Verdict.FAIL),
        (grade(cell(0.6, 0.9), cell(0.1, 0.9)), Verdict.PARTIAL),
        (grade(cell(0.6, 0.9), cell(-0.1, 0.9)), Verdict.INCONCLUSIVE),
        (grade(cell(0.6, 0.9), cell(-0.3, 0.0)), Verdict.FAIL),
        (grade(cell(-0.5, 0.2), cell(-0.3, -0.1)), Verdict.FAIL),
        (grade(cell(0.6, 0.9), bugs=("a leak",)), Verdict.FAIL),
        (grade(GATED), Verdict.INCONCLUSIVE),
        (grade(cell(0.6, 0.9), SILENT), Verdict.PASS),
        (grade(cell(0.1, 0.9), SILENT), Verdict.PARTIAL),
        (grade(cell(-0.3, 0.0), SILENT), Verdict.FAIL),
        (grade(SILENT, SILENT), Verdict.NOT_IDENTIFIABLE),
        (grade(SILENT, GATED), Verdict.INCONCLUSIVE),
        (grade(SILENT, bugs=("a leak",)), Verdict.FAIL),
        (grade(cell(0.6, 0.9), Cell(name="x", score=None, note="undefined for these answers")), Verdict.INCONCLUSIVE),
    ],
)
def test_the_weakest_part_decides(given: Grade, verdict: Verdict) -> None:
    assert verdict_of(given) is verdict


def test_the_worst_seed_is_reported() -> None:
    assert worst([Verdict.PASS, Verdict.PARTIAL, Verdict.PASS]) is Verdict.PARTIAL
    assert worst([Verdict.PASS, Verdict.ERROR, Verdict.FAIL]) is Verdict.ERROR
    with pytest.raises(InputError, match="at least one verdict, got none"):
        worst([])


def test_a_test_holds_only_where_its_oracle_does_and_what_must_fail_fails() -> None:
    good, bad = grade(cell(0.95, 1.0)), grade(cell(-0.1, 0.1))
    assert flaws(good, {"blind": bad}, 1.0) == ()
    assert "oracle reaches 0.85" in flaws(grade(cell(0.85, 1.0)), {"blind": bad}, 1.0)[0]
    assert flaws(grade(cell(0.85, 1.0)), {"blind": bad}, 0.94) == ()
    assert "gain" in flaws(grade(cell(0.95, 1.0), conditions=(UNMET,)), {}, 1.0)[0]
    assert "leak" in flaws(grade(cell(0.95, 1.0), bugs=("a leak",)), {}, 1.0)[0]
    assert "blind must fail" in flaws(good, {"blind": grade(cell(0.01, 0.1))}, 1.0)[0]
    assert "blind must fail" in flaws(good, {"blind": grade(cell(-0.4, 1.0))}, 1.0)[0], "however wide"
    assert "no scored cell" in flaws(grade(GATED), {}, 1.0)[0]


def test_what_must_fail_breaks_a_test_only_where_it_is_surely_above_the_floor() -> None:
    good = grade(cell(0.95, 1.0))
    assert flaws(good, {"blind": grade(cell(0.01, 0.1, surely=-0.01))}, 1.0) == ()
    assert flaws(good, {"blind": grade(cell(0.01, 0.1, surely=0.0))}, 1.0) == ()
    assert "blind must fail" in flaws(good, {"blind": grade(cell(0.02, 0.1, surely=0.01))}, 1.0)[0]


def test_what_must_fail_may_fail_by_a_gate_or_in_one_part() -> None:
    good = grade(cell(0.95, 1.0))
    assert flaws(good, {"still block": grade(cell(0.9, 1.0, name="pusher"), cell(0.0, 0.0, name="block"))}, 1.0) == ()
    wide, half = grade(cell(0.9, 1.0), conditions=(SHUT,)), grade(cell(0.9, 1.0), conditions=(UNMET, OPEN))
    assert flaws(good, {"infinite bands": wide}, 1.0, ["infinite bands"]) == ()
    assert "bands must fail" in flaws(good, {"infinite bands": wide}, 1.0, ["half"])[0], "only who may have the score"
    assert "half must fail" in flaws(good, {"half": half}, 1.0, ["half"])[0], "whoever goes like it would be PARTIAL"


def test_only_a_pass_has_a_small_p_value_and_it_is_that_of_its_weakest_part() -> None:
    assert p_value(grade(cell(0.6, 0.9, p_half=0.002), cell(0.55, 0.9, p_half=0.02))) == 0.02
    assert p_value(grade(cell(0.6, 0.9), conditions=(UNMET,))) == 1.0


def test_holm_stops_at_the_first_that_does_not_hold() -> None:
    assert holm({"a": 0.001, "b": 0.026, "c": 0.04}) == ("a",)
    assert holm({"a": 0.001, "b": 0.024, "c": 0.04}) == ("a", "b", "c")
    assert holm({}) == ()


@given(st.lists(st.floats(0, 1), max_size=16))
def test_holm_keeps_what_bonferroni_keeps_and_nothing_above_alpha(values: list[float]) -> None:
    p_values = {str(number): value for number, value in enumerate(values)}
    kept = holm(p_values)
    assert {name for name, p in p_values.items() if p <= 0.05 / len(p_values)} <= set(kept)
    assert all(p_values[name] <= 0.05 for name in kept)


def test_an_oracle_that_has_no_score_in_a_part_makes_the_test_void() -> None:
    undefined = Cell(name="x", score=None, note="undefined for these answers")
    assert flaws(grade(cell(0.97, 1.0), undefined), {}, 1.0) == ("the oracle in x: undefined for these answers",)
    assert flaws(grade(cell(0.97, 1.0), WORSE), {}, 1.0) == (f"the oracle in still: {WORSE.note}",)
    assert flaws(grade(cell(0.97, 1.0), GATED, SILENT), {}, 1.0) == ()
