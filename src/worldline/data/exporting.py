"""Export of a store to another file format. The output appears only when it is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldline.data.store import Store
from worldline.errors import InputError
from worldline.progress import OnProgress, tell
from worldline.registry import load, names

_ENDINGS = {".h5": "hdf5", ".hdf5": "hdf5", ".csv": "csv", ".parquet": "parquet"}


def export_store(
    store: Store, destination: Path | str, *, exporter: str | None = None, progress: OnProgress | None = None
) -> str:
    """Writes a store in another format and returns the name of the format. Importing it gives the same episodes.

    Args:
        store: to write.
        destination: a new file or folder.
        exporter: name of the format; default is to infer it from the suffix of `destination`.
        progress: called at the start and at the end.

    Raises:
        InputError: the destination exists, its suffix is unknown, or the format cannot represent the store.
        UnknownNameError: `exporter` is not registered.
        MissingExtraError: the format needs an extra that is not installed.
    """
    destination = Path(destination)
    name = exporter or _ENDINGS.get(destination.suffix)
    if name is None:
        known = ", ".join(names("exporter"))
        raise InputError(f"{destination}: the suffix matches no format. Set exporter (--exporter): {known}.")
    write: Callable[[Store, Path], None] = load("exporter", name)
    tell(progress, "export", 0)
    write(store, destination)
    tell(progress, "export", 1)
    return name
