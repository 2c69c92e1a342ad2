"""Writes that survive a power failure, positional reads that are safe between threads, and locks of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from worldline.errors import DataError, InputError

_MAX_SYNCS = 64

Ends = Mapping[Path, tuple[int, bytes]]
"""Per file an offset, and the bytes that replace everything after it."""


class OpenFiles:
    """Read descriptors of the files in a folder, by name. They stay open, because opening costs more than a read.

    Args:
        folder: that holds the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._descriptors = folder, dict[str, int]()

    def __del__(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def __getitem__(self, name: str) -> int:
        if name not in self._descriptors:
            opened = os.open(self._folder / name, os.O_RDONLY)
            if self._descriptors.setdefault(name, opened) != opened:
                os.close(opened)  # another thread was faster
        return self._descriptors[name]


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError` without one, such as the error of a full disk.

    Raises:
        OSError: the original error, or one that replaces the `SafetensorError` in which safetensors wraps it.
    """
    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_durably(ends: Ends) -> None:
    """Replaces the end of each file. Contents and the names of new files are on disk when this returns."""
    folders = {file.parent for file in ends if not file.exists()}
    for file, (offset, content) in ends.items():
        with name_in_errors(file), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as stream:
            stream.truncate(offset)
            stream.seek(offset)
            stream.write(content)
    if len(ends) == 1:
        sync(*ends)
    else:
        # Syncs that run together share one commit of the file system: 11 files take 1 ms, one after another 50 ms.
        with ThreadPoolExecutor(_MAX_SYNCS) as pool:
            list(pool.map(sync, ends))
    for folder in folders:
        sync(folder)


def sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes of the file, starting at `offset`.

    Raises:
        DataError: the file ends too early.
    """
    out = np.empty(length, np.uint8)
    read_exactly(descriptor, out, offset)
    return out.tobytes()


def read_pieces(descriptor: int, out: NDArray[np.generic], offsets: NDArray[np.int64]) -> None:
    """Fills each `out[i]` of a contiguous array from the file, starting at `offsets[i]`.

    Raises:
        DataError: the file ends too early.
    """
    buffer, size = out.data.cast("B"), out.nbytes // len(out)
    for number, offset in enumerate(offsets.tolist()):
        piece = buffer[number * size : (number + 1) * size]
        if os.preadv(descriptor, [piece], offset) != size:
            read_exactly(descriptor, out[number], offset)


def read_exactly(descriptor: int, out: NDArray[np.generic], offset: int) -> None:
    """Fills `out`, a contiguous array, from the file without a copy.

    Raises:
        DataError: the file ends too early.
    """
    if out.nbytes == 0:
        return
    rest = out.data.cast("B")
    while len(rest) > 0:
        got = os.preadv(descriptor, [rest], offset)
        if got == 0:
            raise DataError("a block ends too early", fix="It was truncated while open: restore it from a copy.")
        rest, offset = rest[got:], offset + got


@contextmanager
def locked(file: Path, *, busy: str = "") -> Iterator[None]:
    """Holds the lock of a file. The system releases it when the process ends, even if it is killed.

    Args:
        file: must exist and be writable; some file systems lock only writable files.
        busy: the message of the error if the lock is not free; empty to wait until it is.

    Raises:
        InputError: the lock is not free, and `busy` is not empty.
    """
    import fcntl  # not on Windows

    with file.open("r+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise InputError(busy) from error
        yield  # closing the file releases the lock


def refuse_special_files(folder: Path) -> None:
    """Checks that a folder holds no links, pipes or devices: they could lead to other files or block a reader.

    Raises:
        DataError: it holds one.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            what = "a link" if path.is_symlink() else "not a regular file"
            raise DataError(f"it is {what}", fix="Replace it by a copy of the file, or delete it.", file=path)
