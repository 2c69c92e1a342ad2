"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from worldline.errors import InputError

Threads = Annotated[int | None, typer.Option(min=1, help="Number of threads.", show_default="number of free cores")]


def checked_file(option: str) -> Callable[[Path | None], Path | None]:
    """A callback that checks the path of an output file while the arguments are parsed.

    It raises `InputError` if the path is a folder, or its folder does not exist.
    """

    def checked(path: Path | None) -> Path | None:
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise InputError(
                f"{option} {path} is not a file in an existing folder. Give the path of a file in an existing folder."
            )
        return path

    return checked


ActionLag = Annotated[
    int | None,
    typer.Option(
        help="Steps by which the logs hold actions too late: 1 if a row holds the action that led to its measurements. "
        "-1 if a row holds the action that is applied one row later.",
        show_default="as in the store, else 0",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="Also write the results to this JSON file.", callback=checked_file("--json")),
]


def _checked_device(name: str) -> str:
    """The name of a device that is available."""
    if name != "auto":  # which is always available, and needs no import of torch here
        from worldline.device import choose_device

        try:
            choose_device(name)
        except InputError as error:
            raise typer.BadParameter(str(error)) from error
    return name


Device = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:N or mps; auto uses a GPU if there is one.", callback=_checked_device),
]


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
