"""How a workflow tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Stage = Callable[[str, int, int], None]
"""Called with the name of the stage, what is done and what there is to do."""


def counted(stage: Stage | None, name: str) -> Callable[[int, int], None] | None:
    """For a part that counts what is done and what there is to do."""
    return None if stage is None else lambda done, total: stage(name, done, total)


def tell(stage: Stage | None, name: str, done: int) -> None:
    """For a part that is not counted: it is under way (0), or done (1)."""
    if stage is not None:
        stage(name, done, 1)
