"""The table of clauses of the four contracts, and the runner that checks a case against them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import update_wrapper
from typing import Annotated, Any, ClassVar

from worldline.config import BoundedConfig, Bounds
from worldline.errors import InputError
from worldline.testing.comparing import BreachError, equal

Check = Callable[[Any], None]
TwoOrMore = Annotated[int, Bounds(at_least=2)]
"""A size of a test problem, checked when the case is made."""


class CaseError(InputError):
    """The logs or the settings of a check are unsuitable; this says nothing of what is checked."""


class Case(BoundedConfig):
    """What is checked, with its test data.

    Attributes:
        kind: a key of `CLAUSES`, and the name of the field that is checked.
        tolerance: largest relative difference between two results that must be equal.
    """

    kind: ClassVar[str]
    tolerance: float

    def prepared(self) -> Case:
        """The case that a clause may use: without state of another clause."""
        return self

    def equal(self, first: Any, second: Any, problem: str) -> None:
        """Raises BreachError if two results differ by more than the tolerance; see the function `equal`."""
        equal(first, second, problem, within=self.tolerance)

    def ignores_masked(self, results: Callable[[str], Mapping[str, Any]], what: str) -> Mapping[str, Any]:
        """The results with true masked values; raises BreachError if wrong values or NaN there change them.

        Args:
            results: takes the content of masked values: "kept", "other" or "nan".
            what: description of the results.
        """
        expected = results("kept")
        for values in ("other", "nan"):
            self.equal(results(values), expected, f"masked values (filled with {values!r}) change {what}")
        return expected


class Clause:
    """One clause of a contract: a function that raises `BreachError`, with a place to look for the error.

    A call raises AssertionError with the text of the breach, the name of the clause and the place.

    Args:
        check: its name is that of the clause; the first line of its docstring states the promise.
        look: the place in the contract, and the probable place of the error.
        applies: whether the clause is checked for a case.
    """

    __name__: str

    def __init__(self, check: Check, look: str, applies: Callable[[Any], bool] = lambda _: True) -> None:
        update_wrapper(self, check)
        self.check, self.look, self.applies = check, look, applies

    def __call__(self, case: Case) -> None:
        """Raises AssertionError if the clause is broken, also by an unexpected error of what is checked."""
        try:
            if self.applies(case):
                self.check(case.prepared())
        except CaseError:
            raise
        except Exception as error:  # of the implementation under test
            problem = f"the {case.kind} raised {type(error).__name__}: {str(error).rstrip('.')}"
            problem = str(error) if isinstance(error, BreachError) else problem
            raise AssertionError(f"[{case.kind}.{self.__name__}] {problem}. Look at: {self.look}.") from error


CLAUSES: dict[str, list[Clause]] = {"engine": [], "model": [], "planner": [], "world": []}
"""The clauses of each contract, in the order in which a report lists them. `worldline.testing` fills it."""


def clause(kinds: str, look: str, *, applies: Callable[[Any], bool] = lambda _: True) -> Callable[[Check], Clause]:
    """Adds a check to the table of each of the kinds, such as "engine world"; see `Clause` for the arguments."""

    def add(check: Check) -> Clause:
        rule = Clause(check, look, applies)
        for kind in kinds.split():
            CLAUSES[kind].append(rule)
        return rule

    return add


def check_case(case: Case) -> None:
    """Checks all clauses of the case's kind, then raises one AssertionError with all breaches."""
    broken = breaches(case, CLAUSES[case.kind])
    if broken:
        subject = type(getattr(case, case.kind)).__name__
        raise AssertionError("\n".join([f"{subject} breaks {len(broken)} clause(s) of its contract:", *broken]))


def breaches(case: Case, clauses: Iterable[Clause]) -> list[str]:
    """The messages of the broken clauses; empty if all hold."""
    return [text for _, text in outcomes(case, clauses) if text]


def outcomes(case: Case, clauses: Iterable[Clause]) -> Iterator[tuple[str, str]]:
    """The name of each clause, such as "no peek", and the message of its breach; empty if it holds."""
    for rule in clauses:
        text = ""
        try:
            rule(case)
        except AssertionError as breach:
            text = str(breach)
        yield rule.__name__.replace("_", " "), text
