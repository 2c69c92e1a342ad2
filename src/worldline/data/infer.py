"""Inference of a schema from logged arrays, with a list of the assumptions made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import CONVENTION
from worldline.data.role_names import RoleGuess, role_of_input, role_of_name
from worldline.data.roles import Behaviour, ColumnGuess
from worldline.errors import ConfigError, DataError
from worldline.schema import Kind, Role, Schema, Signal

MAX_VALUES = 256
"""Integer signals with larger values are vectors, not discrete signals."""
NO_ACTION = "No column has the name of an action."
_NO_UNITS = "Units are not in the logs: every unit is '?'. Write them into schema.json."


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


def summarise(values: NDArray[np.generic]) -> Summary:
    """The summary of an array with time as first axis. Only finite rows count; the values of images are not read."""
    summary = Summary(shape=values.shape, dtype=values.dtype)
    if values.ndim == 0 or (values.dtype == np.uint8 and values.ndim in (3, 4)):
        return summary
    table = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64, copy=False)
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

    def __init__(self, file: Path | str | None = None, unclear: Sequence[str] = (_NO_UNITS,)) -> None:
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
        if guess.role is None:
            self.note(f"{signal.name}: left out, because {guess.reason}.")
        else:
            self.add(signal, doubts)
        low, high = _range(seen)
        self.columns.append(
            ColumnGuess(
                name=signal.name,
                guess=guess,
                signal=signal,
                low=low,
                high=high,
                behaviour=behaviour,
                is_signal=guess.role is not None,
            )
        )

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
        """As `infer_signal`, without summaries that know no value.

        Raises:
            DataError: the array cannot be a signal.
        """
        known = [summary for summary in seen if summary.low]
        try:
            return infer_signal(name, role, known or seen)
        except ConfigError as error:
            raise DataError(
                f"it cannot be a signal ({error})", fix="Rename it.", file=self._file, signal=name
            ) from error

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
    episodes: Mapping[str, Mapping[str, Summary]], step_s: float | None, draft: SchemaDraft | None = None
) -> tuple[Schema, list[str]]:
    """The schema that most episodes agree with, and assumptions that the arrays do not confirm, as full sentences.

    Roles follow from lengths and names. Arrays of T+1 rows are observations. Arrays of T rows are actions, unless their
    name suggests a reward or an exogenous signal. Kinds follow from dtype and dimensions. Bounds of actions are the
    logged range.

    Args:
        episodes: per file, per array; without masks, end flags, seeds and times. At least one.
        step_s: seconds per step; None if unknown.
        draft: without signals; its assumptions are kept. None for a new one.

    Raises:
        DataError: no episode has arrays of T+1 and T rows.
    """
    steps = {file: _num_steps(arrays) for file, arrays in episodes.items()}
    usable = [(arrays, num) for file, arrays in episodes.items() if (num := steps[file]) is not None]
    if not usable:
        raise _no_lengths(*next(iter(episodes.items())))
    names = Counter(name for arrays, _ in usable for name in arrays)
    draft = draft or SchemaDraft()
    if step_s is None:
        draft.note("The time between two steps is not in the logs (no array is called time): step_s is left empty.")
    for name, count in names.items():
        if is_rare(count, len(usable)):
            draft.note(f"{name}: left out, because only {count} of {len(usable)} files hold it.")
            continue
        seen = [(arrays[name], num) for arrays, num in usable if name in arrays]
        longer = Counter(summary.shape[0] > num for summary, num in seen).most_common(1)[0][0]
        named = role_of_name(name)
        role, doubt = (Role.OBSERVATION, "") if longer else role_of_input(name)
        guess = RoleGuess(role=role, reason=f"it has {'T+1' if longer else 'T'} rows", sure=not doubt)
        if named is not None and named.role is None:
            guess = named
        elif named is not None and not longer and named.role is role:
            guess = replace(guess, reason=f"{guess.reason}, and {named.reason}")
        summaries = [summary for summary, _ in seen]
        signal, doubts = infer_signal(name, role, summaries)
        draft.add_guess(signal, guess, summaries, [doubt, *doubts])
    return draft.result(step_s)


def is_rare(count: int, num_files: int) -> bool:
    """Whether too few files hold a signal: less than half, or only one of several."""
    return 2 * count < num_files or count == 1 < num_files


def _range(seen: Sequence[Summary]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The smallest and the largest value of each component; empty if unknown or if shapes differ."""
    low, high = [summary.low for summary in seen if summary.low], [summary.high for summary in seen if summary.high]
    if not low or len({len(values) for values in low}) > 1:
        return (), ()
    return tuple(np.min(low, 0).tolist()), tuple(np.max(high, 0).tolist())


def _num_steps(arrays: Mapping[str, Summary]) -> int | None:
    """T if every array has T+1 or T rows and both lengths occur, with T at least 1; else None."""
    lengths = {summary.shape[0] if summary.shape else 0 for summary in arrays.values()}
    fits = len(lengths) == 2 and min(lengths) >= 1 and max(lengths) - min(lengths) == 1
    return min(lengths) if fits else None


def _no_lengths(file: str, arrays: Mapping[str, Summary]) -> DataError:
    if not arrays:
        return DataError("the file holds no array of a signal", fix="Save one array for each signal.", file=file)
    listed = ", ".join(f"{name} has {summary.shape[0] if summary.shape else 0}" for name, summary in arrays.items())
    fix = "Add the last observation or drop the last action; repeat constants for each step, or add a schema.json."
    problem = f"the arrays do not have T+1 and T rows ({listed}), so observations cannot be distinguished from actions"
    return DataError(f"{problem}: {CONVENTION}", fix=fix, file=file)


def infer_signal(name: str, role: Role, seen: Sequence[Summary]) -> tuple[Signal, list[str]]:
    """The signal that most of the summaries agree with, and the assumptions made, as sentences without a subject.

    Args:
        name: of the signal.
        role: of the signal.
        seen: one summary per episode, at least one.
    """
    layout = Counter((summary.shape[1:], summary.dtype) for summary in seen).most_common(1)[0][0]
    shape, dtype = layout
    alike = [summary for summary in seen if (summary.shape[1:], summary.dtype) == layout]
    if dtype == np.uint8 and len(shape) in (2, 3):
        doubts = []
        if len(shape) == 2:
            doubts.append(f"assumed to be a grey image of {shape[0]} by {shape[1]} pixels.")
        elif shape[2] not in (1, 3, 4):
            doubts.append(f"assumed to be an image with {shape[2]} channels; channels come last.")
        return Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*shape, 1)[:3], unit="1"), doubts
    size = max(1, math.prod(shape))
    low = np.array([summary.low for summary in alike if summary.low] or [(np.nan,) * size]).min(0)
    high = np.array([summary.high for summary in alike if summary.high] or [(np.nan,) * size]).max(0)
    is_integer = dtype.kind in "iub"
    if is_integer and not shape and low[0] >= 0 and high[0] < MAX_VALUES:
        num_values = max(int(high[0]) + 1, 2)
        doubt = f"assumed to be discrete with {num_values} values; the largest logged value is {int(high[0])}."
        return Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=num_values), [doubt]
    doubts = ["its integers are assumed to be measured numbers."] if is_integer else []
    if len(shape) > 1:
        doubts.append(f"its shape {shape} is flattened to one vector.")
    is_wide = dtype == np.float64 or (is_integer and dtype.itemsize > 2)
    precision: Literal["float32", "float64"] = "float64" if is_wide else "float32"
    signal = Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), unit="?", precision=precision)
    if role is Role.ACTION and np.isfinite([low, high]).all():
        signal = replace(signal, low=tuple(low.tolist()), high=tuple(high.tolist()))
        doubts.append("its bounds are the logged range; widen them if the actuator allows more.")
    return signal, doubts
