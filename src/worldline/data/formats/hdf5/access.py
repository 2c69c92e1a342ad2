"""HDF5 files read with care: what was never written is no data, and whatever fails names its place.

The HDF5 library fills chunks that were never written with zeros and trusts the sizes that a file declares. Both are
looked for before anything is read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import ceil, prod
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import h5py
import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding
from worldline.data.formats.hdf5.heap_checks import check_heaps
from worldline.errors import DataError, InputError

Array = NDArray[np.generic]

ENDINGS = (".h5", ".hdf5")
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError)
"""What h5py raises on damaged files; `DataError` is among them."""

DAMAGED = "Restore the file from a copy, or write it again."
LONGEST_TEXT = 4096
"""Longer texts, such as the XML of a simulator, are not kept with an episode."""
_MAX_BYTES = 1 << 28  # declared sizes below this are tried in any case
_BEST_RATIO = 2000  # deflate reaches 1032
_is_whole: WeakKeyDictionary[h5py.Dataset, bool] = WeakKeyDictionary()  # h5py counts chunks one by one
_DEEPEST, _MAX_OBJECTS = 16, 1_000_000


def hdf5_files(path: Path) -> list[Path]:
    """The HDF5 files at `path`, by their names: itself, or those in the folder, sorted."""
    if path.is_file():
        return [path] if path.suffix in ENDINGS else []
    return sorted(file for file in path.glob("*") if file.suffix in ENDINGS and file.is_file())


def only_file(path: Path, what: str) -> Path:
    """The HDF5 file at `path`.

    Args:
        path: a file, or a folder with exactly one in it.
        what: the format's name, for the message.

    Raises:
        DataError: there is none, or there are several.
    """
    files = [path] if path.is_file() else hdf5_files(path)
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:5]) or "none"
        fix = "Give one file; import the others into the same kind of store one after another."
        raise DataError(f"{what} logs are one HDF5 file, and here are {len(files)} ({listed})", fix=fix, file=path)
    return files[0]


def is_robomimic(path: Path) -> bool:
    """Whether `path` is one HDF5 file whose group `data` has members called demo_*."""
    files = hdf5_files(path)
    if len(files) != 1:
        return False
    try:
        with h5py.File(files[0], "r") as file:
            data = file.get("data")
            return isinstance(data, h5py.Group) and any(name.startswith("demo_") for name in data)
    except UNREADABLE:
        return False


def minari_folder(path: Path) -> Path | None:
    """The folder of a Minari dataset that holds metadata.json, judged by names only; None where there is none."""
    for folder in (path / "data", path, path.parent if path.name == "main_data.hdf5" else path):
        holds_data = (folder / "main_data.hdf5").is_file() or (folder / "0" / "metadata.json").is_file()
        if (folder / "metadata.json").is_file() and holds_data:
            return folder
    return None


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        DataError: it is no HDF5 file, it is cut short, or its first bytes are damaged.
    """
    try:
        file = h5py.File(path, "r")
    except UNREADABLE as error:
        raise DataError(f"the file cannot be opened ({reason(error)})", fix=DAMAGED, file=path) from error
    with file:
        yield file


def reason(error: Exception | None) -> str:
    """What an exception says, in one line."""
    if isinstance(error, DataError):
        return error.problem
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def finding_of(error: Exception, file: str, episode: int | None, signal: str | None = None) -> Finding:
    """The finding that something could not be read.

    Args:
        error: one of `UNREADABLE`.
        file: relative to the logs.
        episode: number in the logs.
        signal: that was read, where the error does not name one.
    """
    if isinstance(error, DataError):
        signal = error.signal or signal
        return Finding(problem=error.problem, fix=error.fix, file=file, episode=episode, signal=signal, step=error.step)
    problem = f"it cannot be read ({reason(error)})"
    return Finding(problem=problem, fix=DAMAGED, file=file, episode=episode, signal=signal)


def source_of(file: str, episode: int, told: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Where an episode came from, for a store.

    Args:
        file: relative to the logs.
        episode: number in the file.
        told: what the file says of it; names that are taken get `source.` in front.
    """
    source: dict[str, str | int | float] = {"file": file, "episode": episode}
    for name, value in told.items():
        free = name
        while free in source or (free != name and free in told):
            free = f"source.{free}"
        source[free] = value
    return source


def names_in(group: h5py.Group) -> list[str]:
    """The names of the members.

    Raises:
        DataError: they cannot be read, or one is no text.
    """
    try:
        names = list(group)
    except UNREADABLE as error:
        raise DataError(f"the members of {group.name} cannot be read ({reason(error)})", fix=DAMAGED) from error
    for name in names:
        if not isinstance(name, str):  # h5py gives the bytes of what is not UTF-8
            raise DataError(f"the name {name!r} in {group.name} is damaged", fix=DAMAGED)
    return names


def member_of(group: h5py.Group, name: str) -> h5py.HLObject | None:
    """The member called `name`; None where there is none.

    `Group.get` returns None for a damaged one, too.

    Raises:
        DataError: it is damaged.
    """
    try:
        return group[name] if name in names_in(group) else None
    except UNREADABLE as error:
        raise DataError(f"{name} cannot be read ({reason(error)})", fix=DAMAGED) from error


def arrays_in(group: h5py.Group, file: Path) -> dict[str, h5py.Dataset]:
    """Every dataset below `group`, by its dotted name; links to other files and second names are left out.

    Args:
        group: to look into.
        file: named in errors.

    Raises:
        DataError: the structure is damaged, or two datasets come to the same name.
    """
    found: dict[str, h5py.Dataset] = {}
    try:
        for name, dataset in _walk(group, "", 0):
            if name in found:
                fix = "Rename one: a nested dataset a/b and a flat one a.b cannot both be kept."
                raise DataError("two datasets have this name", fix=fix, file=file, signal=name)
            found[name] = dataset
            if len(found) > _MAX_OBJECTS:
                raise DataError(f"it has more than {_MAX_OBJECTS} datasets", fix=DAMAGED, file=file)
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"its structure cannot be read ({reason(error)})", fix=DAMAGED, file=file) from error
    return found


def _walk(group: h5py.Group, prefix: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
    if depth > _DEEPEST:  # also what a group that contains itself comes to
        raise DataError(f"groups are nested more than {_DEEPEST} deep", fix=DAMAGED)
    for key in names_in(group):
        link = group.get(key, getlink=True)
        if link is None:
            raise DataError(f"the link to {key!r} is damaged", fix=DAMAGED)
        if not isinstance(link, h5py.HardLink):
            continue
        name = f"{prefix}{key}".lstrip(".").replace("\\", ".")
        if not name.isprintable() or not name:
            raise DataError(f"the name {name!r} has characters that cannot be printed", fix=DAMAGED)
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _walk(item, f"{name}.", depth + 1)
        elif isinstance(item, h5py.Dataset):
            _ = item.dtype, item.shape  # h5py looks at these only now, and raises where they make no sense
            yield name, item


def is_numeric(dataset: h5py.Dataset) -> bool:
    """Whether it holds rows of numbers that a signal can hold."""
    return dataset.dtype.kind in "fiub" and dataset.dtype.itemsize <= 8 and len(dataset.shape or ()) > 0


def is_text(dataset: h5py.Dataset) -> bool:
    """Whether it holds texts, of fixed or variable length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def read_rows(dataset: h5py.Dataset, start: int, stop: int, signal: str | None = None) -> Array:
    """Rows `start` to `stop`, in the byte order of this machine.

    Args:
        dataset: of numbers, with rows in front.
        start: first row.
        stop: end.
        signal: named in errors.

    Raises:
        DataError: the rows do not exist, were never written, are damaged, or are larger than the file can hold.
    """
    try:
        if not 0 <= start <= stop <= len(dataset):
            raise DataError(f"it has {len(dataset)} rows where rows {start} to {stop} are needed", fix=DAMAGED)
        check_written(dataset, start, stop)
        values: Array = np.asarray(dataset[start:stop])
    except UNREADABLE as error:
        fix = error.fix if isinstance(error, DataError) else DAMAGED
        problem = reason(error) if isinstance(error, DataError) else f"its values cannot be read ({reason(error)})"
        raise DataError(problem, fix=fix, signal=signal) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_written(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Nothing where the rows are in the file, of a size that it can hold.

    Args:
        dataset: with rows in front.
        start: first row.
        stop: end.

    Raises:
        DataError: they are not.
    """
    if dataset.is_virtual or dataset.external:
        raise DataError("its values lie in other files", fix="Copy it into one file with h5repack.")
    row, size = prod(dataset.shape[1:]) * dataset.dtype.itemsize, Path(dataset.file.filename).stat().st_size
    most = max(_MAX_BYTES, _BEST_RATIO * size) if dataset.chunks is not None else size
    wanted = max((stop - start) * row, prod(dataset.chunks or ()) * dataset.dtype.itemsize)
    if wanted > most:
        raise DataError(f"it declares {wanted} bytes in a file of {size}", fix=DAMAGED)
    never = "some of its rows were never written, so they would read as zeros"
    if dataset.chunks is None:
        if dataset.id.get_storage_size() < len(dataset) * row:
            raise DataError(never, fix="Write the file again, to its end.")
        return
    grid = [ceil(n / c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]
    if dataset not in _is_whole:
        _is_whole[dataset] = dataset.id.get_num_chunks() >= prod(grid)
    if stop == start or _is_whole[dataset]:
        return
    first, last = start // dataset.chunks[0], (stop - 1) // dataset.chunks[0]
    for inner in np.ndindex(last + 1 - first, *grid[1:]):
        at = tuple((i + (first if axis == 0 else 0)) * dataset.chunks[axis] for axis, i in enumerate(inner))
        if dataset.id.get_chunk_info_by_coord(at).byte_offset is None:
            raise DataError(never, fix="Write the file again, to its end.")


def text_of(value: object) -> str:
    """A text as h5py gives it (bytes or str) as str.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise DataError(f"a text is not UTF-8 ({error})", fix=DAMAGED) from error


def texts_in(dataset: h5py.Dataset, start: int, stop: int) -> list[str]:
    """The texts in rows `start` to `stop` of a column of texts.

    Raises:
        DataError: they cannot be read.
    """
    if h5py.check_string_dtype(dataset.dtype).length is None:
        check_heaps(Path(dataset.file.filename))
    return [text_of(value) for value in read_rows(dataset, start, stop).reshape(stop - start)]


def attributes(item: h5py.HLObject) -> dict[str, str | int | float]:
    """The attributes that are a single number or a short text; others are left out.

    Raises:
        DataError: they are damaged.
    """
    found: dict[str, str | int | float] = {}
    try:
        for name in item.attrs:
            kind = item.attrs.get_id(name)
            text = h5py.check_string_dtype(kind.dtype)
            if kind.shape not in ((), (1,)) or (text is None and kind.dtype.kind not in "fiub"):
                continue
            if text is not None and text.length is None:
                check_heaps(Path(item.file.filename))
            value: Any = np.asarray(item.attrs[name], None if text is None else object).reshape(-1)[0]
            if text is not None:
                value = text_of(value)
            elif not np.isfinite(value):
                continue  # a store keeps JSON, which has no NaN
            if text is None or len(value) <= LONGEST_TEXT:
                found[name] = value if text is not None else value.item()
    except UNREADABLE as error:
        raise DataError(f"its attributes cannot be read ({reason(error)})", fix=DAMAGED) from error
    return found


def embedded_json(item: h5py.HLObject, name: str) -> bytes | None:
    """JSON that an export of ours keeps in a fixed-length attribute; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    try:
        if name not in item.attrs:
            return None
        value = bytes(item.attrs[name])
        json.loads(value)
    except UNREADABLE as error:
        raise DataError(f"the attribute {name!r} cannot be read ({reason(error)})", fix=DAMAGED) from error
    return value


@contextmanager
def drafted(destination: Path) -> Iterator[Path]:
    """A path to write to; what lies there becomes `destination` at the end, and is deleted if anything fails.

    Raises:
        InputError: `destination` exists.
    """
    if destination.exists() or destination.is_symlink():
        raise InputError(f"{destination} exists. Choose another place, or delete it first.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        yield folder / destination.name
        (folder / destination.name).rename(destination)
    finally:
        shutil.rmtree(folder)
