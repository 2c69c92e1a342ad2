"""Clauses of a contract: checks, messages of failed clauses, and comparison of results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError

Case = TypeVar("Case")
Answer = TypeVar("Answer")

Values = NDArray[np.generic] | Tensor | float | np.number

Wanted = str | float | tuple[int, ...]
"""A word, a number or a shape that a message must contain."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One clause of a contract.

    Args:
        name: such as "engine.no_peek"; every message starts with it.
        look: the place in the contract, and the probable place of the error.
    """

    name: str
    look: str

    def holds(self, condition: bool | np.bool_, problem: str) -> None:
        """Raises AssertionError if `condition` is False.

        Args:
            condition: required by the contract.
            problem: description of the violation, with the values.
        """
        if not condition:
            raise self._breach(problem)

    def equal(self, first: Values, second: Values, *, within: float, problem: str) -> None:
        """Raises AssertionError if two arrays differ; NaN differs from everything.

        Args:
            first: any array or tensor.
            second: the same shape.
            within: largest difference, relative to the largest magnitude in either.
            problem: meaning of a difference.
        """
        a, b = as_float(first), as_float(second)
        self.holds(a.shape == b.shape, f"{problem} (shapes {a.shape} and {b.shape})")
        found = difference(a, b)
        self.holds(found <= within, f"{problem} (relative difference {found:.3g}, allowed {within:.3g})")

    def all_equal(self, first: Arrays, second: Arrays, *, within: float, problem: str) -> None:
        """`equal` for all arrays; the names must be equal too."""
        self.holds(set(first) == set(second), f"{problem} (names {sorted(first)} and {sorted(second)})")
        for name in first:
            self.equal(first[name], second[name], within=within, problem=f"{problem}, signal {name!r}")

    def accepts(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """The result of `ask`; raises AssertionError if it raises InputError.

        Args:
            what: description of the valid call.
            ask: makes the call.
        """
        try:
            return ask()
        except InputError as refusal:
            raise self._breach(f"{what}: expected an answer, got InputError ({refusal})") from refusal

    def refuses(self, what: str, ask: Callable[[], object], *wanted: Wanted) -> None:
        """Raises AssertionError unless `ask` raises InputError with a complete message.

        Args:
            what: description of the invalid input.
            ask: makes the call.
            wanted: parts of the message, such as the name of the signal, the expected shape and the given one.
        """
        try:
            ask()
        except InputError as refusal:
            self.says(what, str(refusal), *wanted)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._breach(f"{what}: expected InputError, got {type(error).__name__} ({error})") from error
        else:
            raise self._breach(f"{what}: expected InputError, got an answer")

    def lacks(self, what: str, ask: Callable[[], object], *names: str) -> bool:
        """Whether `ask` raised UnsupportedError; raises AssertionError if its message is incomplete.

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
            self.holds(named, f"{what}: the message {text!r} names none of {', '.join(names)}")
            self.holds(bool(re.search(r"[.:;] +\S", text)), f"{what}: {text!r} does not state what provides it")
            return True
        return False

    def says(self, what: str, text: str, *wanted: Wanted) -> None:
        """Raises AssertionError if the message `text` lacks one of the wanted parts."""
        missing = [each for each in wanted if not _says(text, each)]
        self.holds(not missing, f"{what}: the message {text!r} does not contain {', '.join(map(str, missing))}")

    def _breach(self, problem: str) -> AssertionError:
        return AssertionError(f"[{self.name}] {problem}. Look at: {self.look}.")

    @contextmanager
    def unchanged(self, *arguments: object) -> Iterator[None]:
        """Raises AssertionError if the block changes arrays in `arguments` or the global random state."""
        before = [snapshot(argument) for argument in arguments]
        with _own_random_state() as state:
            yield
            after = _random_state()
        for argument, kept in zip(arguments, before, strict=True):
            place = changed_place(kept, snapshot(argument))
            self.holds(place is None, f"an argument was changed in place: {place} of {type(argument).__name__}")
        problem = "the global random state of torch or NumPy was used; every draw must come from the seed"
        self.holds(state == after, problem)


def run(subject: str, case: Case, clauses: Iterable[Callable[[Case], None]]) -> None:
    """Checks all clauses, then raises one AssertionError with all breaches; see `breaches`."""
    broken = breaches(subject, case, clauses)
    if broken:
        raise AssertionError("\n".join([f"{subject} breaks {len(broken)} clause(s) of its contract:", *broken]))


def breaches(subject: str, case: Case, clauses: Iterable[Callable[[Case], None]]) -> list[str]:
    """The messages of the broken clauses; empty if all hold.

    Args:
        subject: name of the checked object.
        case: argument of each clause.
        clauses: each raises AssertionError if it is broken. Any other exception is a crash of the subject. It
            propagates with a note that names the clause.
    """
    broken = []
    for clause in clauses:
        try:
            clause(case)
        except AssertionError as breach:
            broken.append(str(breach))
        except Exception as crash:
            crash.add_note(f"while checking the clause {clause.__name__} of {subject}")
            raise
    return broken


class ClauseStatus(StrEnum):
    """Result of the check of a clause."""

    HOLDS = "holds"
    BROKEN = "BROKEN"
    ERROR = "ERROR"


@dataclass(frozen=True, kw_only=True)
class ClauseOutcome:
    """Result of the check of one clause.

    Args:
        clause: its name, such as "no peek".
        verdict: holds, broken, or error (neither).
        text: message of the breach or error; empty if the clause holds.
    """

    clause: str
    verdict: ClauseStatus
    text: str = ""


def outcomes(case: Case, clauses: Iterable[Callable[[Case], None]]) -> Iterator[ClauseOutcome]:
    """The outcome of each clause; an error in one does not end the check.

    Args:
        case: argument of each clause.
        clauses: as in `breaches`.
    """
    for clause in clauses:
        name = clause.__name__.replace("_", " ")
        with _Caught() as caught:
            clause(case)
        error = caught.error
        if error is None:
            yield ClauseOutcome(clause=name, verdict=ClauseStatus.HOLDS)
        elif isinstance(error, AssertionError):
            yield ClauseOutcome(clause=name, verdict=ClauseStatus.BROKEN, text=str(error))
        else:
            yield ClauseOutcome(
                clause=name, verdict=ClauseStatus.ERROR, text=f"[{name}] {type(error).__name__}: {error}"
            )


class _Caught:
    """Catches and keeps any exception of its block, except interrupts."""

    error: Exception | None = None

    def __enter__(self) -> _Caught:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def as_float(values: Values) -> NDArray[np.float64]:
    """A float64 array of the same shape."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def difference(first: Values, second: Values) -> float:
    """The largest difference relative to the largest finite magnitude; infinite for NaN or one infinite value."""
    a, b = as_float(first), as_float(second)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    magnitude = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    found = float(gap.max(initial=0.0) / magnitude.max(initial=1e-12))
    return found if np.isfinite(found) else float("inf")


def snapshot(value: object) -> object:
    """A copy of `value` with all arrays in its mappings, sequences and dataclasses copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {name: snapshot(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: snapshot(vars(value)[item.name]) for item in fields(value)}
    return value


def changed_place(before: object, after: object) -> str | None:
    """The first place where two snapshots differ, such as "observations.camera"; None if they are equal."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        if set(before) != set(after):
            return f"the names ({sorted(before)} became {sorted(after)})"
        places = ((name, changed_place(before[name], after[name])) for name in before)
        return next((f"{name}.{place}".rstrip(".") for name, place in places if place is not None), None)
    if isinstance(before, list) and isinstance(after, list):
        places = ((number, changed_place(*pair)) for number, pair in enumerate(zip(before, after, strict=True)))
        return next((f"{number}.{place}".rstrip(".") for number, place in places if place is not None), None)
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return None if torch.equal(before.nan_to_num(), after.nan_to_num()) else ""
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        return None if before.tobytes() == after.tobytes() else ""
    if isinstance(before, float) and isinstance(after, float) and np.isnan(before) and np.isnan(after):
        return None
    return None if before == after else ""


def _says(text: str, wanted: Wanted) -> bool:
    """Whether a message contains a word (any case), a number, or every size of a shape."""
    if isinstance(wanted, str):
        return wanted.lower() in text.lower()
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]
    if isinstance(wanted, tuple):
        return all(size in numbers for size in wanted)
    return any(abs(number - wanted) <= 1e-3 * max(1.0, abs(wanted)) for number in numbers)


@contextmanager
def _own_random_state() -> Iterator[object]:
    """Perturbs the global random state for the block, so that reseeding is detected; restores it afterwards."""
    kept = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.rand(1)
    np.random.random()  # noqa: NPY002
    try:
        yield _random_state()
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def _random_state() -> tuple[bytes, str]:
    """State of the global generators, except `random`: runtime type checkers draw from it."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), repr(legacy)
