"""Writing that is on disk when it is done, and reading at a place that no other reader moves."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BufferedWriter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from worldline.errors import DataError

_AT_ONCE = 64
"""Files that are open at the same time; a process may have a thousand or so."""

Ends = Mapping[Path, tuple[int, bytes]]
"""Per file the offset from which on it changes, and its new end."""


class OpenFiles:
    """Descriptors for reading, by the names of files in a folder. They stay open: opening costs more than a read.

    Args:
        folder: they lie in.
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
    """Adds the path to an error of the operating system without one: writing to a full disk names no file.

    Raises:
        OSError: as it came, or in place of the `SafetensorError` that safetensors makes of it.
    """
    try:
        yield
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_durably(ends: Ends) -> None:
    """Gives each file a new end; all of it is on disk when this returns, the names of new files too."""
    folders = {file.parent for file in ends if not file.exists()}
    changes = list(ends.items())
    for first in range(0, len(changes), _AT_ONCE):
        _write(changes[first : first + _AT_ONCE])
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
    """The file, to be changed in place; closing it writes too, and may fail."""
    with name_in_errors(file), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as stream:
        yield stream


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def read_bytes(descriptor: int, length: int, offset: int) -> bytes:
    """`length` bytes of the file from `offset` on.

    Raises:
        DataError: the file ends too early.
    """
    out = np.empty(length, np.uint8)
    read_exactly(descriptor, out, offset)
    return out.tobytes()


def read_pieces(descriptor: int, out: NDArray[np.generic], offsets: NDArray[np.int64]) -> None:
    """Fills each `out[i]` of a contiguous array with what lies in the file from `offsets[i]` on.

    Raises:
        DataError: the file ends too early.
    """
    whole, size = out.data.cast("B"), out.nbytes // len(out)
    for number, offset in enumerate(offsets.tolist()):
        piece = whole[number * size : (number + 1) * size]
        if os.preadv(descriptor, [piece], offset) != size:
            read_exactly(descriptor, out[number], offset)


def read_exactly(descriptor: int, out: NDArray[np.generic], offset: int) -> None:
    """Fills `out`, a contiguous array, from the file; `os.preadv` copies straight into it.

    Raises:
        DataError: the file ends too early.
    """
    if out.nbytes == 0:
        return
    rest = out.data.cast("B")
    while len(rest) > 0:
        got = os.preadv(descriptor, [rest], offset)
        if got == 0:
            raise DataError("a block ends too early", fix="It was cut while it was open: restore it from a copy.")
        rest, offset = rest[got:], offset + got
