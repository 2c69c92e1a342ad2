"""The meaning of the columns of tables: signals, texts, slow sensors and facts about episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from worldline.data import influence
from worldline.data.formats.reading import FLAGS, FOREIGN_ENDS
from worldline.data.formats.tables.resampling import refresh_period
from worldline.data.formats.tables.survey import MIN_ROWS, ColumnSummary, Survey
from worldline.data.infer import NO_ACTION, SchemaDraft, infer_signal, is_rare
from worldline.data.role_names import ASSUMED_EXOGENOUS, RoleGuess, may_be_actuator
from worldline.data.roles import Behaviour, ColumnGuess, guess_role
from worldline.schema import Kind, Role, Schema, Signal

MAX_TEXTS = 32
"""A column with more different texts than this is not a discrete signal."""
MIN_LEVELS = 6
"""A column with fewer different values is no slow sensor."""


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """The meaning of the columns in all tables of a log.

    Args:
        schema: the signals; signals without a column are missing in every episode.
        codes: the texts of each discrete column, in the order of their codes.
        stale: columns of slow sensors, which repeat their values between two readings.
        facts: columns that are constant within each episode: texts, and in an export numbers too.
        known: columns that are part of a signal or used otherwise; the others are left out.
        unclear: assumptions, in full sentences.
        columns: what was inferred of each column; empty if the schema was given.
    """

    schema: Schema
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    unclear: tuple[str, ...] = ()
    columns: tuple[ColumnGuess, ...] = ()


def parts_of(signal: Signal, columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns of a signal, in order; empty if one is missing.

    A signal with components takes the columns `signal.component`, `signal_component` or `component`. A signal without
    components takes the column of its name, or the columns `signal.0`, `signal_0` or `signal[0]` and so on.

    Args:
        signal: of a schema.
        columns: names of the existing columns.
    """
    known = set(columns)
    own = (signal.name,) if signal.name in known else ()
    if signal.kind is not Kind.VECTOR:
        return own if signal.kind is Kind.DISCRETE else ()
    if own and len(signal.components) <= 1:
        return own
    parts = signal.components or tuple(map(str, range(signal.shape[0])))
    forms = ["{0}.{1}", "{0}_{1}", "{1}" if signal.components else "{0}[{1}]"]
    named = [[name for form in forms if (name := form.format(signal.name, part)) in known] for part in parts]
    return tuple(names[0] for names in named) if parts and all(named) else own


def layout_of(
    survey: Survey, schema: Schema | None, step_s: float | None, cameras: Sequence[Signal] = (), *, exact: bool = False
) -> TableLayout:
    """Returns the layout of the tables.

    Args:
        survey: of the tables.
        schema: given by the user; None to infer it.
        step_s: seconds per step, for an inferred schema.
        cameras: image signals, for an inferred schema.
        exact: whether the schema is that of an export: all other columns are facts, and no repeats are missing.
    """
    draft, unnamed = SchemaDraft(unclear=()), set[str]()
    is_given = schema is not None
    if schema is None:
        unnamed = {*survey.more_times, *(name for name in survey.seen if name.lower() in FOREIGN_ENDS)}
        schema = _inferred(survey, draft, step_s, cameras)
    used = {name: signal for signal in schema.signals for name in parts_of(signal, survey.seen)}
    for name, signal in used.items() if is_given else ():
        for unit in survey.seen[name].units.keys() - {signal.unit} if signal.unit != "?" else ():
            draft.note(f"{name}: its header has the unit {unit}, the schema {signal.unit}; not converted.")
    own = {*used, *survey.reserved, *FLAGS, "seed", *unnamed}
    facts = {name for name, seen in survey.seen.items() if name not in own and (exact or seen.is_fact)}
    discrete = {name: signal.components for name, signal in used.items() if signal.kind is Kind.DISCRETE}
    codes = {n: known or tuple(sorted(survey.seen[n].texts)) for n, known in discrete.items() if survey.seen[n].texts}
    for name, known in codes.items():
        draft.note(f"{name}: its texts were encoded: {', '.join(f'{t} = {i}' for i, t in enumerate(known))}.")
    periods = {} if exact else _slow(survey, used)
    for name, period in sorted(periods.items()):
        how = f"it changes only every {period} rows, other columns in every row"
        draft.note(f"{name}: {how}; its repeats are marked as not observed.")
    return TableLayout(
        schema=schema,
        codes=codes,
        stale=frozenset(periods),
        facts=frozenset(facts),
        known=frozenset(own | facts),
        unclear=tuple(draft.unclear),
        columns=tuple(draft.columns),
    )


def _inferred(survey: Survey, draft: SchemaDraft, step_s: float | None, cameras: Sequence[Signal]) -> Schema:
    """Infers the schema from the columns."""
    for camera in cameras:
        survey.reserved[camera.name] = "a camera"
        draft.add_guess(camera, RoleGuess(role=Role.OBSERVATION, reason="it is a camera"))
    influences = influence.influences(survey.blocks)
    first_of = dict[bytes, str]()
    for name, seen in survey.seen.items():
        if (reason := _not_a_signal(survey, name, seen)) is not None:
            draft.leave_out(name, reason, is_noted=name not in survey.reserved and not seen.is_fact)
            continue
        driven, drives = influences.get(name, (None, None))
        behaviour = seen.behaviour and replace(seen.behaviour, driven=driven, drives=drives)
        _add_signal(draft, name, seen, first_of.setdefault(seen.content, name), behaviour)
    schema, _ = draft.result(step_s)
    if unknown := [signal.name for signal in schema.signals if signal.unit == "?"]:
        draft.note(f"The logs have no units for {', '.join(unknown)}: set to '?'.")
    if schema.step_s is None:
        draft.note("The step duration is not in the logs (no column is named time): step_s is left empty.")
    if not schema.actions:
        draft.note(NO_ACTION)
    return schema


def _not_a_signal(survey: Survey, name: str, seen: ColumnSummary) -> str | None:
    """Returns why a column cannot be a signal; None if it can."""
    word = name.lower()
    texts = f"it holds {len(seen.texts)} different texts, such as {min(seen.texts, default='')!r}"
    is_choice = not seen.is_fact and 1 < len(seen.texts) <= MAX_TEXTS
    reasons = {
        f"it gives {survey.reserved.get(name)}": name in survey.reserved,
        "it looks like another column of times": name in survey.more_times,
        "it looks like an end flag; log `terminated` and `truncated` instead": word in FOREIGN_ENDS,
        "it gives the end or the seed of an episode": word in (*FLAGS, "seed"),
        "it has no values": not seen.cells,
        f"only {seen.files} of {survey.num_tables} files have it": is_rare(seen.files, survey.num_tables),
        "it is a fact about each episode": seen.is_fact,
        texts: not seen.is_number and not is_choice,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _guess(name: str, seen: ColumnSummary, same: str, behaviour: Behaviour | None) -> RoleGuess:
    """Guesses the role of a column; `same` is the first column with the same values."""
    guess = guess_role(name, seen.unit, behaviour)
    if guess.role in (Role.REWARD, None):
        return guess
    is_action = guess.role is Role.ACTION
    reason = ""
    if not seen.is_number and not (is_action and guess.sure):
        texts = f"it holds {len(seen.texts)} different texts, such as {min(seen.texts)!r}"
        reason = f"{texts}; give it a role to use it as a discrete signal"
    elif seen.is_constant:
        value = next(summary.low[0] for summary in seen.summaries if summary.low)
        reason = f"it never changes (always {value:g})"
    elif not is_action and seen.is_counter:
        reason = "it counts the rows"
    elif not is_action and same != name and seen.is_number and seen.cells >= MIN_ROWS:
        reason = f"it has the values of {same}"
    return RoleGuess(role=None, reason=reason) if reason else guess


def _add_signal(draft: SchemaDraft, name: str, seen: ColumnSummary, same: str, behaviour: Behaviour | None) -> None:
    """Infers the signal in a column; `same` is the first column with the same values."""
    guess = _guess(name, seen, same, behaviour)
    role, doubts = guess.role or Role.OBSERVATION, list[str]()
    if seen.is_number:
        dtype = np.dtype(np.float64) if seen.units and seen.dtype.kind in "iu" else seen.dtype
        signal, doubts = infer_signal(name, role, [replace(summary, dtype=dtype) for summary in seen.summaries])
    else:
        texts = tuple(sorted(seen.texts))
        signal = Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=len(texts), components=texts)
    if role is Role.EXOGENOUS:
        doubts = [ASSUMED_EXOGENOUS, *doubts]
    if seen.texts and seen.is_number:
        doubts.append("some of its cells are not numbers; their episodes are left out.")
    if len(seen.units) > 1:
        doubts.append(f"its headers have several units ({', '.join(seen.units)}); the first one is used.")
    if signal.kind is Kind.VECTOR:
        signal = replace(signal, unit=seen.unit or signal.unit)
    draft.add_guess(signal, guess, seen.summaries, doubts, behaviour)


def _slow(survey: Survey, used: Mapping[str, Signal]) -> dict[str, int]:
    """Finds columns of measurements that update less often than other columns, with their periods in rows."""
    periods: dict[str, int] = {}
    busy = [name for name in used if survey.seen[name].is_busy]
    for name, signal in used.items():
        seen = survey.seen[name]
        is_sensor = signal.role is Role.OBSERVATION and seen.is_float and not may_be_actuator(name, seen.unit)
        if is_sensor and busy and busy != [name]:
            period = refresh_period(seen.samples)
            levels = np.unique(np.concatenate(seen.samples))
            if period is not None and np.isfinite(levels).sum() >= MIN_LEVELS:
                periods[name] = period
    # A signal is missing as a whole, so all its components must be slow.
    return {name: n for name, n in periods.items() if all(key in periods for key in used if used[key] is used[name])}
