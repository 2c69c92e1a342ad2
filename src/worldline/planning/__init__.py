"""Planners, costs, constraints and goals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.planning.base import Chance as Chance
    from worldline.planning.base import Constraint as Constraint
    from worldline.planning.base import Cost as Cost
    from worldline.planning.base import Goal as Goal
    from worldline.planning.base import Rollout as Rollout
    from worldline.planning.calls import Call as Call
    from worldline.planning.calls import PlanCall as PlanCall
    from worldline.planning.calls import PredictCall as PredictCall
    from worldline.planning.calls import ScoreCall as ScoreCall
    from worldline.planning.calls import SurpriseCall as SurpriseCall
    from worldline.planning.calls import WhatIfCall as WhatIfCall
    from worldline.planning.costs.constraints import AtLeast as AtLeast
    from worldline.planning.costs.constraints import AtMost as AtMost
    from worldline.planning.costs.constraints import KeepApart as KeepApart
    from worldline.planning.costs.constraints import KeepClear as KeepClear
    from worldline.planning.costs.constraints import KeepOut as KeepOut
    from worldline.planning.costs.constraints import OODPenalty as OODPenalty
    from worldline.planning.costs.constraints import Point as Point
    from worldline.planning.costs.constraints import RequireInDistribution as RequireInDistribution
    from worldline.planning.costs.constraints import away_from_wall as away_from_wall
    from worldline.planning.costs.from_numpy import NumpyRollout as NumpyRollout
    from worldline.planning.costs.from_numpy import from_numpy as from_numpy
    from worldline.planning.costs.step_costs import Change as Change
    from worldline.planning.costs.step_costs import Price as Price
    from worldline.planning.costs.step_costs import Track as Track
    from worldline.planning.costs.step_costs import Within as Within
    from worldline.planning.planners.base import ActionSpace as ActionSpace
    from worldline.planning.planners.base import CostFunction as CostFunction
    from worldline.planning.planners.base import PlanCosts as PlanCosts
    from worldline.planning.planners.base import PlannedActions as PlannedActions
    from worldline.planning.planners.base import Planner as Planner
    from worldline.planning.planners.cem import CrossEntropy as CrossEntropy
    from worldline.planning.planners.small_searches import Shooting as Shooting


__getattr__ = lazy_names(__name__)
