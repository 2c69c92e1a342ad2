"""Recipes: functions that return the configuration of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.recipes.families import resized, with_family
    from worldline.recipes.recipe import Recipe

__all__ = ["Recipe", "resized", "with_family"]

__getattr__ = lazy_names(__name__)
