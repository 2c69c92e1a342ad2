"""The code that pages print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def blocks(page: Path) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def run(code: str, page: Path, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs a block of a page with these names; returns the names after it."""
    names = {} if names is None else names
    exec(compile(code, str(page), "exec"), names)  # noqa: S102 (the page's code is what is tested)
    return names
