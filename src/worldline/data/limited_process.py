"""Limits of memory and time of a process in which files of strangers are read.

A library that decodes a damaged file can hang, crash or fill the memory. Then only its process ends.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

TIME_S: Final = 3600
"""Seconds of processor time that a process may take while it reads logs."""


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
