"""`worldline record`, `schema`, `show` and `export`."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Count, Json, Workers
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.report.store_figures import StoreFigures
    from worldline.schema import Signal


def _json_object(text: str) -> dict[str, Any]:
    value = loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is not a JSON object")
    return value


def record(
    environment: str,
    out: Annotated[Path, typer.Option()],
    num_episodes: Count = 500,
    max_steps: Count = 60,
    policy: str | None = None,
    seed: int = 0,
    env_kwargs: Annotated[dict[str, Any] | None, typer.Option(parser=_json_object, metavar="JSON")] = None,
    workers: Workers = "1",
) -> None:
    """Record episodes of an environment in a store.

    Args:
        environment: name of a lab, such as two-rooms, or a Gymnasium id.
        out: new folder for the store.
        num_episodes: number of episodes.
        max_steps: maximum number of steps per episode.
        policy: how actions are chosen: random, explorer (the policy of a lab), or module:name of a policy or a
            function of observation and generator. Default: explorer if the lab has one, else random.
        seed: random seed of resets and policy.
        env_kwargs: arguments of the environment as JSON, such as '{"g": 9.8}'.
    """
    from worldline.workflows.record import record as run

    if policy is not None and ":" in policy:
        sys.path.append(str(Path.cwd()))  # policies are imported from the working directory, after installed packages
    sizes: dict[str, Any] = {"num_episodes": num_episodes, "max_steps": max_steps, "workers": workers}
    with progress_bars() as progress:
        store = run(environment, out, policy=policy, seed=seed, env_kwargs=env_kwargs, progress=progress, **sizes)
    if note := store.card.notes.get("left_out"):
        print(note)
    signals = ", ".join(f"{signal.name} ({signal.role})" for signal in store.schema.signals)
    print(f"{len(store)} episodes, {int(store.num_steps.sum())} steps: {signals}")
    print(f"Store:  {out}")
    print_next("learn", out, "--out", "world/")


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
    from worldline.data.schema_edits import parse_edits
    from worldline.data.store import open_store
    from worldline.data.store_notes import correct_schema, uncertain_roles
    from worldline.progress import tell

    known = open_store(store)
    if edits:
        parsed = parse_edits(edits, [signal.name for signal in known.schema.signals])
        with progress_bars() as report:
            progress = partial(tell, report, "correct the episodes")
            known = correct_schema(known, parsed, progress=progress)
        print(f"Corrected: {', '.join(edits)}")
    uncertain, step_s = uncertain_roles(known), known.schema.step_s
    rows = [_signal_row(signal, uncertain) for signal in known.schema.signals]
    print_table("Signals", ("name", "role", "kind", "size", "unit", "bounds", "entity"), rows)
    print(f"Step:   {'unknown' if step_s is None else f'{step_s:g} s'}")
    write_json(json, known.schema)
    if known.schema.actions:
        print_next("check", store)
    else:
        print("No signal is an action. Name the signals that are chosen.")
        print_next("schema", store, f"{known.schema.signals[0].name}=action")


def _signal_row(signal: Signal, uncertain: Collection[str]) -> tuple[object, ...]:
    role = f"{signal.role}?" if signal.name in uncertain else signal.role
    size = " x ".join(map(str, signal.shape)) if signal.num_values is None else f"{signal.num_values} values"
    return signal.name, role, signal.kind, size, signal.unit, _bounds(signal), signal.entity


def _bounds(signal: Signal) -> str:
    """The bounds of a vector; one interval if they are the same for all components."""
    if signal.low is None and signal.high is None:
        return ""
    low, high = (bound or (side * math.inf,) for bound, side in ((signal.low, -1), (signal.high, 1)))
    ends = (f"{values[0]:g}" if len(set(values)) == 1 else "..." for values in (low, high))
    return " to ".join(ends)


def show(
    store: Path,
    episode: Annotated[int | None, typer.Argument()] = None,
    out: Path = Path("show"),
    signals: list[str] | None = None,
    json: Json = None,
) -> None:
    """Show signals, sizes and origin of a store, with plots of an episode; or the card of a world.

    Args:
        store: folder of the store, or of a world.
        episode: number of the plotted episode. Default: 0.
        out: folder for the pages.
        signals: a plotted signal; repeat for more. Default: the first 12.
    """
    from worldline.bundle import holds_bundle
    from worldline.data.store import open_store
    from worldline.workflows.show import show as run

    if holds_bundle(store):
        _show_world(store, json)
        return
    with progress_bars() as progress:
        figures, files = run(open_store(store), out, episode=episode, signals=signals or (), progress=progress)
    _print_store(figures)
    write_json(json, asdict(figures))
    for title, path in zip(("Page:", *[""] * len(files)), files, strict=False):
        print(f"{title:8}{path}")
    print_next("check", store)


def _show_world(folder: Path, json: Path | None) -> None:
    """The card of a world as a table."""
    from worldline.world.bundle_io import open_world

    card = open_world(folder).describe()
    print_table(f"World {folder.name}", ("", ""), list(card.facts().items()))
    write_json(json, {**asdict(card), "schema": {signal.name: str(signal.role) for signal in card.schema.signals}})
    print_next("audit", folder, "LOGS")


def _print_store(figures: StoreFigures) -> None:
    """Two tables: signals and episodes; the page has more."""
    from worldline.formatting import duration, number, size
    from worldline.report import store_figures as say

    signals = [say.signal_cells(signal.signal) for signal in figures.signals]
    print_table(f"Signals of {figures.name}", say.SIGNAL_TITLES, signals)
    facts = {
        "episodes": number(figures.num_episodes),
        "steps": number(figures.num_steps),
        "on disk": size(figures.num_bytes),
        "logged time": "unknown" if figures.time_s is None else duration(figures.time_s),
        "length": say.lengths(figures),
        "endings": say.endings(figures),
        "with a seed": number(figures.seeded),
        **{f"source: {key}": text for key, text in figures.sources.items()},
        **{f"note: {name}": text for name, text in figures.notes.items()},
    }
    print_table("Episodes", ("", ""), list(facts.items()))


def export(
    store: Path,
    destination: Path,
    exporter: Annotated[str | None, typer.Option("--exporter", "--as")] = None,
    logs: Path | None = None,
) -> None:
    """Export a store to another format, or a world as one HTML page or as ONNX networks.

    An import of an exported store gives the same episodes.

    Args:
        store: folder of the store, or of a world.
        destination: new file or folder.
        exporter: format of a store: csv, parquet, hdf5 or lerobot. Default: by the suffix .csv, .parquet, .h5 or .hdf5.
            Of a world: onnx or html. Default: by the suffix .html.
        logs: of a world: logs with a few example episodes for the page.
    """
    from worldline.bundle import holds_bundle
    from worldline.data.base import sidecar
    from worldline.data.exporting import export_store
    from worldline.data.store import open_store

    if holds_bundle(store):
        _export_world(store, destination, exporter, logs)
        return
    opened = open_store(store)
    with progress_bars() as progress:
        name = export_store(opened, destination, exporter=exporter, progress=progress)
    print(f"Exported {len(opened)} episodes as {name}: {destination}")
    if (schema := sidecar(destination)).is_file():
        print(f"Roles, units and bounds: {schema}. Keep it next to the table.")
    print_next("import", destination, "copy/")


def _export_world(folder: Path, destination: Path, exporter: str | None, logs: Path | None) -> None:
    from worldline.errors import InputError
    from worldline.formatting import size
    from worldline.workflows.play import export_play
    from worldline.world.bundle_io import open_world
    from worldline.world.onnx_export import export_onnx

    known = exporter or destination.suffix.removeprefix(".")
    world = open_world(folder, device="cpu")
    if known == "onnx":
        export_onnx(world, destination)
        print(f"Networks:     {', '.join(str(destination / f'{name}.onnx') for name in ('start', 'update', 'step'))}")
        print(f"Description:  {destination / 'world.json'}")
    elif known == "html":
        export_play(world, destination, logs)
        print(f"Page:  {destination}, {size(destination.stat().st_size)}")
    else:
        raise InputError(f"{destination}: a world is exported as onnx or html, not {known!r}. Set --as.")
