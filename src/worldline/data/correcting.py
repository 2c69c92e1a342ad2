"""Correction of the schema of a store."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.role_names import RoleGuess
from worldline.data.roles import ColumnGuess
from worldline.data.schema_edits import SchemaEdits, apply_edits
from worldline.data.store import Store, change_schema, open_store
from worldline.schema import Kind, Role, Signal


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
    columns = [
        _column(store, signal)
        for signal in store.schema.signals
        if {"role", "kind"} & edits.get(signal.name, {}).keys()
    ]
    schema = apply_edits(store.schema, edits, columns)
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
