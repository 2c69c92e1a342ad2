"""Clauses of a contract: checks, messages of failed clauses, and comparison of results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import update_wrapper
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.config import BoundedConfig, Bounds
from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError, WorldlineError
from worldline.schema import Signal

CaseT = TypeVar("CaseT", bound="Case", contravariant=True)
Answer = TypeVar("Answer")
Nested = TypeVar("Nested")

Values = NDArray[np.generic] | Tensor | float | np.number
Named = Mapping[str, NDArray[np.generic]] | Mapping[str, Tensor]
"""Arrays or tensors by name."""
NamedT = TypeVar("NamedT", bound=Named)

TwoOrMore = Annotated[int, Bounds(at_least=2)]
"""A size of a test problem, checked when the case is made."""

Wanted = str | float | tuple[int, ...]
"""A word, a number or a shape that a message must contain."""


class Case(BoundedConfig):
    """What is checked, with its test data.

    Attributes:
        kind: begins the name of each clause, such as "world".
        tolerance: largest relative difference between two results that must be equal.
    """

    kind: ClassVar[str]
    tolerance: float

    def equal(self, first: Values | Named, second: Values | Named, problem: str) -> None:
        """Raises BreachError if two results differ by more than the tolerance; see the function `equal`."""
        equal(first, second, problem, within=self.tolerance)

    def ignores_masked(self, results: Callable[[str], NamedT], what: str) -> NamedT:
        """The results with true masked values; raises BreachError if wrong values or NaN there change them.

        Args:
            results: takes the content of masked values: "kept", "other" or "nan".
            what: description of the results.
        """
        expected = results("kept")
        for values in ("other", "nan"):
            self.equal(results(values), expected, f"masked values (filled with {values!r}) change {what}")
        return expected


class BreachError(AssertionError):
    """A violation of the clause that is checked. The text describes it, with the values."""


class CaseError(InputError):
    """The logs or the settings of a check are unsuitable; this says nothing of what is checked."""


class Clause(Generic[CaseT]):
    """One clause of a contract: a function that raises `BreachError`, with a place to look for the error.

    A call raises AssertionError with the text of the breach, the name of the clause and the place.

    Args:
        check: its name is that of the clause; the first line of its docstring states the promise.
        look: the place in the contract, and the probable place of the error.
        applies: whether the clause is checked for a case.
    """

    __name__: str

    def __init__(
        self, check: Callable[[CaseT], None], look: str, applies: Callable[[CaseT], bool] = lambda _: True
    ) -> None:
        update_wrapper(self, check)
        self.check, self.look, self.applies = check, look, applies

    def __call__(self, case: CaseT) -> None:
        """Raises AssertionError if the clause is broken, also by an unexpected error of what is checked."""
        if not self.applies(case):
            return
        try:
            self.check(case)
        except BreachError as breach:
            raise AssertionError(self._text(case, str(breach))) from breach
        except CaseError:
            raise
        except Exception as error:  # of the implementation under test
            problem = f"the {case.kind} raised {type(error).__name__}: {str(error).rstrip('.')}"
            raise AssertionError(self._text(case, problem)) from error

    def _text(self, case: CaseT, problem: str) -> str:
        return f"[{case.kind}.{self.__name__}] {problem}. Look at: {self.look}."


def clause(
    look: str, *, applies: Callable[[CaseT], bool] = lambda _: True
) -> Callable[[Callable[[CaseT], None]], Clause[CaseT]]:
    """Decorates a check; the arguments are those of `Clause`."""
    return lambda check: Clause(check, look, applies)


def clauses_of(*modules: Mapping[str, object]) -> tuple[Clause[Any], ...]:
    """The clauses that modules define, in order of definition; `modules` are their namespaces."""
    members = ((module["__name__"], member) for module in modules for member in module.values())
    return tuple(member for name, member in members if isinstance(member, Clause) and member.__module__ == name)


def holds(condition: bool | np.bool_ | NDArray[np.bool_] | Tensor, problem: str) -> None:
    """Raises BreachError if `condition` is False, or not True everywhere.

    Args:
        condition: required by the contract.
        problem: description of the violation, with the values.
    """
    if not (condition if isinstance(condition, bool) else condition.all()):
        raise BreachError(problem)


def existing(value: Answer | None, problem: str) -> Answer:
    """The value; raises BreachError if it is None."""
    if value is None:
        raise BreachError(problem)
    return value


def equal(first: Values | Named, second: Values | Named, problem: str, *, within: float = 0.0) -> None:
    """Raises BreachError if two arrays differ, or two mappings of arrays; NaN differs from everything.

    Args:
        first: any array or tensor, or a mapping of these.
        second: the same shape or names.
        problem: meaning of a difference.
        within: largest difference, relative to the largest magnitude in either.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        holds(set(first) == set(second), f"{problem} (names {sorted(first)} and {sorted(second)})")
        for name in first:
            equal(first[name], second[name], f"{problem}: {name!r}", within=within)
        return
    assert not isinstance(first, Mapping)
    assert not isinstance(second, Mapping)
    a, b = as_float(first), as_float(second)
    holds(a.shape == b.shape, f"{problem} (shapes {a.shape} and {b.shape})")
    gap = difference(a, b)
    holds(gap <= within, f"{problem} (relative difference {gap:.3g}, allowed {within:.3g})")


def candidate_orders(num: int) -> Iterator[tuple[list[int], str]]:
    """Choices of N candidates whose results must be those of all candidates, with the meaning of a difference."""
    for number in range(num):
        yield [number], f"candidate {number} alone differs from its result in the batch"
    yield [*range(1, num), 0], "another order of candidates changes their results"
    yield [0] * num, "identical candidates give different results"


def has_shape(what: str, value: Values, expected: tuple[int, ...]) -> None:
    """Raises BreachError if an array has another shape, or is not finite."""
    shape = tuple(np.shape(value))
    holds(shape == expected, f"{what} has shape {shape}, expected {expected}")
    holds(bool(np.isfinite(as_float(value)).all()), f"{what} is not finite")


def inside_bounds(signal: Signal, value: Values, what: str = "") -> None:
    """Raises BreachError if values of a signal are outside its bounds, by more than a rounding error."""
    values, low, high = as_float(value), np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
    inside = difference(values, np.clip(values, low, high)) <= 1e-6
    holds(inside, f"{what}{signal.name!r} is outside {signal.low} to {signal.high}")


def accepts(what: str, ask: Callable[[], Answer]) -> Answer:
    """The result of `ask`; raises BreachError if it raises InputError.

    Args:
        what: description of the valid call.
        ask: makes the call.
    """
    try:
        return ask()
    except InputError as refusal:
        raise BreachError(f"{what}: expected an answer, got InputError ({refusal})") from refusal


def refusal_of(
    what: str, ask: Callable[[], Answer], expected: type[WorldlineError] = InputError
) -> WorldlineError | Answer:
    """The error of type `expected` that `ask` raises, or its result; other errors of a bad argument are breaches."""
    try:
        return ask()
    except expected as refusal:
        return refusal
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BreachError(f"{what}: expected {expected.__name__}, got {type(error).__name__} ({error})") from error


def refuses(what: str, ask: Callable[[], object], *wanted: Wanted, expected: type[WorldlineError] = InputError) -> None:
    """Raises BreachError unless `ask` raises an error with a complete message.

    Args:
        what: description of the invalid input.
        ask: makes the call.
        wanted: parts of the message, such as the name of the signal, the expected shape and the given one.
        expected: type of the error.
    """
    refusal = refusal_of(what, ask, expected)
    holds(isinstance(refusal, expected), f"{what}: expected {expected.__name__}, got an answer")
    missing = [part for part in wanted if not _says(str(refusal), part)]
    holds(not missing, f"{what}: the message {str(refusal)!r} does not contain {', '.join(map(str, missing))}")


def lacks(what: str, ask: Callable[[], object], *names: str) -> bool:
    """Whether `ask` raised UnsupportedError; raises BreachError if its message is incomplete.

    Args:
        what: description of the call.
        ask: makes the call.
        names: of the ability, or of the head or calibration that provides it. The message must contain one of
            them, and a second sentence that states what provides it.
    """
    try:
        ask()
    except UnsupportedError as refusal:
        text = str(refusal)
        named = any(_says(text, name) for name in names)
        holds(named, f"{what}: the message {text!r} names none of {', '.join(names)}")
        holds(bool(re.search(r"[.:;] +\S", text)), f"{what}: {text!r} does not state what provides it")
        return True
    return False


@contextmanager
def unchanged(*arguments: object) -> Iterator[None]:
    """Raises BreachError if the block changes arrays in `arguments` or the global random state."""
    # NPY002 demands a Generator, but the legacy global state is what this checks.
    before, numpy_state = [snapshot(argument) for argument in arguments], np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=()):
        torch.rand(1)  # reseeding is detected in a perturbed state only
        np.random.random()  # noqa: NPY002
        try:
            state = _random_state()
            yield
            after = _random_state()
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
    for argument, kept in zip(arguments, before, strict=True):
        place = changed_place(kept, snapshot(argument))
        holds(place is None, f"an argument was changed in place: {place} of {type(argument).__name__}")
    problem = "the global random state of torch or NumPy was used; every draw must come from the seed"
    holds(state == after, problem)


def run(subject: str, case: CaseT, clauses: Iterable[Clause[CaseT]]) -> None:
    """Checks all clauses, then raises one AssertionError with all breaches; see `breaches`."""
    broken = breaches(case, clauses)
    if broken:
        raise AssertionError("\n".join([f"{subject} breaks {len(broken)} clause(s) of its contract:", *broken]))


def breaches(case: CaseT, clauses: Iterable[Clause[CaseT]]) -> list[str]:
    """The messages of the broken clauses; empty if all hold.

    Args:
        case: argument of each clause.
        clauses: each is checked. An unexpected error of what is checked breaks a clause, too.
    """
    return [text for _, text in outcomes(case, clauses) if text]


def outcomes(case: CaseT, clauses: Iterable[Clause[CaseT]]) -> Iterator[tuple[str, str]]:
    """The name of each clause, such as "no peek", and the message of its breach; empty if it holds.

    Args:
        case: argument of each clause.
        clauses: as in `breaches`.
    """
    for rule in clauses:
        text = ""
        try:
            rule(case)
        except AssertionError as breach:
            text = str(breach)
        yield rule.__name__.replace("_", " "), text


def as_float(values: Values) -> NDArray[np.float64]:
    """A float64 array of the same shape."""
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def difference(first: Values, second: Values) -> float:
    """The largest difference relative to the largest finite magnitude; infinite for NaN or one infinite value."""
    a, b = as_float(first), as_float(second)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    magnitude = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    share = float(gap.max(initial=0.0) / magnitude.max(initial=1e-12))
    return share if np.isfinite(share) else float("inf")


def map_arrays(value: Nested, function: Callable[[Any], Any]) -> Nested:
    """`value` with `function` applied to all arrays and tensors in its mappings and dataclasses."""
    mapped: Any = value
    if isinstance(value, (Tensor, np.ndarray)):
        mapped = function(value)
    elif isinstance(value, Mapping):
        mapped = {name: map_arrays(inner, function) for name, inner in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        mapped = replace(value, **{item.name: map_arrays(vars(value)[item.name], function) for item in fields(value)})
    return cast(Nested, mapped)


def without(arrays: Arrays, name: str) -> Arrays:
    """The arrays except the one with this name."""
    return {other: value for other, value in arrays.items() if other != name}


def snapshot(value: object) -> dict[str, object]:
    """Copies of all values in mappings, sequences and dataclasses, by place, such as "observations.camera"."""
    if isinstance(value, (Tensor, np.ndarray, float)):
        return {"": (as_float(value) if isinstance(value, Tensor) else np.asarray(value)).tobytes()}
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: vars(value)[item.name] for item in fields(value)}
    elif isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {"": value}
    parts = {name: snapshot(part) for name, part in value.items()}
    return {f"{name}.{place}".rstrip("."): copy for name, part in parts.items() for place, copy in part.items()}


def changed_place(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    """The first place where two snapshots differ, such as "observations.camera"; None if they are equal."""
    if set(before) != set(after):
        return f"the names ({sorted(before)} became {sorted(after)})"
    return next((place for place, value in before.items() if value != after[place]), None)


def _says(text: str, wanted: Wanted) -> bool:
    """Whether a message contains a word (any case), a number, or every size of a shape."""
    if isinstance(wanted, str):
        return wanted.lower() in text.lower()
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]
    if isinstance(wanted, tuple):
        return all(size in numbers for size in wanted)
    return any(abs(number - wanted) <= 1e-3 * max(1.0, abs(wanted)) for number in numbers)


def _random_state() -> tuple[bytes, str]:
    """State of the global generators, except `random`: runtime type checkers draw from it."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), repr(legacy)
