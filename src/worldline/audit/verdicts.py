"""From grades to verdicts: one a test and training seed, and none where the test itself does not hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline.errors import InputError

PASS_ABOVE: Final = 0.5
ORACLE_SHARE: Final = 0.9
"""Of the declared ceiling, which the oracle's lower end has to reach."""
BREAKS_AT: Final = 0.25
"""Score of a model that must fail at which the test is void, however wide its interval."""
ALPHA: Final = 0.05
GATED: Final = "gated"
"""Begins the note of a cell that is not scored because the best trivial model is as good as can be."""
UNKNOWABLE: Final = str(Verdict.NOT_IDENTIFIABLE)
"""Begins the note of a cell that is shown and not scored, because the logs do not tell it whatever the model."""

_WORST_FIRST: Final = (
    Verdict.VOID,
    Verdict.ERROR,
    Verdict.FAIL,
    Verdict.UNREADABLE,
    Verdict.UNSUPPORTED,
    Verdict.NOT_MEASURED,
    Verdict.NOT_IDENTIFIABLE,
    Verdict.INCONCLUSIVE,
    Verdict.PARTIAL,
    Verdict.PASS,
)


def weakest(grade: Grade) -> Cell | None:
    """The scored cell with the smallest lower end: what a test says is never better than its worst part."""
    scored = [cell for cell in grade.cells if cell.score is not None]
    return min(scored, key=lambda cell: _score(cell).low) if scored else None


def verdict_of(grade: Grade) -> Verdict:
    """PASS, PARTIAL, FAIL or INCONCLUSIVE, from the scores and conditions; a bug fails whatever the scores.

    Cells that the logs do not tell count neither for nor against; where there are no others, it is NOT IDENTIFIABLE.
    """
    scores = [cell.score for cell in grade.cells if cell.score is not None]
    if grade.bugs or any(score.high <= 0 for score in scores):
        return Verdict.FAIL
    if all(cell.score is None and cell.note.startswith(UNKNOWABLE) for cell in grade.cells):
        return Verdict.NOT_IDENTIFIABLE
    if not scores or any(is_undefined(cell) for cell in grade.cells):
        return Verdict.INCONCLUSIVE
    met = all(condition.met for condition in grade.conditions) and not any(_is_worse(cell) for cell in grade.cells)
    if met and all(score.low > PASS_ABOVE for score in scores):
        return Verdict.PASS
    above = all(score.low > 0 for score in scores) and _passes_gates(grade)
    return Verdict.PARTIAL if above else Verdict.INCONCLUSIVE


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that is reported of several training seeds.

    Raises:
        InputError: there are none.
    """
    if not verdicts:
        raise InputError("no verdicts were given; at least one training seed has to be graded.")
    return min(verdicts, key=_WORST_FIRST.index)


def flaws(
    oracle: Grade, must_fail: Mapping[str, Grade], declared_ceiling: float, by_gate: Collection[str] = ()
) -> tuple[str, ...]:
    """Why a test is void: its oracle does not reach the ceiling, or a model that must fail does not. Empty if it holds.

    Args:
        oracle: its grade.
        must_fail: grades of the models that must fail.
        declared_ceiling: what the oracle reaches by design.
        by_gate: which of those models may have the score, as a gate stops them.
    """
    found = []
    best = weakest(oracle)
    due = ORACLE_SHARE * declared_ceiling
    if best is None:
        found.append("no part of it is scored")
    elif (low := _score(best).low) < due:
        found.append(f"the oracle reaches {low:.2f} in {best.name}, {due:.2f} is due")
    lost = [cell for cell in oracle.cells if is_undefined(cell) or _is_worse(cell)]
    found += [f"the oracle in {cell.name}: {cell.note}" for cell in lost]
    found += [f"the oracle does not meet: {one.name} ({one.found})" for one in oracle.conditions if not one.met]
    found += [f"the oracle has a bug: {bug}" for bug in oracle.bugs]
    for name, grade in must_fail.items():
        row = weakest(grade)
        if row is None or grade.bugs or (name in by_gate and not _passes_gates(grade)):
            continue  # it fails by what is asked beside the score
        score = _score(row)
        if score.surely > 0 or score.value >= BREAKS_AT:
            found.append(f"{name} must fail and scores {score.value:.2f} (above {score.surely:.2f}) in {row.name}")
    return tuple(found)


def p_value(grade: Grade) -> float:
    """The chance of such a grade where the true one is no PASS: that of the weakest part; 1 where it is none."""
    if verdict_of(grade) is not Verdict.PASS:
        return 1.0
    return max(cell.score.p_half for cell in grade.cells if cell.score is not None)


def holm(p_values: Mapping[str, float], alpha: float = ALPHA) -> tuple[str, ...]:
    """The names whose p-values hold when all are looked at together, sorted; wrong about any with chance `alpha`.

    Source: Holm (1979), the sequentially rejective procedure.
    """
    kept: list[str] = []
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > alpha / (len(p_values) - place):
            break
        kept.append(name)
    return tuple(sorted(kept))


def _passes_gates(grade: Grade) -> bool:
    return all(one.met for one in grade.conditions if one.gate)


def is_undefined(cell: Cell) -> bool:
    """Whether it should have a score and has none."""
    return cell.score is None and not cell.note.startswith((GATED, UNKNOWABLE))


def _is_worse(cell: Cell) -> bool:
    """Whether it is gated, and yet worse than the floor."""
    return cell.score is None and cell.note.endswith("worse")


def _score(cell: Cell) -> Score:
    assert cell.score is not None  # for the type checker
    return cell.score
