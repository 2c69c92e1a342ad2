"""Writes a store in someone else's format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worldline.data.store import Store
from worldline.errors import InputError
from worldline.registry import load, names

_ENDINGS = {".h5": "hdf5", ".hdf5": "hdf5"}


def export_store(store: Store, destination: Path | str, *, exporter: str | None = None) -> str:
    """The name of the format that the store was written in; importing it again gives the same episodes.

    Args:
        store: to write.
        destination: a new file or folder.
        exporter: name of the format; default is to tell it from the ending of `destination`.

    Raises:
        InputError: the destination exists, its ending tells no format, or the store holds what the format cannot.
        UnknownNameError: there is no such exporter.
        MissingExtraError: the format needs an extra that is not installed.
    """
    destination = Path(destination)
    name = exporter or _ENDINGS.get(destination.suffix)
    if name is None:
        raise InputError(
            f"{destination}: its name tells no format. Name one with exporter (--as): {', '.join(names('exporter'))}."
        )
    if destination.exists():
        raise InputError(f"{destination} exists. Choose another place, or delete it first.")
    write: Callable[[Store, Path], None] = load("exporter", name)
    write(store, destination)
    return name
