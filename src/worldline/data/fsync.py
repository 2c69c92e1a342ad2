"""Durable writes with fsync, positional reads that are safe between threads, and locks of files."""

from __future__ import annotations

import os
import re
import stat
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from worldline.errors import DataError, InputError

_MAX_OPEN_FILES = 64
"""Files that one write opens at the same time; the usual limit of a process is about a thousand."""

Ends = Mapping[Path, tuple[int, bytes]]
"""Per file an offset, and the bytes that replace everything after it."""
POLL_S: Final = 0.01
"""Seconds between two attempts on Windows, where a blocking lock gives up after ten seconds."""
LOCKED_BYTE: Final = 2**30
"""The byte that is locked on Windows. It lies after the end of the file, because a locked byte cannot be read."""


class OpenFiles:
    """Read descriptors of the files in a folder, by name. They stay open, because opening costs more than a read.

    Args:
        folder: that holds the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._descriptors = folder, dict[str, int]()
        weakref.finalize(self, _close, self._descriptors)

    def __getitem__(self, name: str) -> int:
        if name not in self._descriptors:
            opened = os.open(self._folder / name, os.O_RDONLY)
            if self._descriptors.setdefault(name, opened) != opened:
                os.close(opened)  # another thread was faster
        return self._descriptors[name]


def _close(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Adds the path to an `OSError` without one, such as the error of a full disk.

    Raises:
        OSError: the original error, or one that replaces the `SafetensorError` in which safetensors wraps it.
    """
    try:
        yield
    except SafetensorError as error:
        if (code := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_durably(ends: Ends) -> None:
    """Replaces the end of each file. Contents and the names of new files are on disk when this returns."""
    folders = {file.parent for file in ends if not file.exists()}
    changes = list(ends.items())
    for first in range(0, len(changes), _MAX_OPEN_FILES):
        _write(changes[first : first + _MAX_OPEN_FILES])
    for folder in folders:
        sync_folder(folder)


def _write(changes: Sequence[tuple[Path, tuple[int, bytes]]]) -> None:
    with ExitStack() as stack:
        streams = []
        for file, (offset, content) in changes:
            stream = stack.enter_context(_opened(file))
            stream.truncate(offset)
            stream.seek(offset)
            stream.write(content)
            stream.flush()
            streams.append(stream.fileno())
        # Syncs that run together share one commit of the file system: 11 files take 1 ms, one after another 50 ms.
        with ThreadPoolExecutor(len(streams)) as pool:
            list(pool.map(os.fsync, streams))


@contextmanager
def _opened(file: Path) -> Iterator[BufferedWriter]:
    """Opens the file for writing in place. Closing it also writes and may fail, so that is inside `name_in_errors`."""
    with name_in_errors(file), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as stream:
        yield stream


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
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
def locked(file: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a file. The system releases it when the process ends, even if it is killed.

    Args:
        file: must exist and be writable; some file systems lock only writable files.
        wait: whether to wait until the lock is free.

    Raises:
        BlockingIOError: the lock is not free, and `wait` is False.
    """
    with file.open("r+b") as stream:
        try:
            import fcntl
        except ImportError:  # Windows
            with _locked_byte(stream.fileno(), wait):
                yield
        else:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield  # closing the file releases the lock


@contextmanager
def locked_at_once(file: Path, problem: str) -> Iterator[None]:
    """As `locked`, without waiting.

    Raises:
        InputError: the lock is not free; `problem` is the message.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file, wait=False))
        except BlockingIOError as error:
            raise InputError(problem) from error
        yield


@contextmanager
def _locked_byte(descriptor: int, wait: bool) -> Iterator[None]:
    windows: Any = import_module("msvcrt")  # typed on Windows only
    while True:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            windows.locking(descriptor, windows.LK_NBLCK, 1)
            break
        except OSError as error:
            if not wait:
                raise BlockingIOError("the file is locked") from error
        time.sleep(POLL_S)
    try:
        yield
    finally:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        windows.locking(descriptor, windows.LK_UNLCK, 1)


def refuse_special_files(folder: Path) -> None:
    """Checks that a folder holds no links, pipes or devices: they could lead to other files or block a reader.

    Raises:
        DataError: it holds one.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "not a regular file"
                raise DataError(f"it is {what}", fix="Replace it by a copy of the file, or delete it.", file=path)
