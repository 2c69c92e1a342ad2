"""`worldline goals`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worldline.cli.options import Device, Threads, use_threads
from worldline.cli.output import print_next, progress_bars


def goals(
    world: Annotated[Path, typer.Argument(metavar="WORLD")],
    logs: Annotated[Path | None, typer.Argument(metavar="[LOGS]")] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Add goal heads to a learned world: distance in steps, and actions that lead to a goal.

    Args:
        world: folder of a learned world.
        logs: the store that it was learned from. Default: WORLD.store, written by learn.
    """
    from worldline.workflows.fit_goals import fit_goals
    from worldline.workflows.learn import store_folder

    use_threads(threads)
    with progress_bars() as progress:
        fit_goals(world, logs, device=device, progress=progress)
    print(f"World:  {world} has goal heads")
    print_next("audit", world, logs or store_folder(world.resolve()))
