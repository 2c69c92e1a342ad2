"""Requirements on values, results and errors: each function raises `BreachError` if the contract is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldline.errors import InputError, UnsupportedError, WorldlineError
from worldline.schema import Signal

Answer = TypeVar("Answer")

Floats = NDArray[np.floating]


class BreachError(AssertionError):
    """A violation of the clause that is checked. The text describes it, with the values."""


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
    holds(value is not None, problem)
    return cast(Answer, value)


def equal(first: Any, second: Any, problem: str, *, within: float = 0.0) -> None:
    """Raises BreachError if two arrays differ, or two mappings of arrays; NaN differs from everything.

    Args:
        first: any array or tensor, or a mapping of these.
        second: the same shape or names.
        problem: meaning of a difference.
        within: largest difference, relative to the largest magnitude in either.
    """
    if isinstance(first, Mapping):
        holds(set(first) == set(second), f"{problem} (names {sorted(first)} and {sorted(second)})")
        for name in first:
            equal(first[name], second[name], f"{problem}: {name!r}", within=within)
        return
    holds(np.shape(first) == np.shape(second), f"{problem} (shapes {np.shape(first)} and {np.shape(second)})")
    gap = difference(first, second)
    holds(gap <= within, f"{problem} (relative difference {gap:.3g}, allowed {within:.3g})")


def has_shape(what: str, value: Any, expected: tuple[int, ...]) -> None:
    """Raises BreachError if an array has another shape, or is not finite."""
    shape = tuple(np.shape(value))
    holds(shape == expected, f"{what} has shape {shape}, expected {expected}")
    holds(np.isfinite(as_float(value)), f"{what} is not finite")


def inside_bounds(signal: Signal, value: Any, what: str = "") -> None:
    """Raises BreachError if values of a signal are outside its bounds, by more than a rounding error."""
    values, low, high = as_float(value), np.asarray(signal.low or -np.inf), np.asarray(signal.high or np.inf)
    inside = difference(values, np.clip(values, low, high)) <= 1e-6
    holds(inside, f"{what}{signal.name!r} is outside {signal.low} to {signal.high}")


def accepts(what: str, ask: Callable[[], Answer]) -> Answer:
    """The result of a valid call; raises BreachError if it raises InputError."""
    try:
        return ask()
    except InputError as refusal:
        raise BreachError(f"{what}: expected an answer, got InputError ({refusal})") from refusal


def refuses(
    what: str, ask: Callable[[], object], *wanted: str | float, expected: type[WorldlineError] = InputError
) -> None:
    """Raises BreachError unless `ask` raises an error with a complete message.

    Args:
        what: description of the invalid input.
        ask: makes the call.
        wanted: words and numbers of the message, such as the name of the signal, the sizes of the expected shape and
            of the given one.
        expected: type of the error.
    """
    refusal = refusal_of(what, ask, expected)
    holds(isinstance(refusal, expected), f"{what}: expected {expected.__name__}, got an answer")
    missing = [part for part in wanted if not _says(str(refusal), part)]
    holds(not missing, f"{what}: the message {str(refusal)!r} does not contain {', '.join(map(str, missing))}")


def refusal_of(what: str, ask: Callable[[], object], expected: type[WorldlineError] = InputError) -> Any:
    """The error of type `expected` that `ask` raises, or its result; other errors of a bad argument are breaches."""
    try:
        return ask()
    except expected as refusal:
        return refusal
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BreachError(f"{what}: expected {expected.__name__}, got {type(error).__name__} ({error})") from error


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
    named = {f"argument {number} ({type(value).__name__})": value for number, value in enumerate(arguments)}

    def state() -> Mapping[str, object]:
        # Runtime type checkers draw from `random`, so it is not compared.
        draws = (torch.get_rng_state(), repr(np.random.get_state(legacy=False)))  # noqa: NPY002  # code must not change this global state
        return snapshot({**named, "the global random state": draws})

    numpy_state = np.random.get_state()  # noqa: NPY002  # code must not change this global state
    with torch.random.fork_rng(devices=()):
        torch.rand(1)  # reseeding is detected in a perturbed state only
        np.random.random()  # noqa: NPY002  # an answer must not depend on this global state
        try:
            before = state()
            yield
            after = state()
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002  # the caller gets its global state back
    same_snapshots(before, after, "a call changed an argument in place, or drew without the seed")


def as_float(values: Any) -> NDArray[np.float64]:
    """A float64 array of the same shape."""
    return np.asarray(values.detach().cpu().double() if isinstance(values, Tensor) else values, dtype=np.float64)


def difference(first: Any, second: Any) -> float:
    """The largest difference relative to the largest finite magnitude; infinite for NaN or one infinite value."""
    a, b = as_float(first), as_float(second)
    with np.errstate(invalid="ignore"):
        gap = np.where(a == b, 0.0, np.abs(a - b))
    magnitude = np.where(np.isfinite(a) & np.isfinite(b), np.maximum(np.abs(a), np.abs(b)), 0.0)
    share = float(gap.max(initial=0.0) / magnitude.max(initial=1e-12))
    return share if np.isfinite(share) else float("inf")


def map_arrays(value: Answer, function: Callable[[Any], Any]) -> Answer:
    """`value` with `function` applied to all arrays and tensors in its mappings and dataclasses."""
    mapped: Any = value
    if isinstance(value, (Tensor, np.ndarray)):
        mapped = function(value)
    elif isinstance(value, Mapping):
        mapped = {name: map_arrays(inner, function) for name, inner in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        mapped = replace(value, **{item.name: map_arrays(vars(value)[item.name], function) for item in fields(value)})
    return cast(Answer, mapped)


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


def same_snapshots(before: Mapping[str, object], after: Mapping[str, object], problem: str) -> None:
    """Raises BreachError with the first place where two snapshots differ, such as "observations.camera"."""
    holds(set(before) == set(after), f"{problem}: the names {sorted(before)} became {sorted(after)}")
    place = next((place for place, value in before.items() if value != after[place]), None)
    holds(place is None, f"{problem}: {place} differs")


def _says(text: str, wanted: str | float) -> bool:
    """Whether a message contains a word (any case) or a number."""
    if isinstance(wanted, str):
        return wanted.lower() in text.lower()
    numbers = map(float, re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text))
    return any(abs(number - wanted) <= 1e-3 * max(1.0, abs(wanted)) for number in numbers)
