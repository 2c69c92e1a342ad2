"""Checked reading of HDF5 files: unwritten data is an error, and errors name their place.

The HDF5 library reads unwritten chunks as zeros and trusts the sizes that a file declares. Both are checked before
values are read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import ceil, prod
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import h5py
import numpy as np

from worldline.data.formats.reading import DAMAGED, UNREADABLE, Array, Metadata, converted
from worldline.data.reading_budget import check_size
from worldline.errors import DataError

_BLOCK = 1 << 22
_LETTERS, _HEAD = b"GCOL", 16
ENDINGS = (".h5", ".hdf5")
MAX_TEXT_LENGTH = 4096
"""Maximum length of a text that is kept with an episode; excludes the XML of simulators."""
_MAX_BYTES = 1 << 28  # declared sizes up to this are always read
_MAX_COMPRESSION_RATIO = 2000  # deflate reaches 1032
_is_complete: WeakKeyDictionary[h5py.Dataset, bool] = WeakKeyDictionary()  # cached: h5py counts chunks one by one
_MAX_DEPTH, _MAX_OBJECTS = 16, 1_000_000


def check_heaps(path: Path) -> None:
    """Checks all heaps. Reads the complete file once, and again only after it changed.

    Values of variable length are stored in global heaps, which have no checksum, and the library can hang on damaged
    ones. A heap begins with the letters GCOL, a version and its length. Its objects follow without gaps, each with a
    16-byte header: index, references, padding, length. Index 0 is the free space, whose length includes the header.

    Args:
        path: of an HDF5 file.

    Raises:
        DataError: a heap is damaged.
        OSError: the file cannot be read.

    Source: HDF5 File Format Specification 3.0, section III.E.
    """
    status = path.stat()
    if (place := _damage(path, status.st_size, status.st_mtime_ns)) is not None:
        raise DataError(f"its variable-length values are damaged near byte {place}", fix=DAMAGED, file=path)


@lru_cache(maxsize=32)
def _damage(path: Path, size: int, _changed_ns: int) -> int | None:
    """Returns the position of the first damaged heap; None if all are intact."""
    with path.open("rb") as stream:
        begin, kept = 0, b""
        while block := stream.read(_BLOCK):
            text = kept + block
            found = text.find(_LETTERS)
            while found >= 0:
                if not _is_sound(stream, begin + found, size):
                    return begin + found
                found = text.find(_LETTERS, found + 1)
            kept = text[1 - len(_LETTERS) :]
            begin += len(text) - len(kept)
            stream.seek(begin + len(kept))
    return None


def _is_sound(stream: BinaryIO, at: int, size: int) -> bool:
    """Whether the objects of the heap at this byte fill it without gaps; True if the letters are not a heap."""
    stream.seek(at)
    head = stream.read(_HEAD)
    if len(head) < _HEAD or head[4:8] != b"\1\0\0\0":
        return True
    (length,) = struct.unpack_from("<Q", head, 8)
    if not _HEAD <= length <= size - at:
        return False
    heap = stream.read(length - _HEAD)
    place = 0
    while place + _HEAD <= len(heap):
        index, _, _, num_bytes = struct.unpack_from("<HHIQ", heap, place)
        need = num_bytes if index == 0 else _HEAD + -(-num_bytes // 8) * 8
        if need < _HEAD or place + need > len(heap):
            return False
        place += need
    return True


def hdf5_files(path: Path) -> list[Path]:
    """Returns the HDF5 files at `path`, judged by name: the file itself, or the sorted files of the folder."""
    if path.is_file():
        return [path] if path.suffix in ENDINGS else []
    return sorted(file for file in path.glob("*") if file.suffix in ENDINGS and file.is_file())


def only_file(path: Path, what: str) -> Path:
    """Returns the HDF5 file at `path`.

    Args:
        path: a file, or a folder with exactly one HDF5 file.
        what: the format's name, for the message.

    Raises:
        DataError: the folder has none or several.
    """
    files = [path] if path.is_file() else hdf5_files(path)
    if len(files) != 1:
        listed = ", ".join(file.name for file in files[:5]) or "none"
        fix = "Give one file, and import each file separately."
        raise DataError(f"{what} logs are one HDF5 file, found {len(files)} ({listed})", fix=fix, file=path)
    return files[0]


def is_robomimic(path: Path) -> bool:
    """Whether `path` is one HDF5 file whose group `data` has members named demo_*."""
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
    """Returns the folder with the metadata.json of a Minari dataset, judged by names; None if there is none."""
    for folder in (path / "data", path, path.parent if path.name == "main_data.hdf5" else path):
        holds_data = (folder / "main_data.hdf5").is_file() or (folder / "0" / "metadata.json").is_file()
        if (folder / "metadata.json").is_file() and holds_data:
            return folder
    return None


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Opens the file for reading.

    Raises:
        DataError: it is not an HDF5 file, it is truncated, or its first bytes are damaged.
    """
    with converted("the file cannot be opened", file=path):
        file = h5py.File(path, "r")
    with file:
        yield file


def names_in(group: h5py.Group) -> list[str]:
    """Returns the names of the members.

    Raises:
        DataError: they cannot be read, or a name is not text.
    """
    with converted(f"the members of {group.name} cannot be read"):
        names = list(group)
    for name in names:
        if not isinstance(name, str):  # h5py returns bytes if a name is not UTF-8
            raise DataError(f"the name {name!r} in {group.name} is damaged", fix=DAMAGED)
    return names


def member_of(group: h5py.Group, name: str) -> h5py.HLObject | None:
    """Returns the member `name`; None if there is none. `Group.get` would also return None for a damaged member.

    Raises:
        DataError: it is damaged.
    """
    with converted(f"{name} cannot be read"):
        return group[name] if name in names_in(group) else None


def arrays_in(group: h5py.Group, file: Path) -> dict[str, h5py.Dataset]:
    """Returns every dataset below `group` by dotted name; soft and external links are left out.

    Args:
        group: to search.
        file: for errors.

    Raises:
        DataError: the structure is damaged, or two datasets get the same name.
    """
    found: dict[str, h5py.Dataset] = {}
    with converted("its structure cannot be read", file=file):
        for name, dataset in _walk(group, "", 0):
            if name in found:
                fix = "Rename one of them: a nested dataset a/b and a flat one a.b get the same name."
                raise DataError("two datasets have this name", fix=fix, file=file, signal=name)
            found[name] = dataset
            if len(found) > _MAX_OBJECTS:
                raise DataError(f"the file has more than {_MAX_OBJECTS} datasets", fix=DAMAGED, file=file)
    return found


def _walk(group: h5py.Group, prefix: str, depth: int) -> Iterator[tuple[str, h5py.Dataset]]:
    if depth > _MAX_DEPTH:  # also stops at a group that contains itself
        raise DataError(f"groups are nested more than {_MAX_DEPTH} levels deep", fix=DAMAGED)
    for key in names_in(group):
        if (link := group.get(key, getlink=True)) is None:
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
            _ = item.dtype, item.shape  # h5py parses these on access, and raises if they are damaged
            yield name, item


def is_numeric(dataset: h5py.Dataset) -> bool:
    """Whether it holds rows of numbers of at most 8 bytes."""
    return dataset.dtype.kind in "fiub" and dataset.dtype.itemsize <= 8 and len(dataset.shape or ()) > 0


def is_text(dataset: h5py.Dataset) -> bool:
    """Whether it holds texts, of fixed or variable length."""
    return h5py.check_string_dtype(dataset.dtype) is not None


def read_rows(dataset: h5py.Dataset, start: int, stop: int, signal: str | None = None) -> Array:
    """Returns rows `start` to `stop` in native byte order.

    Args:
        dataset: of numbers; axis 0 is rows.
        start: first row.
        stop: end, exclusive.
        signal: for errors.

    Raises:
        DataError: the rows do not exist, were never written, are damaged, or are larger than the file can hold.
    """
    try:
        with converted("its values cannot be read"):
            if not 0 <= start <= stop <= len(dataset):
                raise DataError(f"expected rows {start} to {stop}, got {len(dataset)} rows", fix=DAMAGED)
            check_written(dataset, start, stop)
            values: Array = np.asarray(dataset[start:stop])
    except DataError as error:
        raise DataError(error.problem, fix=error.fix, signal=signal) from error
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def check_written(dataset: h5py.Dataset, start: int, stop: int) -> None:
    """Checks that the rows were written and that their declared size is plausible.

    Args:
        dataset: axis 0 is rows.
        start: first row.
        stop: end, exclusive.

    Raises:
        DataError: they were not written, lie in other files, or are larger than the file can hold.
    """
    if dataset.is_virtual or dataset.external:
        raise DataError("its values are stored in other files", fix="Copy it into one file with h5repack.")
    check_chunks(dataset)
    row, size = prod(dataset.shape[1:]) * dataset.dtype.itemsize, Path(dataset.file.filename).stat().st_size
    max_bytes = max(_MAX_BYTES, _MAX_COMPRESSION_RATIO * size) if dataset.chunks is not None else size
    num_bytes = max((stop - start) * row, prod(dataset.chunks or ()) * dataset.dtype.itemsize)
    if num_bytes > max_bytes:
        raise DataError(f"it declares {num_bytes} bytes in a file of {size} bytes", fix=DAMAGED)
    check_size(num_bytes, "its values")
    unwritten = "some of its rows were never written and would read as zeros"
    if dataset.chunks is None:
        if dataset.id.get_storage_size() < len(dataset) * row:
            raise DataError(unwritten, fix="Write the file again, to its end.")
        return
    grid = [ceil(n / c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]
    if dataset not in _is_complete:
        _is_complete[dataset] = dataset.id.get_num_chunks() >= prod(grid)
    if stop == start or _is_complete[dataset]:
        return
    first, last = start // dataset.chunks[0], (stop - 1) // dataset.chunks[0]
    for inner in np.ndindex(last + 1 - first, *grid[1:]):
        at = tuple((i + (first if axis == 0 else 0)) * dataset.chunks[axis] for axis, i in enumerate(inner))
        if dataset.id.get_chunk_info_by_coord(at).byte_offset is None:
            raise DataError(unwritten, fix="Write the file again, to its end.")


def check_chunks(dataset: h5py.Dataset) -> None:
    """Checks the size of the chunks, which are unpacked as a whole even if one row is read.

    Raises:
        DataError: a chunk is larger than 268 MB.
    """
    if (size := prod(dataset.chunks or ()) * dataset.dtype.itemsize) > _MAX_BYTES and dataset.chunks is not None:
        problem = f"its chunks have {size} bytes each, and the limit is {_MAX_BYTES}"
        raise DataError(problem, fix="Write it again in smaller chunks, for example with h5repack -l CHUNK=1000x1.")


def external_links(group: h5py.Group) -> list[str]:
    """Returns the members that are links to other files; they are not read."""
    return [name for name in names_in(group) if isinstance(group.get(name, getlink=True), h5py.ExternalLink)]


def text_of(value: object) -> str:
    """Converts a text from h5py (bytes or str) to str.

    Raises:
        DataError: it is not UTF-8.
    """
    with converted("a text is not UTF-8"):
        return value.decode() if isinstance(value, bytes) else str(value)


def texts_in(dataset: h5py.Dataset, start: int, stop: int) -> list[str]:
    """Returns the texts in rows `start` to `stop` of a column of texts.

    Raises:
        DataError: they cannot be read.
    """
    if h5py.check_string_dtype(dataset.dtype).length is None:
        check_heaps(Path(dataset.file.filename))
    return [text_of(value) for value in read_rows(dataset, start, stop).reshape(stop - start)]


def attributes(item: h5py.HLObject) -> Metadata:
    """Returns the attributes that are a single number or a short text.

    Raises:
        DataError: they are damaged.
    """
    found: Metadata = {}
    with converted("its attributes cannot be read"):
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
                is_kept = len(value) <= MAX_TEXT_LENGTH
            else:
                value = value.item()
                is_kept = bool(np.isfinite(value))  # a store keeps attributes as JSON, which has no NaN
            if is_kept:
                found[name] = value
    return found


def embedded_json(item: h5py.HLObject, name: str) -> bytes | None:
    """Returns the JSON that our exporters keep in a fixed-length attribute; None if there is none.

    Raises:
        DataError: it is damaged.
    """
    with converted(f"the attribute {name!r} cannot be read"):
        if name not in item.attrs:
            return None
        value = bytes(item.attrs[name])
        json.loads(value)
        return value
