"""`worldline schema`."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.schema import Schema, Signal


def schema(
    store: Path,
    edits: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=ROLE] [NAME.FIELD=VALUE]...", show_default=False)
    ] = None,
    json: Json = None,
) -> None:
    """Print the schema of a store, or correct roles, units, bounds, kinds and entities in it.

    Args:
        store: folder of the store.
        edits: corrections, such as heater=action, temperature.unit=degC, power.low=0 or note=ignore.
    """
    from worldline.data.correcting import correct_schema
    from worldline.data.schema_edits import parse_edits
    from worldline.data.store import open_store
    from worldline.data.store_notes import uncertain_roles
    from worldline.progress import tell

    known = open_store(store)
    if edits:
        parsed = parse_edits(edits, [signal.name for signal in known.schema.signals])
        with progress_bars() as report:
            progress = partial(tell, report, "correct the episodes")
            known = correct_schema(known, parsed, progress=progress)
        print(f"Corrected: {', '.join(edits)}")
    _print(known.schema, uncertain_roles(known))
    write_json(json, known.schema)
    if known.schema.actions:
        print_next("check", store)
    else:
        print("No signal is an action. Name the signals that are chosen.")
        print_next("schema", store, f"{known.schema.signals[0].name}=action")


def _print(schema: Schema, uncertain: Collection[str]) -> None:
    rows = []
    for signal in schema.signals:
        role = f"{signal.role}?" if signal.name in uncertain else signal.role
        rows.append((signal.name, role, signal.kind, _size(signal), signal.unit, _bounds(signal), signal.entity))
    print_table("Signals", ("name", "role", "kind", "size", "unit", "bounds", "entity"), rows)
    print(f"Step:   {'unknown' if schema.step_s is None else f'{schema.step_s:g} s'}")


def _size(signal: Signal) -> str:
    if signal.num_values is not None:
        return f"{signal.num_values} values"
    return " x ".join(map(str, signal.shape))


def _bounds(signal: Signal) -> str:
    """The bounds of a vector; one interval if they are the same for all components."""
    if signal.low is None and signal.high is None:
        return ""
    low, high = (bound or (side * math.inf,) for bound, side in ((signal.low, -1), (signal.high, 1)))
    ends = (f"{values[0]:g}" if len(set(values)) == 1 else "..." for values in (low, high))
    return " to ".join(ends)
