"""Integrity check of variable-length values in HDF5 files; the library can hang on damaged ones.

Such values are stored in global heaps, which have no checksum. A heap begins with the letters GCOL, a version and its
length. Its objects follow without gaps, each with a 16-byte header: index, references, padding, length. Index 0 is the
free space, whose length includes the header.

Source: HDF5 File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from worldline.errors import DataError

_BLOCK = 1 << 22
_LETTERS, _HEAD = b"GCOL", 16


def check_heaps(path: Path) -> None:
    """Checks all heaps. Reads the complete file once, and again only after it changed.

    Args:
        path: of an HDF5 file.

    Raises:
        DataError: a heap is damaged.
        OSError: the file cannot be read.
    """
    status = path.stat()
    place = _damage(path, status.st_size, status.st_mtime_ns)
    if place is not None:
        raise DataError(
            f"its variable-length values are damaged near byte {place}",
            fix="Restore the file from a copy, or write it again.",
            file=path,
        )


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
