"""Progress reports of a workflow."""

from __future__ import annotations

from collections.abc import Callable

Stage = Callable[[str, int, int], None]
"""Called with the name of the stage, the steps done and their total."""


def counted(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    """The progress callback of a stage that counts its steps."""
    return None if stage is None else lambda done, total: stage(name, done, total)


def tell(stage: Stage | None, name: str, done: int) -> None:
    """Reports a stage without steps: started (0) or done (1)."""
    if stage is not None:
        stage(name, done, 1)
