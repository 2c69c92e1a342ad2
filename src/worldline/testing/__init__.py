"""The public conformance kit: checks a model, planner, engine or world against its contract."""

from __future__ import annotations

from worldline.testing.engines import check_engine
from worldline.testing.models import check_model
from worldline.testing.planners import check_planner
from worldline.testing.worlds import check_world

__all__ = ["check_engine", "check_model", "check_planner", "check_world"]
