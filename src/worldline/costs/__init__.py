"""What a plan should achieve and avoid, written on named signals in physical units."""

from worldline.costs.constraints import AtLeast, AtMost, KeepOut
from worldline.costs.contact import KeepApart, KeepClear
from worldline.costs.signals import Change, Price, Track, Within
from worldline.costs.trust import Familiar, Unfamiliar

__all__ = [
    "AtLeast",
    "AtMost",
    "Change",
    "Familiar",
    "KeepApart",
    "KeepClear",
    "KeepOut",
    "Price",
    "Track",
    "Unfamiliar",
    "Within",
]
