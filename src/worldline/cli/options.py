"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int | None, typer.Option(min=1, help="Number of threads.", show_default="number of free cores")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the results to this JSON file.")]


def free_cores() -> int:
    """Number of cores without load, at least 1."""
    try:
        load = os.getloadavg()[0]
    except OSError:  # not available on this system
        load = 0.0
    return max(1, (os.cpu_count() or 1) - round(load))


def use_threads(threads: int | None) -> None:
    """Sets the number of torch threads; None for the number of free cores."""
    import torch

    torch.set_num_threads(threads or free_cores())
