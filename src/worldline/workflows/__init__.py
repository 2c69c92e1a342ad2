"""Workflows: what a command or a job runs from end to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.workflows.learn_result import versions
    from worldline.workflows.training import Learned, build_model, learn_world

__all__ = [
    "Learned",
    "build_model",
    "learn_world",
    "versions",
]

__getattr__ = lazy_names(__name__)
