"""Corrections of a store: of its schema, what the import notes for them, and the commands that make them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import Logs
from worldline.data.checks import Finding, check_actions, warning
from worldline.data.log_edits import suggested_edits
from worldline.data.role_names import RoleGuess
from worldline.data.roles import ColumnGuess, uncertain
from worldline.data.schema_edits import SchemaEdits, apply_edits, edit_command
from worldline.data.store import Store, change_schema, open_store
from worldline.episode import Arrays
from worldline.schema import Kind, Role, Signal

_BOUNDS_NOTE, _ROLES_NOTE = "inferred_bounds", "uncertain_roles"


def correct_schema(
    store: Store | Path | str, edits: SchemaEdits, *, progress: Callable[[int, int], None] | None = None
) -> Store:
    """Changes roles, units, bounds, kinds or entities of a store, and all that depends on them.

    An action that had no bounds gets the logged range. A signal that becomes an observation is marked as missing after
    the last step of each episode; import the logs again if they hold it.

    Args:
        store: the store or its folder. Do not use it afterwards; use the result.
        edits: fields by signal, such as {"heater": {"role": "action", "low": 0, "unit": "%"}}. The role "ignore" drops
            the signal. The key "" holds {"step_s": seconds}.
        progress: called with the number of episodes done and their total.

    Raises:
        ConfigError: an edit is wrong. Nothing was changed.
        InputError: the schema would have no observation, or an import is running. Nothing was changed.
        DataError: a logged value does not fit the new schema. Nothing was changed.
    """
    store = store if isinstance(store, Store) else open_store(store)
    edited = (signal for signal in store.schema.signals if {"role", "kind"} & edits.get(signal.name, {}).keys())
    schema = apply_edits(store.schema, edits, [_column(store, signal) for signal in edited])
    return store if schema == store.schema else change_schema(store, schema, progress=progress)


def _column(store: Store, signal: Signal) -> ColumnGuess:
    """The signal with its logged range."""
    guess = RoleGuess(role=signal.role, reason="its role in the store")
    low, high = logged_range(store, signal)
    return ColumnGuess(name=signal.name, guess=guess, signal=signal, low=tuple(low.tolist()), high=tuple(high.tolist()))


def logged_range(store: Store, signal: Signal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest known value of each component in all episodes, [size]; infinite if none is known."""
    low, high = (np.full(math.prod(signal.shape), end) for end in (np.inf, -np.inf))
    for number, steps in enumerate(store.num_steps.tolist()) if signal.kind is not Kind.IMAGE else ():
        rows = steps + (signal.role is Role.OBSERVATION)
        values = store.read(signal.name, number, 0, rows).reshape(rows, -1)
        if signal.role is Role.OBSERVATION:
            values = values[store.observed(signal.name, number, 0, rows)]
        if len(values):
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    return low, high


def guess_notes(logs: Logs) -> dict[str, str]:
    """The notes about guessed roles, and about actions whose bounds are the logged range."""
    ranges = {column.name: (column.low, column.high) for column in logs.columns if column.low}
    bounds = {signal.name: (signal.low, signal.high) for signal in logs.schema.actions if signal.low is not None}
    bounds = {name: ends for name, ends in bounds.items() if ranges.get(name) == ends}
    roles = {column.name: str(column.guess.role) for column in uncertain(logs.columns) if column.is_signal}
    return {name: json.dumps(values) for name, values in ((_BOUNDS_NOTE, bounds), (_ROLES_NOTE, roles)) if values}


def uncertain_roles(store: Store) -> dict[str, str]:
    """The roles by signal that were guessed at the import and that no user confirmed or changed since."""
    noted = json.loads(store.card.notes.get(_ROLES_NOTE, "{}"))
    roles = {signal.name: str(signal.role) for signal in store.schema.signals}
    return {name: role for name, role in noted.items() if roles.get(name) == role}


def inferred_bounds(store: Store) -> tuple[str, ...]:
    """The actions whose bounds are the range of the first logs, and were not corrected since."""
    noted = json.loads(store.card.notes.get(_BOUNDS_NOTE, "{}"))
    bounds = {signal.name: [list(signal.low or ()), list(signal.high or ())] for signal in store.schema.actions}
    return tuple(name for name in noted if bounds.get(name) == noted[name])


def wider_bounds(store: Store) -> SchemaEdits:
    """The edits that widen inferred bounds of actions to the range of all logs; empty if no action goes beyond them."""
    edits: dict[str, dict[str, list[float]]] = {}
    for signal in (store.schema[name] for name in inferred_bounds(store)):
        low, high = (values.astype(signal.dtype) for values in logged_range(store, signal))
        for bound, limit, wider in (("low", signal.low, np.minimum), ("high", signal.high, np.maximum)):
            before = np.array(limit, signal.dtype)
            now = wider(before, low if bound == "low" else high)
            if (before != now).any():
                # The text of a number is its shortest form that is exact in its dtype.
                edits.setdefault(signal.name, {})[bound] = [float(str(value)) for value in now]
    return edits


def findings_about_actions(store: Store) -> tuple[Finding, ...]:
    """Findings about actions that never change, or that go beyond bounds which were inferred from earlier logs."""
    findings = list(check_actions(store.schema, logged_actions(store)))
    for name, wider in wider_bounds(store).items():
        limits = {bound: ",".join(str(value).removesuffix(".0") for value in values) for bound, values in wider.items()}
        command = edit_command(store.path, [f"{name}.{bound}={text}" for bound, text in limits.items()])
        problem = "it goes beyond its bounds, which were inferred from earlier logs"
        findings.append(warning(problem=problem, fix=f"If the actuator allows it, type: {command}", signal=name))
    return tuple(findings)


def logged_actions(store: Store) -> Iterator[Arrays]:
    """Yields the actions of each episode, per signal [T, *shape]."""
    signals = [signal.name for signal in store.schema.actions]
    for number, steps in enumerate(store.num_steps.tolist()):
        yield {name: store.read(name, number, 0, steps) for name in signals}


def realign_command(store: Path, lag: int) -> tuple[str, ...]:
    """The command, without its first word, that imports a store into another one with its actions moved.

    Args:
        store: its folder.
        lag: steps by which its actions are logged too late.
    """
    return "import", str(store), _beside(store, "aligned"), "--action-lag", str(lag)


def edit_logs_command(store: Path, findings: Iterable[Finding], num_episodes: int) -> tuple[str, ...]:
    """The command, without its first word, that imports a store into another one with the edits that findings suggest.

    Args:
        store: its folder.
        findings: about the store.
        num_episodes: of the store.

    Returns:
        The words; empty if no edit is suggested.
    """
    options = suggested_edits(findings, num_episodes).options
    return ("import", str(store), _beside(store, "edited"), *options) if options else ()


def _beside(store: Path, ending: str) -> str:
    """The path of a changed copy of a store."""
    store = store if store.name else store.resolve()  # the working directory has no name
    return str(store.with_name(f"{store.name}-{ending}"))
