"""Control of environments with a world: a replanning controller, a real-time loop, and goal-reaching evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.control.controller import Actor, ReplanningController, Situation, WorldActor
    from worldline.control.realtime import Period, PlantReading, RealTimeLoop

__all__ = ["Actor", "Period", "PlantReading", "RealTimeLoop", "ReplanningController", "Situation", "WorldActor"]

__getattr__ = lazy_names(__name__)
