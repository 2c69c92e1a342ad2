"""The check of the size of an array, made before it is allocated."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from worldline.errors import DataError
from worldline.formatting import NBSP, size

SHARE: Final = 4
"""One array may take one part in this many of the memory."""


def memory_bytes() -> int:
    """The memory of this machine, or the limit of the data of this process if that is less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import resource
    except ImportError:  # Windows
        return memory
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit)


def check_size(num_bytes: int, what: str, *, file: Path | None = None, signal: str | None = None) -> None:
    """Checks the declared size of an array, or of what is read of a file at once.

    Args:
        num_bytes: that it would take.
        what: is read, such as "the arrays in it".
        file: for the message.
        signal: for the message.

    Raises:
        DataError: it is larger than a quarter of the memory.
    """
    if num_bytes > (limit := memory_bytes() // SHARE):
        problem = f"{what} would take {in_words(num_bytes)} of memory, and the limit is {in_words(limit)}"
        raise DataError(problem, fix="Split the file, or check whether it is damaged.", file=file, signal=signal)


def in_words(num_bytes: int) -> str:
    """The size for a message, such as "1.6 GB"."""
    return size(num_bytes).replace(NBSP, " ")
