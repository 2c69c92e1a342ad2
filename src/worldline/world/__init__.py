"""Worlds: the public contract, implemented once over any engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.world.base import (
        Abduction,
        Forecast,
        Moment,
        Plan,
        PlanStatus,
        Prediction,
        Scores,
        Surprise,
        WhatIf,
        World,
    )
    from worldline.world.bundle_io import open_world, save_world
    from worldline.world.calibration import Calibration
    from worldline.world.fit_calibration import calibrate
    from worldline.world.local import LocalWorld
    from worldline.world.remote import RemoteSession, RemoteWorld
    from worldline.world.session import Session

__all__ = [
    "Abduction",
    "Calibration",
    "Forecast",
    "LocalWorld",
    "Moment",
    "Plan",
    "PlanStatus",
    "Prediction",
    "RemoteSession",
    "RemoteWorld",
    "Scores",
    "Session",
    "Surprise",
    "WhatIf",
    "World",
    "calibrate",
    "open_world",
    "save_world",
]

__getattr__ = lazy_names(__name__)
