"""What the import notes in a store: roles and bounds that it guessed; and the commands that correct a store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from worldline.data.base import Logs
from worldline.data.checks import Finding, check_actions, warning
from worldline.data.correcting import logged_range
from worldline.data.log_edits import suggested_edits
from worldline.data.roles import uncertain
from worldline.data.schema_edits import SchemaEdits, edit_command
from worldline.data.store import Store
from worldline.episode import Arrays

_BOUNDS_NOTE, _ROLES_NOTE = "inferred_bounds", "uncertain_roles"


def guess_notes(logs: Logs) -> dict[str, str]:
    """The notes about guessed roles, and about actions whose bounds are the logged range."""
    ranges = {column.name: (column.low, column.high) for column in logs.columns if column.low}
    bounds = {
        signal.name: (signal.low, signal.high)
        for signal in logs.schema.actions
        if signal.low is not None and ranges.get(signal.name) == (signal.low, signal.high)
    }
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
