"""Planners, costs, constraints and goals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.planning.base import Chance, Constraint, Cost, Goal, Rollout
    from worldline.planning.calls import Call, PlanCall, PredictCall, ScoreCall, SurpriseCall, WhatIfCall
    from worldline.planning.costs.constraints import (
        AtLeast,
        AtMost,
        KeepApart,
        KeepClear,
        KeepOut,
        OODPenalty,
        Point,
        RequireInDistribution,
        away_from_wall,
    )
    from worldline.planning.costs.from_numpy import NumpyRollout, from_numpy
    from worldline.planning.costs.step_costs import Change, Price, Track, Within
    from worldline.planning.planners.base import ActionSpace, CostFunction, PlanCosts, PlannedActions, Planner
    from worldline.planning.planners.cem import CrossEntropy
    from worldline.planning.planners.small_searches import Shooting

__all__ = [
    "ActionSpace",
    "AtLeast",
    "AtMost",
    "Call",
    "Chance",
    "Change",
    "Constraint",
    "Cost",
    "CostFunction",
    "CrossEntropy",
    "Goal",
    "KeepApart",
    "KeepClear",
    "KeepOut",
    "NumpyRollout",
    "OODPenalty",
    "PlanCall",
    "PlanCosts",
    "PlannedActions",
    "Planner",
    "Point",
    "PredictCall",
    "Price",
    "RequireInDistribution",
    "Rollout",
    "ScoreCall",
    "Shooting",
    "SurpriseCall",
    "Track",
    "WhatIfCall",
    "Within",
    "away_from_wall",
    "from_numpy",
]

__getattr__ = lazy_names(__name__)
