"""What a plan should achieve and avoid, written on named signals in physical units."""

from worldline.costs.constraints import AtLeast, AtMost, KeepOut
from worldline.costs.signals import Change, Price, Track, Within

__all__ = ["AtLeast", "AtMost", "Change", "KeepOut", "Price", "Track", "Within"]
