"""`worldline export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worldline.cli.output import print_next, progress_bars


def export(
    store: Annotated[Path, typer.Argument(help="Folder of the store.")],
    destination: Annotated[Path, typer.Argument(help="New file or folder.")],
    exporter: Annotated[
        str | None, typer.Option(help="Format: hdf5, minari or lerobot.", show_default="hdf5 for .h5 and .hdf5")
    ] = None,
) -> None:
    """Export a store to another format. An import of the result gives the same episodes."""
    from worldline.data.exporting import export_store
    from worldline.data.store import open_store

    opened = open_store(store)
    with progress_bars() as progress:
        name = export_store(opened, destination, exporter=exporter, progress=progress)
    print(f"Exported {len(opened)} episodes as {name}: {destination}")
    print_next("import", destination, "copy/")
