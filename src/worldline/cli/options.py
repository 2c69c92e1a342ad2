"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

Threads = Annotated[int | None, typer.Option(min=1, help="Threads to compute with.", show_default="the free cores")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file, as JSON.")]


def free_cores() -> int:
    """Cores that nobody else is using just now, at least 1."""
    try:
        load = os.getloadavg()[0]
    except OSError:  # not to be had here
        load = 0.0
    return max(1, (os.cpu_count() or 1) - round(load))


def use_threads(threads: int | None) -> None:
    """Lets torch compute with so many threads; None for as many as there are free cores."""
    import torch

    torch.set_num_threads(threads or free_cores())
