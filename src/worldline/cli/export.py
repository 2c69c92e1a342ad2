"""`worldline export`."""

from __future__ import annotations

from pathlib import Path

from worldline.cli.output import print_next, progress_bars


def export(store: Path, destination: Path, exporter: str | None = None) -> None:
    """Export a store to another format. An import of the result gives the same episodes.

    Args:
        store: folder of the store.
        destination: new file or folder.
        exporter: format: csv, parquet, hdf5 or lerobot. Default: by the suffix .csv, .parquet, .h5 or .hdf5.
    """
    from worldline.data.base import sidecar
    from worldline.data.exporting import export_store
    from worldline.data.store import open_store

    opened = open_store(store)
    with progress_bars() as progress:
        name = export_store(opened, destination, exporter=exporter, progress=progress)
    print(f"Exported {len(opened)} episodes as {name}: {destination}")
    if (schema := sidecar(destination)).is_file():
        print(f"Roles, units and bounds: {schema}. Keep it next to the table.")
    print_next("import", destination, "copy/")
