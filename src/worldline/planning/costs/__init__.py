"""Costs and constraints on named signals in physical units."""

from worldline.planning.costs.constraints import (
    AtLeast,
    AtMost,
    KeepApart,
    KeepClear,
    KeepOut,
    OODPenalty,
    RequireInDistribution,
)
from worldline.planning.costs.step_costs import Change, Price, Track, Within

__all__ = [
    "AtLeast",
    "AtMost",
    "Change",
    "KeepApart",
    "KeepClear",
    "KeepOut",
    "OODPenalty",
    "Price",
    "RequireInDistribution",
    "Track",
    "Within",
]
