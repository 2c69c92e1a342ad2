"""Progress bars for the stages of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields a function that reports progress: name of the stage, finished and total number of units.

    The bars are printed to stderr. A stage with one unit has an indeterminate bar.
    """
    from rich.console import Console
    from rich.progress import Progress, TaskID, TextColumn, TimeElapsedColumn

    _, bar, share, left = Progress.get_default_columns()
    columns = (TextColumn("{task.description:<26}"), bar, share, TimeElapsedColumn(), left)
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def stage(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            counted = total > 1 or done >= total
            bars.update(tasks[name], completed=done, total=total if counted else None)

        yield stage
