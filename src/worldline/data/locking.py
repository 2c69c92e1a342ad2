"""An exclusive lock on a file, between threads and between processes, on every system."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

POLL_S: Final = 0.01
"""Seconds between two attempts on Windows, where a blocking lock gives up after ten seconds."""
LOCKED_BYTE: Final = 2**30
"""The byte that is locked on Windows. It lies after the end of the file, because a locked byte cannot be read."""


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
