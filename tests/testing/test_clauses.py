"""The machinery of the kit; the table of clauses is complete."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline.testing.clauses import CLAUSES, Case, Clause, breaches
from worldline.testing.comparing import holds, unchanged


class ToyCase(Case):
    kind = "toy"


def broken_rule(case: ToyCase) -> None:
    """A rule that nothing keeps."""
    holds(False, f"a hole in {case.kind}")


def test_a_breach_states_the_clause_the_violation_and_where_to_look() -> None:
    expected = ["[toy.broken_rule] a hole in toy. Look at: the rule book."]
    assert breaches(ToyCase(), [Clause(broken_rule, "the rule book")]) == expected


def test_a_clause_that_does_not_apply_is_not_checked() -> None:
    assert not breaches(ToyCase(), [Clause(broken_rule, "the rule book", lambda case: case.kind != "toy")])


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), lambda: np.random.random()])  # noqa: NPY002
def test_use_of_the_global_random_state_is_seen_and_undone(draw) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = float(torch.rand(1)), np.random.random()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    with pytest.raises(AssertionError, match="global random state"), unchanged():
        draw()
    assert (float(torch.rand(1)), np.random.random()) == first  # noqa: NPY002


TESTS = [import_module(f"tests.testing.{path.stem}") for path in Path(__file__).parent.glob("test_*.py")]


@pytest.mark.parametrize("kind", CLAUSES)
def test_every_clause_has_its_name_a_sentence_and_a_planted_fault(kind: str) -> None:
    names = [clause.__name__ for clause in CLAUSES[kind]]
    assert len(set(names)) == len(names)
    planted = {fault[1] for test in TESTS for fault in getattr(test, f"{kind.upper()}_FAULTS", ())}
    assert set(names) == planted
    for clause in CLAUSES[kind]:
        assert re.fullmatch(r"[A-Z`].{20,}\.", (clause.__doc__ or "").splitlines()[0])
