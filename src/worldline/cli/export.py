"""`worldline export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    store: Annotated[Path, typer.Argument(help="The store.")],
    destination: Annotated[Path, typer.Argument(help="New file or folder.")],
    exporter: Annotated[
        str | None, typer.Option("--as", help="hdf5, minari or lerobot.", show_default="hdf5 for .h5 and .hdf5")
    ] = None,
) -> None:
    """Write a store in another format; importing it again gives the same episodes."""
    from worldline.data.exporting import export_store
    from worldline.data.store import open_store

    opened = open_store(store)
    name = export_store(opened, destination, exporter=exporter)
    print(f"Wrote {len(opened)} episodes as {name}: {destination}")
