"""The command line: one file per command. Heavy imports happen only when a command runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

# OpenMP reads it when torch is imported. Threads that wait then sleep. On a busy machine, spinning ones waste most of
# the processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from worldline.cli.options import Device, Json, Threads, free_cores, use_threads
    from worldline.cli.output import print_next, print_table, progress_bars, write_json

__all__ = [
    "Device",
    "Json",
    "Threads",
    "free_cores",
    "print_next",
    "print_table",
    "progress_bars",
    "use_threads",
    "write_json",
]

__getattr__ = lazy_names(__name__)
