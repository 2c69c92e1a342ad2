"""What can be wrong with logged data, found before it goes into a store, and said so that it can be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]

CONVENTION = "action t takes observation t to t+1, so T actions lie between T+1 observations"


class Severity(StrEnum):
    """What a finding means for the episode or log."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with logged data.

    Args:
        problem: what is wrong, with the offending value.
        fix: what the user can do about it, as a full sentence.
        severity: an error keeps the episode (or, without an episode, the log) out; a warning does not.
        file: where it was found.
        episode: number in the source, from 0; None where the whole file or log is meant.
        signal: the signal's name.
        step: row of the signal within the episode, from 0.
    """

    problem: str
    fix: str
    severity: Severity = Severity.ERROR
    file: str | None = None
    episode: int | None = None
    signal: str | None = None
    step: int | None = None

    def error(self) -> DataError:
        """This finding as an exception."""
        return DataError(
            self.problem, fix=self.fix, file=self.file, episode=self.episode, signal=self.signal, step=self.step
        )

    def __str__(self) -> str:
        return f"{self.severity}: {self.error()}"


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raises the first finding that is an error; does nothing where there is none.

    Raises:
        DataError: the first error.
    """
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise finding.error()


def arrays_of(episode: Episode, role: Role) -> Arrays:
    """The arrays of `episode` that have this role."""
    return {
        Role.OBSERVATION: episode.observations,
        Role.ACTION: episode.actions,
        Role.EXOGENOUS: episode.exogenous,
        Role.REWARD: episode.rewards,
    }[role]


def check_episode(
    episode: Episode, schema: Schema, *, file: str | None = None, number: int | None = None
) -> tuple[Finding, ...]:
    """Everything in which `episode` departs from `schema`; empty where it does not.

    Args:
        episode: as logged, in the dtypes of the schema.
        schema: the signals that it should have.
        file: named in the findings.
        number: of the episode in its source, named in the findings.
    """
    found = partial(Finding, file=file, episode=number)
    num_steps = _num_steps(episode, schema)
    if num_steps < 1:
        problem = "the episode has no step" if num_steps == 0 else "the episode has no array of the schema"
        return (found(problem=problem, fix="An episode needs at least one action and two observations."),)
    findings: list[Finding] = []
    for role in Role:
        arrays, rows = arrays_of(episode, role), num_steps + (role is Role.OBSERVATION)
        signals = {signal.name: signal for signal in schema.of(role)}
        for name, signal in signals.items():
            place = partial(found, signal=name)
            if name not in arrays:
                fix = f"Add the array (role {role}, {rows} rows), or take the signal out of schema.json."
                findings.append(place(problem="the array is missing", fix=fix))
                continue
            mask = episode.observed.get(name) if role is Role.OBSERVATION else None
            observed = np.ones(rows, np.bool_) if mask is None else mask
            findings += _check_array(arrays[name], signal, rows, observed, place)
        for name in sorted(arrays.keys() - signals.keys()):
            fix = "Add the signal to schema.json, or leave the array out."
            findings.append(found(problem=f"the schema has no {role} of this name", fix=fix, signal=name))
    if episode.seed is not None and not -(2**63) <= episode.seed < 2**63:
        findings.append(found(problem=f"the seed is {episode.seed}", fix="Leave it out: it must fit into 64 bits."))
    if episode.step_s is not None:
        findings += _check_step_s(episode.step_s, num_steps, found)
    for name in sorted(episode.observed.keys() - {signal.name for signal in schema.observations}):
        fix = "Masks belong to observation signals: rename it or leave it out."
        findings.append(found(problem="a mask is given for something that is not observed", fix=fix, signal=name))
    return tuple(findings)


def check_actions(schema: Schema, actions: Iterable[Arrays]) -> tuple[Finding, ...]:
    """Actions that never change in a whole log. An error where that is true of all of them, or there are none.

    Args:
        schema: of the log.
        actions: per episode, per action signal [T, *shape].
    """
    if not schema.actions:
        fix = "Log what was done, or give a signal that somebody chooses the role action in schema.json."
        return (Finding(problem="the logs hold no action, and what actions do is what is learned", fix=fix),)
    first: dict[str, Array] = {}
    changes = {signal.name: np.zeros(signal.shape, np.bool_) for signal in schema.actions}
    for episode in actions:
        for name, changed in changes.items():
            value = first.setdefault(name, episode[name][0])
            changes[name] = changed | (episode[name] != value).any(0)
    if not first or all(changed.all() for changed in changes.values()):
        return ()
    lesson = "the effect of an action that never changes cannot be learned"
    if not any(changed.any() for changed in changes.values()):
        values = ", ".join(f"{name} is always {value.tolist()}" for name, value in first.items())
        fix = "Log episodes in which the actions vary, or give signals that nobody chooses the role exogenous."
        return (Finding(problem=f"no action ever changes in the whole log ({values}): {lesson}", fix=fix),)
    findings = []
    for name, changed in changes.items():
        if not changed.all():
            which = (
                f"component {', '.join(map(str, np.flatnonzero(~changed)))} of the action" if changed.any() else "it"
            )
            problem = f"{which} never changes in the whole log (its first value: {first[name].tolist()}): {lesson}"
            fix = "Log episodes in which it varies, or take it out of the schema."
            findings.append(Finding(problem=problem, fix=fix, severity=Severity.WARNING, signal=name))
    return tuple(findings)


def check_lengths(num_steps: Sequence[int] | NDArray[np.integer], num_observations: int) -> tuple[Finding, ...]:
    """Episodes that are too short to hold a window: they stay in the store and are left out of the windows.

    Args:
        num_steps: T of each episode.
        num_observations: H, observations of a window.
    """
    return tuple(
        Finding(
            problem=f"{steps + 1} observations cannot hold a window of {num_observations}: it gives none",
            fix=f"Log longer episodes, or learn from windows of at most {steps + 1} observations.",
            severity=Severity.WARNING,
            episode=number,
        )
        for number, steps in enumerate(num_steps)
        if steps + 1 < num_observations
    )


def _check_step_s(step_s: NDArray[np.float32], num_steps: int, found: Callable[..., Finding]) -> Iterator[Finding]:
    """The times of the steps: one a step, each positive."""
    if step_s.shape != (num_steps,) or step_s.dtype != np.float32:
        fix = f"Give seconds as float32 of shape ({num_steps},), one a step."
        yield found(problem=f"the times of the steps are {step_s.dtype} of shape {step_s.shape}", fix=fix)
        return
    wrong = np.flatnonzero(~(np.isfinite(step_s) & (step_s > 0)))
    if len(wrong):
        problem = f"a step of {step_s[wrong[0]]} s ({_how_often(wrong)})"
        yield found(problem=problem, fix="Times must rise from row to row: sort or repair them.", step=int(wrong[0]))


def _num_steps(episode: Episode, schema: Schema) -> int:
    """T, as most of the arrays have it; -1 where there are none."""
    votes: Counter[int] = Counter()
    for role in (Role.ACTION, Role.OBSERVATION, Role.EXOGENOUS, Role.REWARD):  # the first counts where votes tie
        arrays = arrays_of(episode, role)
        votes.update(_rows(arrays[s.name]) - (role is Role.OBSERVATION) for s in schema.of(role) if s.name in arrays)
    return votes.most_common(1)[0][0] if votes else -1


def _rows(values: Array) -> int:
    return values.shape[0] if values.ndim else 0


def _check_array(
    values: Array, signal: Signal, rows: int, observed: Array, found: Callable[..., Finding]
) -> Iterator[Finding]:
    """Length, shape, dtype, mask and values of one array; the later ones only where the earlier ones are right."""
    if _rows(values) != rows:
        problem = f"{_rows(values)} rows where {rows} are needed: {CONVENTION}"
        yield found(problem=problem, fix=_length_fix(signal, _rows(values) - rows))
    elif values.shape[1:] != signal.shape:
        fix = "Reshape the array, or correct the signal's shape in schema.json."
        yield found(problem=f"one value has shape {values.shape[1:]}, the schema says {signal.shape}", fix=fix)
    elif values.dtype != signal.dtype:
        fix = f"Convert it with .astype({signal.dtype!r}), or correct the signal's kind ({signal.kind}) in schema.json."
        yield found(problem=f"the dtype is {values.dtype}, a {signal.kind} is stored as {signal.dtype}", fix=fix)
    elif observed.dtype != np.bool_ or observed.shape != (rows,):
        fix = f"A mask is a bool array of shape ({rows},), False where the value is missing."
        yield found(problem=f"its mask is {observed.dtype} of shape {observed.shape}", fix=fix)
    elif signal.kind is not Kind.IMAGE:
        yield from _check_values(values, signal, observed.astype(np.bool_), found)


def _length_fix(signal: Signal, surplus: int) -> str:
    if signal.role is Role.OBSERVATION and surplus == -1:
        return "Add the observation that followed the last action, or drop the last action."
    if signal.role is not Role.OBSERVATION and surplus == 1:
        return "Drop the row that leads out of the last observation (or that of the reset, if the dummy comes first)."
    return "Find out where the recording of this array was cut, and cut the others there."


def _check_values(
    values: Array, signal: Signal, observed: NDArray[np.bool_], found: Callable[..., Finding]
) -> Iterator[Finding]:
    """At most one finding for values that are not finite, and one for values out of bounds."""
    table = values.reshape(len(values), -1).astype(np.float64)
    finite = np.isfinite(table)
    steps = np.flatnonzero(~finite.all(1) & observed)
    if len(steps):
        fix = (
            f"Repair the log, or mark the missing steps in a mask ('observed.{signal.name}')."
            if signal.role is Role.OBSERVATION
            else "Actions and other inputs must be known: repair the log, or cut the episode there."
        )
        problem = f"the value is {values[steps[0]].tolist()} ({_how_often(steps)})"
        yield found(problem=problem, fix=fix, step=int(steps[0]))
    low, high = _bounds(signal)
    steps = np.flatnonzero((finite & ((table < low) | (table > high))).any(1) & observed)
    if len(steps):
        limits = f"[{low.tolist()}, {high.tolist()}]"
        problem = f"the value {values[steps[0]].tolist()} is outside {limits} ({_how_often(steps)})"
        fix = "Repair the log, or widen the signal's bounds in schema.json."
        yield found(problem=problem, fix=fix, step=int(steps[0]))


def _bounds(signal: Signal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds, rounded to the dtype of the signal, so that rounding to it cannot put a value outside."""
    if signal.num_values is not None:
        return np.zeros(1), np.full(1, signal.num_values - 1.0)
    low = (-np.inf,) if signal.low is None else signal.low
    high = (np.inf,) if signal.high is None else signal.high
    return np.array(low, signal.dtype).astype(np.float64), np.array(high, signal.dtype).astype(np.float64)


def _how_often(steps: NDArray[np.intp]) -> str:
    return "only here" if len(steps) == 1 else f"the first of {len(steps)} steps"
