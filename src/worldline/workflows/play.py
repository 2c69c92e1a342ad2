"""A world in a page, with examples from logs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from worldline.data.open_logs import open_logs
from worldline.errors import InputError
from worldline.schema import Role
from worldline.studio.play import MAX_EPISODES, export_page
from worldline.workflows.held_out import check_signals
from worldline.world.local import LocalWorld


def export_play(world: LocalWorld, destination: Path, logs: Path | None = None) -> None:
    """Writes the page, see `export_page`, with the first episodes of logs of any known format.

    Args:
        world: in the page.
        destination: a new file.
        logs: examples; None for the held-out windows of the bundle.

    Raises:
        InputError: the destination exists.
        UnreadableError: the logs lack a signal of the world.
        UnsupportedError: as in `export_page`.
    """
    if destination.exists():
        raise InputError(f"{destination}: exists. Name a new file.")
    if logs is None:
        export_page(world, destination)
        return
    opened, card = open_logs(logs), world.describe()
    needed = [s for s in card.schema.signals if s.name in card.inputs or s.role in (Role.ACTION, Role.EXOGENOUS)]
    check_signals(opened.schema, needed, f"the log {logs.name!r}", "Choose a log of this world.")
    readable = (logged.episode for logged in opened.read() if logged.episode is not None)
    export_page(world, destination, episodes=list(islice(readable, MAX_EPISODES)), log=logs.name)
