"""Inference of a schema from logged arrays, with a list of the assumptions made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import CONVENTION
from worldline.data.role_names import RoleGuess, role_of_input, role_of_name
from worldline.data.roles import Behaviour, ColumnGuess
from worldline.errors import ConfigError, DataError
from worldline.schema import Kind, Role, Schema, Signal

MAX_VALUES = 256
"""Integer signals with larger values are vectors, not discrete signals."""
FOREIGN_ENDS = ("done", "dones", "terminal", "terminals", "timeout", "timeouts")
"""End flags of other tools, which do not distinguish terminated from truncated."""
NO_ACTION = "No column has the name of an action."
NO_UNITS = "Units are not in the logs: every unit is '?'. Write them into schema.json."


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The properties of one array of one episode that inference needs.

    Args:
        shape: with time as first axis.
        dtype: of the file.
        low: smallest value of each component (or of the scalar); empty if no value is known.
        high: largest value of each component; empty if no value is known.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def num_rows(self) -> int:
        """Length of the first axis; 0 of a single value."""
        return self.shape[0] if self.shape else 0


def summarise(values: NDArray[np.generic]) -> Summary:
    """The summary of an array with time as first axis. Only finite rows count; the values of images are not read."""
    summary = Summary(shape=values.shape, dtype=values.dtype)
    if values.ndim == 0 or (values.dtype == np.uint8 and values.ndim in (3, 4)):
        return summary
    table = np.asarray(values).reshape(values.shape[0], math.prod(values.shape[1:])).astype(np.float64, copy=False)
    finite = np.isfinite(table).all(1)
    if not finite.any():
        return summary
    table = table if finite.all() else table[finite]
    return replace(summary, low=tuple(table.min(0).tolist()), high=tuple(table.max(0).tolist()))


class SchemaDraft:
    """The signals that were inferred so far, and the assumptions made.

    Args:
        file: of the logs, for errors.
        unclear: the first assumptions.
    """

    def __init__(self, file: Path | str | None = None, unclear: Sequence[str] = (NO_UNITS,)) -> None:
        self._file, self._signals = file, list[Signal]()
        self.unclear = dict.fromkeys(unclear)
        self.columns = list[ColumnGuess]()

    def note(self, *sentences: str) -> None:
        """Adds assumptions, once each."""
        self.unclear |= dict.fromkeys(sentences)

    def add(self, signal: Signal, doubts: Iterable[str] = ()) -> None:
        """Adds a signal.

        Args:
            signal: with a new name.
            doubts: assumptions, as sentences without a subject; empty ones are skipped.
        """
        self._signals.append(signal)
        self.note(*(f"{signal.name}: {doubt}" for doubt in doubts if doubt))

    def add_guess(
        self,
        signal: Signal,
        guess: RoleGuess,
        seen: Sequence[Summary] = (),
        doubts: Iterable[str] = (),
        behaviour: Behaviour | None = None,
    ) -> None:
        """Adds a signal with a guessed role, or proposes to leave it out.

        Args:
            signal: with the guessed role; with any role if it is left out.
            guess: of the role.
            seen: summaries of its values.
            doubts: as in `add`; none are kept of a signal that is left out.
            behaviour: of its values.
        """
        is_signal, (low, high) = guess.role is not None, _range(seen)
        if is_signal:
            self.add(signal, doubts)
        else:
            self.note(f"{signal.name}: left out, because {guess.reason}.")
        column = ColumnGuess(name=signal.name, guess=guess, signal=signal, low=low, high=high, behaviour=behaviour)
        self.columns.append(column if is_signal else replace(column, is_signal=False))

    def leave_out(self, name: str, reason: str, *, is_noted: bool = True) -> None:
        """Records a column that cannot be a signal.

        Args:
            name: of the column.
            reason: as in `RoleGuess`.
            is_noted: whether it is among the assumptions.
        """
        if is_noted:
            self.note(f"{name}: left out, because {reason}.")
        self.columns.append(ColumnGuess(name=name, guess=RoleGuess(role=None, reason=reason), is_signal=False))

    def infer(self, name: str, role: Role, seen: Sequence[Summary]) -> tuple[Signal, list[str]]:
        """As `infer_signal`.

        Raises:
            DataError: the array cannot be a signal.
        """
        try:
            return infer_signal(name, role, seen)
        except ConfigError as error:
            problem = f"it cannot be a signal ({error})"
            raise DataError(problem, fix="Rename it.", file=self._file, signal=name) from error

    def usual_step(self, name: str, gaps: NDArray[np.float64]) -> float:
        """Returns the median step duration, and notes that an array holds the times.

        Args:
            name: of the array.
            gaps: [steps] seconds.
        """
        usual = float(np.median(gaps))
        self.note(f"{name}: read as seconds; gives the step duration and is not stored as a signal.")
        if np.abs(gaps - usual).max() > 0.01 * abs(usual):
            self.note(f"{name}: step durations vary by more than 1 %, so each step keeps its duration.")
        return usual

    def lacks(self, role: Role) -> bool:
        """Whether no signal has this role."""
        return not any(signal.role is role for signal in self._signals)

    def result(self, step_s: float | None = None) -> tuple[Schema, list[str]]:
        """Returns the schema, with signals in the order of their roles, and the assumptions as full sentences."""
        order = list(Role)
        signals = sorted(self._signals, key=lambda signal: order.index(signal.role))
        return Schema(signals=tuple(signals), step_s=step_s), list(self.unclear)


def infer_schema(
    episodes: Mapping[str, Mapping[str, Summary]], step_s: float | None, draft: SchemaDraft, roles: Mapping[str, Role]
) -> tuple[Schema, list[str]]:
    """The schema that most episodes agree with, and assumptions that the arrays do not confirm, as full sentences.

    Roles that the logs do not give follow from lengths and names. Arrays of T+1 rows are observations. Arrays of T rows
    are actions, unless their name suggests a reward or an exogenous signal. Kinds follow from dtype and dimensions.
    Bounds of actions are the logged range.

    Args:
        episodes: per file, per array; without masks, end flags, seeds and times. At least one.
        step_s: seconds per step; None if unknown.
        draft: without signals; its assumptions are kept.
        roles: those that the logs give.

    Raises:
        DataError: roles are missing, and no episode has arrays of T+1 and T rows.
    """
    names = dict.fromkeys(name for arrays in episodes.values() for name in arrays)
    is_complete = bool(names) and roles.keys() >= names.keys()
    usable = [arrays for arrays in episodes.values() if is_complete or _has_two_lengths(arrays)]
    if not usable:
        raise _no_lengths(*next(iter(episodes.items())))
    if step_s is None:
        draft.note("The time between two steps is not in the logs (no array is called time): step_s is left empty.")
    for name in names:
        if name.lower() in FOREIGN_ENDS:
            draft.note(f"{name}: looks like an end flag and is left out; save `terminated` and `truncated` instead.")
            continue
        holders = [arrays for arrays in usable if name in arrays]
        if is_rare(len(holders), len(usable)):
            if holders:
                draft.note(f"{name}: left out, because only {len(holders)} of {len(usable)} files hold it.")
            continue
        guess, role, doubt = _role(name, holders, roles.get(name))
        seen = [arrays[name] for arrays in holders]
        signal, doubts = draft.infer(name, role, seen)
        draft.add_guess(signal, guess, seen, [doubt, *doubts])
    return draft.result(step_s)


def _role(name: str, holders: Sequence[Mapping[str, Summary]], role: Role | None) -> tuple[RoleGuess, Role, str]:
    """The guess, the role of the signal even if the guess is to leave it out, and the assumption, or ""."""
    if role is not None:
        return RoleGuess(role=role, reason="its role in the logs"), role, ""
    longer = 2 * sum(arrays[name].num_rows > _num_steps(arrays) for arrays in holders) > len(holders)
    role, doubt = (Role.OBSERVATION, "") if longer else role_of_input(name)
    guess = RoleGuess(role=role, reason=f"it has {'T+1' if longer else 'T'} rows", sure=not doubt)
    named = role_of_name(name)
    if named is not None and named.role is None:
        guess = named
    elif named is not None and not longer and named.role is role:
        guess = replace(guess, reason=f"{guess.reason}, and {named.reason}")
    return guess, role, doubt


def is_rare(count: int, num_files: int) -> bool:
    """Whether too few files hold a signal: less than half, or only one of several."""
    return 2 * count < num_files or count == 1 < num_files


def _range(seen: Sequence[Summary]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The smallest and the largest value of each component; empty if unknown or if shapes differ."""
    known = [summary for summary in seen if summary.low]
    if len({len(summary.low) for summary in known}) != 1:
        return (), ()
    low, high = np.min([summary.low for summary in known], 0), np.max([summary.high for summary in known], 0)
    return tuple(low.tolist()), tuple(high.tolist())


def _num_steps(arrays: Mapping[str, Summary]) -> int:
    return min(summary.num_rows for summary in arrays.values())


def _has_two_lengths(arrays: Mapping[str, Summary]) -> bool:
    """Whether every array has T+1 or T rows and both lengths occur, with T at least 1."""
    lengths = sorted({summary.num_rows for summary in arrays.values()})
    return len(lengths) == 2 and lengths[0] >= 1 and lengths[1] == lengths[0] + 1


def _no_lengths(file: str, arrays: Mapping[str, Summary]) -> DataError:
    if not arrays:
        return DataError("the file holds no array of a signal", fix="Save one array for each signal.", file=file)
    listed = ", ".join(f"{name} has {summary.num_rows}" for name, summary in arrays.items())
    fix = "Add the last observation or drop the last action; repeat constants for each step, or add a schema.json."
    problem = f"the arrays do not have T+1 and T rows ({listed}), so observations cannot be distinguished from actions"
    return DataError(f"{problem}: {CONVENTION}", fix=fix, file=file)


def infer_signal(name: str, role: Role, seen: Sequence[Summary]) -> tuple[Signal, list[str]]:
    """The signal that most of the summaries agree with, and the assumptions made, as sentences without a subject.

    Args:
        name: of the signal.
        role: of the signal.
        seen: one summary per episode, at least one. Those without a known value count only if there is no other.
    """
    seen = [summary for summary in seen if summary.low] or seen
    (shape, dtype), _ = Counter((summary.shape[1:], summary.dtype) for summary in seen).most_common(1)[0]
    if dtype == np.uint8 and len(shape) in (2, 3):
        doubts = [f"assumed to be a grey image of {shape[0]} by {shape[1]} pixels."] if len(shape) == 2 else []
        if len(shape) == 3 and shape[2] not in (1, 3, 4):
            doubts.append(f"assumed to be an image with {shape[2]} channels; channels come last.")
        return Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*shape, 1)[:3], unit="1"), doubts
    low, high = _range([summary for summary in seen if (summary.shape[1:], summary.dtype) == (shape, dtype)])
    is_integer = dtype.kind in "iub"
    if is_integer and not shape and low and low[0] >= 0 and high[0] < MAX_VALUES:
        num_values = max(int(high[0]) + 1, 2)
        doubt = f"assumed to be discrete with {num_values} values; the largest logged value is {int(high[0])}."
        return Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=num_values), [doubt]
    doubts = ["its integers are assumed to be measured numbers."] if is_integer else []
    doubts += [f"its shape {shape} is flattened to one vector."] if len(shape) > 1 else []
    size, is_wide = max(1, math.prod(shape)), dtype == np.float64 or (is_integer and dtype.itemsize > 2)
    signal = Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), unit="?")
    signal = replace(signal, precision="float64") if is_wide else signal
    if role is Role.ACTION and low:
        signal = replace(signal, low=low, high=high)
        doubts.append("its bounds are the logged range; widen them if the actuator allows more.")
    return signal, doubts
