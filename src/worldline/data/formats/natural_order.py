"""The order of names that hold numbers."""

from __future__ import annotations

import re
from pathlib import Path


def natural(path: Path) -> tuple[tuple[int, str], ...]:
    """A key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts if part)
