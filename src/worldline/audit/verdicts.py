"""Verdicts from grades, the self-check of a test, and the correction for multiple tests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline.errors import InputError

PASS_ABOVE: Final = 0.5
ORACLE_SHARE: Final = 0.9
"""Share of the declared upper bound that the lower end of the oracle's interval must reach."""
BREAKS_AT: Final = 0.25
"""Score of a must-fail model from which the test is void, whatever the interval."""
ALPHA: Final = 0.05
GATED: Final = "gated"
"""Prefix of the note of a cell that is not scored because a trivial baseline is already optimal."""
UNKNOWABLE: Final = str(Verdict.NOT_IDENTIFIABLE)
"""Prefix of the note of a cell that is not scored because the logs do not identify it for any model."""


def weakest(grade: Grade) -> Cell | None:
    """The scored cell with the smallest lower end; it bounds the verdict."""
    scored = [cell for cell in grade.cells if cell.score is not None]
    return min(scored, key=lambda cell: _score(cell).low) if scored else None


def verdict_of(grade: Grade) -> Verdict:
    """PASS, PARTIAL, FAIL or INCONCLUSIVE from scores and conditions; a bug always gives FAIL.

    Cells that the logs do not identify are ignored. If there are no other cells, the verdict is NOT IDENTIFIABLE.
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
    """The worst verdict of several training seeds.

    Raises:
        InputError: `verdicts` is empty.
    """
    if not verdicts:
        raise InputError("expected at least one verdict, got none. Grade at least one training seed.")
    return min(verdicts, key=list(Verdict).index)


def flaws(
    oracle: Grade, must_fail: Mapping[str, Grade], declared_ceiling: float, by_gate: Collection[str] = ()
) -> tuple[str, ...]:
    """Reasons why a test is void; empty for a valid test.

    A test is void if its oracle does not reach the declared upper bound, or if a must-fail model does not fail.

    Args:
        oracle: grade of the oracle.
        must_fail: grades of the models that must fail.
        declared_ceiling: score that the oracle reaches by design.
        by_gate: must-fail models that may reach the score because a gate condition stops them.
    """
    reasons = []
    best = weakest(oracle)
    required = ORACLE_SHARE * declared_ceiling
    if best is None:
        reasons.append("the oracle has no scored cell")
    elif (low := _score(best).low) < required:
        reasons.append(f"the oracle reaches {low:.2f} in {best.name}; at least {required:.2f} is required")
    lost = [cell for cell in oracle.cells if is_undefined(cell) or _is_worse(cell)]
    reasons += [f"the oracle in {cell.name}: {cell.note}" for cell in lost]
    unmet = [condition for condition in oracle.conditions if not condition.met]
    reasons += [f"the oracle does not meet: {condition.name} ({condition.found})" for condition in unmet]
    reasons += [f"the oracle has a bug: {bug}" for bug in oracle.bugs]
    for name, grade in must_fail.items():
        row = weakest(grade)
        if row is None or grade.bugs or (name in by_gate and not _passes_gates(grade)):
            continue  # it fails by a bug or a gate, or has no score
        score = _score(row)
        if score.surely > 0 or score.value >= BREAKS_AT:
            reasons.append(f"{name} must fail but scores {score.value:.2f} (above {score.surely:.2f}) in {row.name}")
    return tuple(reasons)


def p_value(grade: Grade) -> float:
    """p-value of a PASS: the largest of its cells; 1 for other verdicts."""
    if verdict_of(grade) is not Verdict.PASS:
        return 1.0
    return max(cell.score.p_half for cell in grade.cells if cell.score is not None)


def holm(p_values: Mapping[str, float], alpha: float = ALPHA) -> tuple[str, ...]:
    """Names that stay significant under the Holm correction, sorted; the family-wise error rate is `alpha`.

    Source: Holm (1979), the sequentially rejective procedure.
    """
    kept: list[str] = []
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > alpha / (len(p_values) - place):
            break
        kept.append(name)
    return tuple(sorted(kept))


def _passes_gates(grade: Grade) -> bool:
    return all(condition.met for condition in grade.conditions if condition.gate)


def is_undefined(cell: Cell) -> bool:
    """Whether the cell should have a score but has none."""
    return cell.score is None and not cell.note.startswith((GATED, UNKNOWABLE))


def _is_worse(cell: Cell) -> bool:
    """Whether the cell is gated and the model is worse than the baseline."""
    return cell.score is None and cell.note.endswith("worse")


def _score(cell: Cell) -> Score:
    assert cell.score is not None  # for the type checker
    return cell.score
