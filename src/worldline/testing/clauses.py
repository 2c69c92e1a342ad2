"""How a clause of a contract is checked: what it says when it is broken, and what counts as equal."""

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
"""What a message must say: a word, a number, or a shape."""


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One clause of a contract.

    Args:
        name: such as "engine.no_peek"; every message of the clause opens with it.
        look: where in the contract it stands, and where the fault is likely to be.
    """

    name: str
    look: str

    def holds(self, condition: bool | np.bool_, seen: str) -> None:
        """Raises AssertionError where `condition` is False.

        Args:
            condition: what the contract demands.
            seen: what was seen instead.
        """
        if not condition:
            raise self._breach(seen)

    def equal(self, first: Values, second: Values, *, within: float, seen: str) -> None:
        """Raises AssertionError where two arrays differ; NaN differs from everything.

        Args:
            first: any array or tensor.
            second: the same shape.
            within: largest difference, as a share of the largest magnitude in either.
            seen: what it means if they differ.
        """
        a, b = as_float(first), as_float(second)
        self.holds(a.shape == b.shape, f"{seen} (shapes {a.shape} and {b.shape})")
        found = difference(a, b)
        self.holds(found <= within, f"{seen} (they differ by {found:.3g} of their magnitude, allowed {within:.3g})")

    def all_equal(self, first: Arrays, second: Arrays, *, within: float, seen: str) -> None:
        """`equal` for every named array; the names must be the same."""
        self.holds(set(first) == set(second), f"{seen} (names {sorted(first)} and {sorted(second)})")
        for name in first:
            self.equal(first[name], second[name], within=within, seen=f"{seen}, signal {name!r}")

    def accepts(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives; raises AssertionError where it raises InputError.

        Args:
            what: is asked, and must be answered.
            ask: asks it.
        """
        try:
            return ask()
        except InputError as refusal:
            raise self._breach(f"{what}: InputError ({refusal}) where an answer is due") from refusal

    def refuses(self, what: str, ask: Callable[[], object], *wanted: Wanted) -> None:
        """Raises AssertionError unless `ask` raises InputError, and its message says all that is wanted.

        Args:
            what: is wrong with what is asked.
            ask: asks it.
            wanted: what the message must say, such as the signal's name, the shape that is due and the one that came.
        """
        try:
            ask()
        except InputError as refusal:
            self.says(what, str(refusal), *wanted)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._breach(f"{what}: {type(error).__name__} ({error}) where InputError is due") from error
        else:
            raise self._breach(f"{what}, and no InputError")

    def lacks(self, what: str, ask: Callable[[], object], *names: str) -> bool:
        """Whether `ask` was refused with UnsupportedError.

        Raises AssertionError where the refusal does not name what is missing, or does not say what provides it.

        Args:
            what: is asked.
            ask: asks it.
            names: of the ability, or of the head or the calibration that provides it; the message holds one of them,
                and has a sentence after the one that says what is wrong.
        """
        try:
            ask()
        except UnsupportedError as refusal:
            text = str(refusal)
            named = any(_says(text, name) for name in names)
            self.holds(named, f"{what}: the refusal {text!r} names none of {', '.join(names)}")
            self.holds(
                bool(re.search(r"[.:;] +\S", text)), f"{what}: the refusal {text!r} does not say what provides it"
            )
            return True
        return False

    def says(self, what: str, text: str, *wanted: Wanted) -> None:
        """Raises AssertionError where the message `text` does not say all that is wanted."""
        left_out = [each for each in wanted if not _says(text, each)]
        self.holds(not left_out, f"{what}: the message {text!r} does not say {', '.join(map(str, left_out))}")

    def _breach(self, seen: str) -> AssertionError:
        return AssertionError(f"[{self.name}] {seen}. Look at: {self.look}.")

    @contextmanager
    def unchanged(self, *arguments: object) -> Iterator[None]:
        """Raises AssertionError where the block changed the arrays in `arguments` or the global random state."""
        before = [snapshot(argument) for argument in arguments]
        with _own_random_state() as state:
            yield
            after = _random_state()
        for argument, kept in zip(arguments, before, strict=True):
            place = changed_place(kept, snapshot(argument))
            self.holds(place is None, f"an argument was changed in place: {place} of {type(argument).__name__}")
        seen = "the global random state of torch or NumPy was used, though every draw must come from the seed"
        self.holds(state == after, seen)


def run(subject: str, case: Case, clauses: Iterable[Callable[[Case], None]]) -> None:
    """Checks every clause, then raises one AssertionError that lists all that are broken; see `breaches`."""
    broken = breaches(subject, case, clauses)
    if broken:
        raise AssertionError("\n".join([f"{subject} breaks {len(broken)} clause(s) of its contract:", *broken]))


def breaches(subject: str, case: Case, clauses: Iterable[Callable[[Case], None]]) -> list[str]:
    """What each broken clause says; empty where the contract is kept.

    Args:
        subject: what is checked, for the message.
        case: given to each clause.
        clauses: each raises AssertionError where it is broken. Any other exception is a crash of the subject; it
            passes through with a note that names the clause.
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
    """What became of a clause."""

    HOLDS = "holds"
    BROKEN = "BROKEN"
    ERROR = "ERROR"


@dataclass(frozen=True, kw_only=True)
class ClauseOutcome:
    """What a check of a clause showed.

    Args:
        clause: its name, such as "no peek".
        verdict: whether it holds; an error is neither.
        text: what was seen, or what the error says; empty where it holds.
    """

    clause: str
    verdict: ClauseStatus
    text: str = ""


def outcomes(case: Case, clauses: Iterable[Callable[[Case], None]]) -> Iterator[ClauseOutcome]:
    """What became of each clause; an error in one does not hide the others.

    Args:
        case: given to each clause.
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
    """Keeps whatever exception its block raises, which then goes on after it; interrupts pass."""

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
    """The largest difference as a share of the largest finite magnitude; infinite where only one is, or is NaN."""
    a, b = as_float(first), as_float(second)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    magnitude = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    found = float(gap.max(initial=0.0) / magnitude.max(initial=1e-12))
    return found if np.isfinite(found) else float("inf")


def snapshot(value: object) -> object:
    """A copy of every array inside `value`, through mappings, sequences and dataclasses."""
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
    """Where two snapshots differ, such as "observations.camera"; None where they are the same."""
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
    """Whether a message holds a word, whatever its case; a number; or every size of a shape."""
    if isinstance(wanted, str):
        return wanted.lower() in text.lower()
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]
    if isinstance(wanted, tuple):
        return all(size in numbers for size in wanted)
    return any(abs(number - wanted) <= 1e-3 * max(1.0, abs(wanted)) for number in numbers)


@contextmanager
def _own_random_state() -> Iterator[object]:
    """The global random state for the block, unlike any that code could set itself; put back afterwards."""
    kept = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    torch.rand(1)
    np.random.random()  # noqa: NPY002
    try:
        yield _random_state()
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def _random_state() -> tuple[bytes, str]:
    """What the global generators would draw next; not that of `random`, which runtime type checkers draw from."""
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), repr(legacy)
