"""The command line: one file per command. Heavy imports happen only when a command runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

# OpenMP reads it when torch is imported. Threads that wait then sleep. On a busy machine, spinning ones waste most of
# the processor time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from worldline.cli.options import Device as Device
    from worldline.cli.options import Json as Json
    from worldline.cli.options import Threads as Threads
    from worldline.cli.options import free_cores as free_cores
    from worldline.cli.options import use_threads as use_threads
    from worldline.cli.output import print_next as print_next
    from worldline.cli.output import print_table as print_table
    from worldline.cli.output import progress_bars as progress_bars
    from worldline.cli.output import write_json as write_json


__getattr__ = lazy_names(__name__)
