"""Processes with a limit of memory and time, in which files of strangers are read.

A library that decodes a damaged file can hang, crash or fill the memory. Then only its process ends.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from worldline.data.array_size import in_words, memory_bytes
from worldline.errors import DataError

MEMORY_SHARE: Final = 2
"""The data of a process may take one part in this many of the memory."""
TIME_S: Final = 3600
"""Seconds of wall time, and of processor time, that a process may take."""

_FIX: Final = "The files may be damaged. If you trust them, import them without --untrusted."


def limit_process(data_bytes: int, time_s: float) -> None:
    """Limits memory and processor time of this process, where the system can.

    Args:
        data_bytes: memory for data.
        time_s: seconds of processor time since the start of the process; `inf` lifts an earlier limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = most if math.isinf(time_s) else int(time_s)
    for kind, limits in ((resource.RLIMIT_DATA, (data_bytes, data_bytes)), (resource.RLIMIT_CPU, (soft, most))):
        with suppress(OSError, ValueError):  # the system has no such limit, or a lower one is set
            resource.setrlimit(kind, limits)


def run_limited(module: str, request: str, *, file: Path) -> bytes:
    """Returns what a module writes to standard output.

    Args:
        module: run as a program. It calls `limit_process` with its two arguments, and reads the request.
        request: for its standard input.
        file: the logs, for errors.

    Raises:
        DataError: the process reached a limit, or crashed.
    """
    data_bytes, time_s = memory_bytes() // MEMORY_SHARE, TIME_S
    # -P: no module from the working directory, which may hold the files.
    command = [sys.executable, "-P", "-m", module, str(data_bytes), str(time_s)]
    late = DataError(f"reading took more than {time_s} s and was stopped", fix=_FIX, file=file)
    try:
        ended = subprocess.run(command, input=request.encode(), capture_output=True, timeout=time_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise late from error
    if ended.returncode:
        if -ended.returncode == getattr(signal, "SIGXCPU", None):
            raise late
        problem = f"the process that read it ended with status {ended.returncode}; it may use {in_words(data_bytes)}"
        raise DataError(problem, fix=_FIX, file=file)
    return ended.stdout
