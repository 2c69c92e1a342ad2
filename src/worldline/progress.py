"""Progress of long calls, its bars on a terminal or in a notebook, and how a caller ends a call."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from worldline.errors import StoppedError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["OnProgress", "Progress", "tell"]

_stop: Final = ContextVar[Callable[[], bool]]("stop", default=bool)
_REFRESH_S: Final = 0.2
"""Seconds between two updates of the bars in a notebook."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a long call is.

    Args:
        stage: name of the current stage, such as "learn". Stages follow each other.
        step: completed steps of the stage, from 0 to `total`.
        total: steps of the stage; 1 if they are not counted.
        loss: training loss of the last update; None in stages without a loss.
        part: a task of the stage that runs beside others and began or ended; "" for none.
        ended: whether this task ended.
    """

    stage: str
    step: int
    total: int
    loss: float | None = None
    part: str = ""
    ended: bool = False


OnProgress = Callable[[Progress], None]
"""Called after each step of a long call."""


def tell(progress: OnProgress | None, stage: str, step: int, total: int = 1, **rest: Any) -> None:
    """Reports progress, if somebody asked for it; without a total: started (0) or done (1)."""
    if progress is not None:
        progress(Progress(stage=stage, step=step, total=total, **rest))


@contextmanager
def telling(progress: OnProgress | None, stage: str) -> Iterator[None]:
    """Reports the start and the end of a stage whose steps are not counted."""
    tell(progress, stage, 0)
    yield
    tell(progress, stage, 1)


def renamed(progress: OnProgress | None, stage: str) -> OnProgress | None:
    """The same receiver for a part of a call; it sees another name of the stage."""
    return None if progress is None else lambda now: progress(replace(now, stage=stage))


def stoppable(progress: OnProgress | None, stop: Callable[[], bool] | None) -> OnProgress | None:
    """A receiver that raises `StoppedError` after a step if `stop` returns True."""
    if stop is None:
        return progress

    def report(now: Progress) -> None:
        if progress is not None:
            progress(now)
        if stop():
            raise StoppedError(f"stopped in the stage {now.stage!r}, after {now.step} of {now.total} steps")

    return report


@contextmanager
def interruptible(stop: Callable[[], bool]) -> Iterator[None]:
    """Lets long calls in its block, in this thread, end with `StoppedError` once `stop` returns True."""
    token = _stop.set(stop)
    try:
        yield
    finally:
        _stop.reset(token)


def check_interrupted() -> None:
    """Ends a long call for whose result nobody waits; call it between two parts of the work.

    Raises:
        StoppedError: the `stop` of `interruptible` returns True.
    """
    if _stop.get()():
        raise StoppedError("nobody waits for the result any more.")


@contextmanager
def shown(progress: OnProgress | Literal["auto"] | None) -> Iterator[OnProgress | None]:
    """Yields the receiver of a call: for "auto", bars on a terminal or in a notebook, and nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if progress == "auto" and (console.is_terminal or console.is_jupyter):
        with progress_bars() as report:
            yield report
    else:
        yield None if progress == "auto" else progress


@contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Yields a receiver of progress that shows one bar per stage: on stderr, or in the cell of a notebook.

    A stage whose steps are not counted has an indeterminate bar. So has each task that runs, below its stage.
    """
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TextColumn, TimeElapsedColumn

    _, bar, share, left = Bars.get_default_columns()
    columns = (TextColumn("{task.description:<26}"), bar, share, TimeElapsedColumn(), left)
    tasks: dict[str, TaskID] = {}
    parts: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Bars(*columns, console=console, disable=console.is_jupyter) as bars:
        draw = _notebook_output(bars) if console.is_jupyter else None

        def report(now: Progress) -> None:
            if now.stage not in tasks:
                tasks[now.stage] = bars.add_task(now.stage)
            counted = now.total > 1 or now.step >= now.total
            loss = "" if now.loss is None else f" (loss {now.loss:.3g})"
            bars.update(
                tasks[now.stage],
                description=f"{now.stage}{loss}",
                completed=now.step,
                total=now.total if counted else None,
            )
            if now.part and not now.ended:
                parts[now.part] = bars.add_task(f"  {now.part}", total=None)
            elif now.part in parts:
                bars.remove_task(parts.pop(now.part))
            if draw is not None:
                draw(now.step in (0, now.total))

        yield report


def _notebook_output(bars: Bars) -> Callable[[bool], None]:
    """A function that draws the bars below the cell, at most every 0.2 s unless it must.

    The display of rich itself needs ipywidgets.
    """
    from IPython.display import HTML, display
    from rich.console import Console

    output, drawn_s = display(HTML(""), display_id=True), -_REFRESH_S

    def draw(must: bool) -> None:
        nonlocal drawn_s
        if must or time.monotonic() - drawn_s >= _REFRESH_S:
            drawn_s = time.monotonic()
            page = Console(file=io.StringIO(), record=True, width=100, force_jupyter=False)
            page.print(bars.get_renderable())
            output.update(HTML(page.export_html(inline_styles=True, code_format="<pre>{code}</pre>")))

    return draw
