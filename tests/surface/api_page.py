"""The page of the public packages, written from their `__all__`: `python -m tests.surface.api_page` rewrites it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "api.md"
_PARTS: Final = """
    audit catalog cli config control data device engines episode errors formatting labs models planning progress
    recipes registry report schema stats testing training workers workflows world
"""
PUBLIC: Final = ("worldline", *(f"worldline.{part}" for part in _PARTS.split()))


def _summary(value: object) -> str:
    """The first line of the docstring of a class, function or module; empty for constants and type aliases."""
    if value is object:
        return "An opaque value that only the engine which made it reads."
    documented = isinstance(value, type | ModuleType) or (
        callable(value) and getattr(value, "__module__", "").startswith("worldline")
    )
    return (getattr(value, "__doc__", None) or "").partition("\n")[0].replace("|", "\\|") if documented else ""


def page() -> str:
    """The text of the page."""
    parts = [PAGE.read_text(encoding="utf-8").partition("\n## `")[0]]
    for name in PUBLIC:
        module = import_module(name)
        purpose = (module.__doc__ or "").partition("\n")[0]
        rows = [f"| `{one}` | {_summary(getattr(module, one))} |" for one in module.__all__]
        parts.append("\n".join([f"## `{name}`", "", purpose, "", "| name | what it is |", "| --- | --- |", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
