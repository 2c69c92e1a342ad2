"""Named worlds: versions, aliases, shadow versions, promotion, fallback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.catalog.fallback import FallbackWorld
    from worldline.catalog.opening import open_target
    from worldline.catalog.versions import Catalog

__all__ = ["Catalog", "FallbackWorld", "open_target"]

__getattr__ = lazy_names(__name__)
