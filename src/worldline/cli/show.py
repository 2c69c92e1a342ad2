"""`worldline show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.report.store_figures import StoreFigures


def show(
    store: Annotated[Path, typer.Argument(help="Folder of the store, or of a world.")],
    episode: Annotated[int | None, typer.Argument(help="Number of the plotted episode.", show_default="0")] = None,
    out: Annotated[Path, typer.Option(help="Folder for pages and images.")] = Path("show"),
    signals: Annotated[
        list[str] | None, typer.Option(help="A plotted signal; repeat for more.", show_default="the first 12")
    ] = None,
    json: Json = None,
) -> None:
    """Show signals, sizes and origin of a store, with plots of an episode; or the card of a world."""
    from worldline.bundle import holds_bundle
    from worldline.data.store import open_store
    from worldline.workflows.show import show as run

    if holds_bundle(store):
        _show_world(store, json)
        return
    with progress_bars() as progress:
        shown = run(open_store(store), out, episode=episode, signals=signals or (), progress=progress)
    _print(shown.figures)
    write_json(json, _figures(shown.figures))
    for title, path in zip(("Page:", *[""] * len(shown.files)), shown.files, strict=False):
        print(f"{title:8}{path}")
    print_next("check", store)


def _show_world(folder: Path, json: Path | None) -> None:
    """The card of a world as a table."""
    from dataclasses import asdict

    from worldline.formatting import number, plural, round_percent, size
    from worldline.world.bundle_io import open_world

    card = open_world(folder).describe()
    bands, memory, call = card.band_horizon, card.bytes_per_candidate, card.call
    rows = {
        "name": card.name,
        "engine": card.engine,
        "inputs": ", ".join(card.inputs),
        "actions": ", ".join(signal.name for signal in card.schema.actions),
        "exogenous": ", ".join(signal.name for signal in card.schema.exogenous),
        "predicts": ", ".join(card.predicts),
        "context": plural(card.context, "observation"),
        "abilities": ", ".join(card.abilities),
        "bands": f"up to {plural(bands, 'step')} and {round_percent(card.band_level)}" if bands else "none",
        "one prediction": f"{number(1e3 * call.latency_s)} ms" if call else "not measured",
        "worlds in one call": f"at most {number(card.max_batch)}",
        "candidates in one call": f"at most {number(card.max_candidates)}",
        "memory per candidate": size(memory) if memory else "not measured",
    }
    print_table(f"World {folder.name}", ("", ""), [(name, text) for name, text in rows.items() if text])
    write_json(json, {**asdict(card), "schema": {signal.name: str(signal.role) for signal in card.schema.signals}})
    print_next("audit", folder, "LOGS")


def _print(figures: StoreFigures) -> None:
    """Three tables: signals, sizes on disk, and origin of the episodes."""
    from worldline.formatting import duration, number, size
    from worldline.report import store_figures as say

    print_table(
        f"Signals of {figures.name}",
        say.SIGNAL_TITLES,
        [say.signal_cells(signal.signal) for signal in figures.signals],
    )
    each = [
        (
            signal.signal.name,
            signal.signal.dtype,
            say.missing(signal),
            size(signal.num_bytes),
            say.value_size(signal),
            say.exactness(signal),
        )
        for signal in figures.signals
    ]
    per_step = size(figures.num_bytes / figures.num_steps) if figures.num_steps else "–"
    print_table(
        "On disk",
        ("signal", "stored as", "missing", "bytes", "per value", "precision"),
        [
            *each,
            ("index, cards", "", "", size(figures.other_bytes), "", ""),
            ("total", "", "", size(figures.num_bytes), "", f"layout {figures.layout}"),
        ],
    )
    print_table(
        "Episodes",
        ("", ""),
        [
            ("episodes", number(figures.num_episodes)),
            ("steps", number(figures.num_steps)),
            ("bytes per step", per_step),
            ("logged time", "unknown" if figures.time_s is None else duration(figures.time_s)),
            ("length", say.lengths(figures)),
            ("endings", say.endings(figures)),
            ("with a seed", number(figures.seeded)),
            *((f"source: {key.name}", say.origin(key)) for key in figures.keys),
            *((f"note: {name}", text) for name, text in figures.notes.items()),
        ],
    )


def _figures(figures: StoreFigures) -> dict[str, object]:
    """The content of the JSON file."""
    return {
        "episodes": figures.num_episodes,
        "steps": figures.num_steps,
        "time_s": figures.time_s,
        "steps_shortest": figures.shortest,
        "steps_median": figures.median,
        "steps_longest": figures.longest,
        "bytes": figures.num_bytes,
        "bytes_a_step": figures.num_bytes / figures.num_steps if figures.num_steps else None,
        "bytes_of_index_and_cards": figures.other_bytes,
        "layout": figures.layout,
        "terminated": figures.terminated,
        "truncated": figures.truncated,
        "terminated_and_truncated": figures.both,
        "neither": figures.neither,
        "seeded": figures.seeded,
        "step_s": figures.schema.step_s,
        "signals": {
            signal.signal.name: {
                "role": str(signal.signal.role),
                "kind": str(signal.signal.kind),
                "shape": list(signal.signal.shape),
                "unit": signal.signal.unit,
                "low": _finite(signal.signal.low),
                "high": _finite(signal.signal.high),
                "num_values": signal.signal.num_values,
                "dtype": signal.signal.dtype,
                "missing": signal.missing,
                "values": signal.num_rows,
                "bytes": signal.num_bytes,
                "max_error": signal.max_error,
            }
            for signal in figures.signals
        },
        "sources": {key.name: {"episodes": key.num_episodes, "values": key.num_values} for key in figures.keys},
        "notes": dict(figures.notes),
    }


def _finite(edges: tuple[float, ...] | None) -> list[float | None] | None:
    """Replaces infinity, which JSON lacks, by None."""
    from math import isfinite

    return None if edges is None else [edge if isfinite(edge) else None for edge in edges]
