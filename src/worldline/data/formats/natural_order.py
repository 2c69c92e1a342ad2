"""Natural sort order of file names."""

from __future__ import annotations

import re
from pathlib import Path


def natural(path: Path) -> tuple[tuple[int, str], ...]:
    """Returns a sort key that puts frame_9 before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts if part)
