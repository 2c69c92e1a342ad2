"""Training of models and fitting of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.training.tracking import Tracker

__all__ = ["Tracker"]

__getattr__ = lazy_names(__name__)
