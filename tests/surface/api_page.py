"""The page of the public packages, written from their `__all__`: `python -m tests.surface.api_page` rewrites it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "api.md"
PUBLIC: Final = (
    "worldline",
    "worldline.audit",
    "worldline.catalog",
    "worldline.cli",
    "worldline.config",
    "worldline.control",
    "worldline.data",
    "worldline.engines",
    "worldline.episode",
    "worldline.errors",
    "worldline.formatting",
    "worldline.labs",
    "worldline.models",
    "worldline.planning",
    "worldline.recipes",
    "worldline.registry",
    "worldline.report",
    "worldline.schema",
    "worldline.stats",
    "worldline.testing",
    "worldline.training",
    "worldline.workflows",
    "worldline.world",
)
_TOP: Final = """# Public packages

Import these names from these packages. All other modules are private and may change without notice.
The exam (`exam/`) is a separate distribution and imports nothing else; an import linter and a test enforce this.

Contracts for parts of your own are in `worldline.world` (`World`), `worldline.engines` (`Engine`), `worldline.models`
(`WorldModel`), `worldline.planning` (`Planner`, costs and constraints), `worldline.labs` (`Lab`) and `worldline.data` (`Logs`).
"""


def page() -> str:
    """The text of the page."""
    parts = [_TOP]
    for name in PUBLIC:
        module = import_module(name)
        purpose = (module.__doc__ or "").partition("\n")[0]
        parts.append(f"## `{name}`\n\n{purpose}\n\n{', '.join(f'`{one}`' for one in module.__all__)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
