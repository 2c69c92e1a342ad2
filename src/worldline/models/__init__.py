"""Learned world models; each family has its own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.models.base import Adapts, Belief, Inputs, LatentRollout, Losses, Window, WorldModel

__all__ = [
    "Adapts",
    "Belief",
    "Inputs",
    "LatentRollout",
    "Losses",
    "Window",
    "WorldModel",
]

__getattr__ = lazy_names(__name__)
