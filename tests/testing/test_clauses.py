from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from worldline.episode import History
from worldline.errors import InputError, UnsupportedError
from worldline.testing.clauses import (
    Case,
    Clause,
    accepts,
    changed_place,
    clause,
    clauses_of,
    difference,
    equal,
    holds,
    lacks,
    refuses,
    run,
    snapshot,
    unchanged,
)


class ToyCase(Case):
    kind = "toy"


@clause("the rule book")
def broken_rule(case: ToyCase) -> None:
    """A rule that nothing keeps."""
    holds(False, f"a hole in {case.kind}")


@clause("the rule book")
def kept_rule(case: ToyCase) -> None:
    """A rule that all keep."""
    holds(True, "nothing")


def test_a_breach_states_the_clause_the_violation_and_where_to_look() -> None:
    kept_rule(ToyCase())
    with pytest.raises(AssertionError) as raised:
        broken_rule(ToyCase())
    assert str(raised.value) == "[toy.broken_rule] a hole in toy. Look at: the rule book."


def test_a_clause_that_does_not_apply_is_not_checked() -> None:
    Clause(broken_rule.check, "the rule book", lambda case: case.kind != "toy")(ToyCase())


def test_clauses_of_a_module_are_in_order_of_definition() -> None:
    assert clauses_of(globals()) == (broken_rule, kept_rule)


@pytest.mark.parametrize(
    ("first", "second", "due"),
    [
        (np.ones(3), np.ones(3), 0.0),
        (np.array([10.0, 1.0]), np.array([10.0, 2.0]), 0.1),
        (torch.tensor([1, 2]), np.array([1, 2]), 0.0),
        (np.array([np.inf, 1.0]), np.array([np.inf, 1.0]), 0.0),
        (np.array([np.nan]), np.array([np.nan]), np.inf),
        (np.array([np.inf]), np.array([1.0]), np.inf),
        (np.zeros((0, 2)), np.zeros((0, 2)), 0.0),
    ],
)
def test_difference_is_relative_to_the_magnitude(first, second, due) -> None:
    assert difference(first, second) == pytest.approx(due)


def test_equal_compares_shapes_first() -> None:
    with pytest.raises(AssertionError, match=r"shapes \(3,\) and \(1,\)"):
        equal(np.ones(3), np.ones(1), "broadcast", within=1.0)


def test_unchanged_names_the_place() -> None:
    history = History(observations={"x": np.zeros((2, 1)), "y": np.full((2, 1), np.nan)}, actions={})
    with unchanged(history):
        pass
    with pytest.raises(AssertionError, match=r"observations\.x of History"), unchanged(history):
        history.observations["x"][1] = 1.0


@dataclass(frozen=True)
class Nested:
    items: list[torch.Tensor]
    word: str


@pytest.mark.parametrize(
    ("other", "due"),
    [
        (Nested([torch.zeros(2), torch.ones(2)], "a"), None),
        (Nested([torch.zeros(2), torch.zeros(2)], "a"), "items.1"),
        (Nested([torch.zeros(2), torch.ones(2)], "b"), "word"),
    ],
)
def test_snapshots_reach_into_dataclasses(other: Nested, due: str | None) -> None:
    assert changed_place(snapshot(Nested([torch.zeros(2), torch.ones(2)], "a")), snapshot(other)) == due


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


def test_run_lists_every_breach() -> None:
    with pytest.raises(AssertionError, match=r"(?s)^Toy breaks 2 clause\(s\).*a hole.*a hole"):
        run("Toy", ToyCase(), [broken_rule, kept_rule, broken_rule])
    run("Toy", ToyCase(), [kept_rule])


def refuse(error: Exception) -> None:
    raise error


def test_a_refusal_must_say_what_is_wanted() -> None:
    error = InputError("action 'push' has shape (3, 2). Give it shape (4, 2), not below -1.5.")
    refuses("a push", partial(refuse, error), "push", (4, 2), (3, 2), -1.5)
    with pytest.raises(AssertionError, match=r"a push: the message .* does not contain pull, \(5, 2\), 2.5"):
        refuses("a push", partial(refuse, error), "push", "pull", (5, 2), 2.5)
    with pytest.raises(AssertionError, match=r"a push: expected InputError, got KeyError \('push'\)"):
        refuses("a push", partial(refuse, KeyError("push")))
    with pytest.raises(AssertionError, match="a push: expected InputError, got an answer"):
        refuses("a push", lambda: None)
    with pytest.raises(RuntimeError):
        refuses("a push", partial(refuse, RuntimeError("a crash is no breach")))


def test_an_answer_that_is_due() -> None:
    assert accepts("a sum", lambda: 2) == 2
    with pytest.raises(AssertionError, match=r"a sum: expected an answer, got InputError \(no\)"):
        accepts("a sum", partial(refuse, InputError("no")))


def test_what_is_lacking_must_be_named_with_what_provides_it() -> None:
    assert not lacks("to fly", lambda: 1, "wings")
    assert lacks("to fly", partial(refuse, UnsupportedError("it has no Wings. Fit some.")), "wings", "engine")
    with pytest.raises(AssertionError, match=r"to fly: the message 'no\. Never\.' names none of wings, engine"):
        lacks("to fly", partial(refuse, UnsupportedError("no. Never.")), "wings", "engine")
    with pytest.raises(AssertionError, match=r"'it has no wings\.' does not state what provides it"):
        lacks("to fly", partial(refuse, UnsupportedError("it has no wings.")), "wings")


@pytest.mark.parametrize(("after", "due"), [(float("nan"), None), (1.0, "trust")])
def test_nan_is_the_same_as_nan_in_snapshots(after: float, due: str | None) -> None:
    assert changed_place(snapshot({"trust": float("nan")}), snapshot({"trust": after})) == due
