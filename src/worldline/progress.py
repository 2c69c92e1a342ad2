"""Progress of long calls, and how a caller ends one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from worldline.errors import StoppedError

__all__ = ["OnProgress", "Progress", "tell"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a long call is.

    Args:
        stage: name of the current stage, such as "learn". Stages follow each other.
        step: completed steps of the stage, from 0 to `total`.
        total: steps of the stage; 1 if they are not counted.
        loss: training loss of the last update; None in stages without a loss.
    """

    stage: str
    step: int
    total: int
    loss: float | None = None


OnProgress = Callable[[Progress], None]
"""Called after each step of a long call."""


def tell(progress: OnProgress | None, stage: str, step: int, total: int = 1, *, loss: float | None = None) -> None:
    """Reports progress, if somebody asked for it; without a total: started (0) or done (1)."""
    if progress is not None:
        progress(Progress(stage=stage, step=step, total=total, loss=loss))


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
