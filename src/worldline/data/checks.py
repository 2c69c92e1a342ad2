"""Checks of logged data before it enters a store. Each finding names the problem and the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode
from worldline.errors import DataError
from worldline.schema import NOOP, Kind, Role, Schema, Signal

Array = NDArray[np.generic]

CONVENTION = "action t leads from observation t to t+1, so T actions lie between T+1 observations"


class Severity(StrEnum):
    """The consequence of a finding for the episode or log."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class FindingKind(StrEnum):
    """The findings that name the episodes or rows to edit, see `worldline.data.log_edits.suggested_edits`."""

    STUCK = "stuck"
    CHANGED = "changed"
    JOINED = "joined"
    SHIFTED = "shifted"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A part of a log to edit.

    Args:
        episode: number in the log, from 0.
        start: first row; of joined recordings, the first row of the second one.
        stop: row after the last; None for the end of the episode.
        component: of the signal; None for all.
    """

    episode: int
    start: int = 0
    stop: int | None = None
    component: int | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem in logged data.

    Args:
        problem: what is wrong, with the offending value.
        fix: what the user can do about it, as a full sentence.
        severity: an error excludes the episode, or the whole log if `episode` is None. A warning names a probable
            fault. A note is a fact that may be intended.
        file: the file with the problem.
        episode: number in the source, from 0; None if the problem concerns the whole file or log.
        signal: the signal's name.
        step: row of the signal within the episode, from 0.
        kind: of the edit that it suggests; None if it suggests none.
        places: all parts that it is about, if it has a `kind`; for a change, the first episode after it.
    """

    problem: str
    fix: str
    severity: Severity = Severity.ERROR
    file: str | None = None
    episode: int | None = None
    signal: str | None = None
    step: int | None = None
    kind: FindingKind | None = None
    places: tuple[Place, ...] = ()

    @classmethod
    def of(cls, error: DataError, *, file: str | None = None, episode: int | None = None) -> Finding:
        """The finding for an error.

        Args:
            error: gives the problem, the fix and the step, and the place where an argument is None.
            file: the file with the problem.
            episode: number in the source.
        """
        return cls(
            problem=error.problem,
            fix=error.fix,
            file=file or (None if error.file is None else str(error.file)),
            episode=error.episode if episode is None else episode,
            signal=error.signal,
            step=error.step,
        )

    def error(self) -> DataError:
        """This finding as an exception."""
        return DataError(
            self.problem, fix=self.fix, file=self.file, episode=self.episode, signal=self.signal, step=self.step
        )

    def __str__(self) -> str:
        return f"{self.severity}: {self.error()}"


warning = partial(Finding, severity=Severity.WARNING)
"""Creates a finding that does not exclude its episode."""
note = partial(Finding, severity=Severity.NOTE)
"""Creates a finding that is no fault."""


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raises the first finding that is an error, if there is one.

    Raises:
        DataError: the first error.
    """
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise finding.error()


_GROUPS = dict(zip(Role, ("observations", "actions", "exogenous", "rewards"), strict=True))
"""Per role the field of `Episode` and `WindowBatch`."""


def arrays_of(episode: Episode, role: Role) -> Arrays:
    """The arrays of `episode` that have this role."""
    arrays: Arrays = getattr(episode, _GROUPS[role])
    return arrays


def grouped(signals: Iterable[Signal], values_of: Callable[[Signal], Array]) -> dict[str, Any]:
    """The values of each signal, grouped as `Episode` and `WindowBatch` take them."""
    groups: dict[str, Any] = {group: {} for group in _GROUPS.values()}
    for signal in signals:
        groups[_GROUPS[signal.role]][signal.name] = values_of(signal)
    return groups


def with_values(episode: Episode, change: Callable[[str, Array], Array]) -> Episode:
    """The episode with the values of each signal replaced by `change(name, values)`."""
    groups: dict[str, Any] = {}
    for group in _GROUPS.values():
        groups[group] = {name: change(name, values) for name, values in getattr(episode, group).items()}
    return replace(episode, **groups)


def check_episode(
    episode: Episode,
    schema: Schema,
    *,
    file: str | None = None,
    number: int | None = None,
    unbounded: Collection[str] = (),
) -> tuple[Finding, ...]:
    """The differences between `episode` and `schema`; empty if it fits.

    Args:
        episode: as logged, in the dtypes of the schema.
        schema: the signals that the episode must have.
        file: named in the findings.
        number: of the episode in its source, named in the findings.
        unbounded: signals whose bounds are not checked, because they were inferred.
    """
    finding = partial(Finding, file=file, episode=number)
    num_steps = _num_steps(episode, schema)
    if num_steps < 1:
        problem = "the episode has no step" if num_steps == 0 else "the episode has no array of the schema"
        return (finding(problem=problem, fix="An episode needs at least one action and two observations."),)
    findings: list[Finding] = []
    for signal in schema.signals:
        bounded = replace(signal, low=None, high=None) if signal.name in unbounded else signal
        findings += _check_signal(episode, bounded, num_steps, partial(finding, signal=signal.name))
    unknown = [(f"the schema has no {role} of this name", arrays_of(episode, role), schema.of(role)) for role in Role]
    unknown.append(("the mask belongs to no observation signal", episode.observed, schema.observations))
    for problem, arrays, signals in unknown:
        for name in sorted(arrays.keys() - {signal.name for signal in signals}):
            fix = "Add the signal to schema.json, or leave the array out."
            findings.append(finding(problem=problem, fix=fix, signal=name))
    if episode.seed is not None and not -(2**63) <= episode.seed < 2**63:
        fix = "A seed must fit into 64 bits: leave it out."
        findings.append(finding(problem=f"the seed is {episode.seed}", fix=fix))
    findings += _check_step_s(episode.step_s, num_steps, finding)
    return tuple(findings)


def check_actions(schema: Schema, actions: Iterable[Arrays]) -> tuple[Finding, ...]:
    """Findings about actions that never change in the log. An error if no action changes or there is no action.

    Args:
        schema: of the log.
        actions: per episode, per action signal [T, *shape].
    """
    if not schema.actions:
        fix = "Log the actions, or give the signals that are chosen the role action in schema.json."
        return (Finding(problem="the logs hold no action, so no effect of an action can be learned", fix=fix),)
    if schema.actions == (NOOP,):
        return ()
    first: dict[str, Array] = {}
    changes = {signal.name: np.zeros(signal.shape, np.bool_) for signal in schema.actions}
    for episode in actions:
        for name, changed in changes.items():
            value = first.setdefault(name, episode[name][0])
            changes[name] = changed | (episode[name] != value).any(0)
    reason = "the effect of an action that never changes cannot be learned"
    if first and not any(changed.any() for changed in changes.values()):
        values = ", ".join(f"{name} is always {value.tolist()}" for name, value in first.items())
        fix = "Log episodes in which the actions vary, or give signals that are not chosen the role exogenous."
        return (Finding(problem=f"no action ever changes in the whole log ({values}): {reason}", fix=fix),)
    return tuple(
        warning(
            problem=f"component {', '.join(map(str, np.flatnonzero(~changed)))} of the action never changes in the "
            f"whole log (the first value of the action: {first[name].tolist()}): {reason}",
            fix="Log episodes in which it varies, or remove it from the schema.",
            signal=name,
        )
        for name, changed in changes.items()
        if first and not changed.all()
    )


def _check_step_s(
    step_s: NDArray[np.float32] | None, num_steps: int, finding: Callable[..., Finding]
) -> Iterator[Finding]:
    if step_s is None:
        return
    if step_s.shape != (num_steps,) or step_s.dtype != np.float32:
        fix = f"Give step_s in seconds as float32 of shape ({num_steps},)."
        yield finding(problem=f"step_s is {step_s.dtype} of shape {step_s.shape}", fix=fix)
    elif wrong := np.flatnonzero(~(np.isfinite(step_s) & (step_s > 0))).tolist():
        problem = f"a step takes {step_s[wrong[0]]} s ({_how_often(wrong)})"
        yield finding(problem=problem, fix="Times must increase: sort or repair the rows.", step=wrong[0])


def _num_steps(episode: Episode, schema: Schema) -> int:
    """The value of T that most arrays agree on; -1 without arrays."""
    votes: Counter[int] = Counter()
    for role in (Role.ACTION, Role.OBSERVATION, Role.EXOGENOUS, Role.REWARD):  # the first role wins a tie
        arrays = arrays_of(episode, role)
        votes.update(_rows(arrays[s.name]) - (role is Role.OBSERVATION) for s in schema.of(role) if s.name in arrays)
    return votes.most_common(1)[0][0] if votes else -1


def _rows(values: Array) -> int:
    return values.shape[0] if values.ndim else 0


def _check_signal(
    episode: Episode, signal: Signal, num_steps: int, finding: Callable[..., Finding]
) -> Iterator[Finding]:
    """Checks length, shape, dtype, mask and values of one array in this order; stops at the first that is wrong."""
    values, is_seen = arrays_of(episode, signal.role).get(signal.name), signal.role is Role.OBSERVATION
    rows = num_steps + is_seen
    mask = episode.observed.get(signal.name) if is_seen else None
    known = np.ones(rows, np.bool_) if mask is None else mask
    if values is None:
        fix = f"Add the array (role {signal.role}, {rows} rows), or remove the signal from schema.json."
        yield finding(problem="the array is missing", fix=fix)
    elif _rows(values) != rows:
        fix = "Add or drop the row at its end or start, or find where the recording ends, and cut all arrays there."
        yield finding(problem=f"expected {rows} rows, got {_rows(values)}: {CONVENTION}", fix=fix)
    elif values.shape[1:] != signal.shape:
        fix = "Reshape the array, or correct the signal's shape in schema.json."
        yield finding(problem=f"expected values of shape {signal.shape}, got {values.shape[1:]}", fix=fix)
    elif values.dtype != signal.dtype:
        fix = f"Convert it with .astype({signal.dtype!r}), or correct the signal's kind ({signal.kind}) in schema.json."
        yield finding(problem=f"expected dtype {signal.dtype}, got {values.dtype}", fix=fix)
    elif known.dtype != np.bool_ or known.shape != (rows,):
        fix = f"A mask is a bool array of shape ({rows},), False where the value is missing."
        yield finding(problem=f"the mask is {known.dtype} of shape {known.shape}", fix=fix)
    elif signal.kind is not Kind.IMAGE:
        yield from _check_values(values, signal, known.astype(np.bool_), finding)


def _check_values(
    values: Array, signal: Signal, observed: NDArray[np.bool_], finding: Callable[..., Finding]
) -> Iterator[Finding]:
    """At most one finding about values that are not finite, and one about values out of bounds."""
    table = values.reshape(len(values), -1).astype(np.float64)
    finite = np.isfinite(table)
    if steps := np.flatnonzero(~finite.all(1) & observed).tolist():
        fix = "Actions and other inputs must not be missing: repair the log, or cut the episode there."
        if signal.role is Role.OBSERVATION:
            fix = f"Repair the log, or mark the missing steps in a mask ('observed.{signal.name}')."
        problem = f"the value is {values[steps[0]].tolist()} ({_how_often(steps)})"
        yield finding(problem=problem, fix=fix, step=steps[0])
    low, high = _bounds(signal)
    if steps := np.flatnonzero((finite & ((table < low) | (table > high))).any(1) & observed).tolist():
        limits = f"[{low.tolist()}, {high.tolist()}]"
        problem = f"the value {values[steps[0]].tolist()} is outside {limits} ({_how_often(steps)})"
        fix = f"Repair the log, or widen the signal's bounds in schema.json ({signal.name}.low, {signal.name}.high)."
        yield finding(problem=problem, fix=fix, step=steps[0])


def _bounds(signal: Signal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high, rounded to the dtype of the signal, so that rounding cannot move a value out of bounds."""
    if signal.num_values is not None:
        return np.zeros(1), np.full(1, signal.num_values - 1.0)
    low, high = signal.low or (-np.inf,), signal.high or (np.inf,)
    return np.array(low, signal.dtype).astype(np.float64), np.array(high, signal.dtype).astype(np.float64)


def _how_often(steps: Sequence[int]) -> str:
    return "in one step" if len(steps) == 1 else f"the first of {len(steps)} steps"
