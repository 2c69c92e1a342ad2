"""Labs: small Gymnasium environments with exact replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.labs.base import DrawsImages, Hides, Lab, NoisyLab, Policy, SolvedLab, read_options
    from worldline.labs.drawing import BLUE, CAMERA, GREEN, GREY, INK, PAPER, RED, SIZE, YELLOW, Colour, Picture
    from worldline.labs.playing import explore, replay, stacked
    from worldline.labs.spaces import boxes

__all__ = [
    "BLUE",
    "CAMERA",
    "GREEN",
    "GREY",
    "INK",
    "PAPER",
    "RED",
    "SIZE",
    "YELLOW",
    "Colour",
    "DrawsImages",
    "Hides",
    "Lab",
    "NoisyLab",
    "Picture",
    "Policy",
    "SolvedLab",
    "boxes",
    "explore",
    "read_options",
    "replay",
    "stacked",
]

__getattr__ = lazy_names(__name__)
