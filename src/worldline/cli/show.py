"""`worldline show`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worldline.cli.options import Json
from worldline.cli.output import print_next, print_table, progress_bars, write_json

if TYPE_CHECKING:
    from worldline.report.store_figures import StoreFigures


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
    _print(figures)
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


def _print(figures: StoreFigures) -> None:
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
