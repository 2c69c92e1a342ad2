"""Labs: small Gymnasium environments with exact replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.labs.base import DrawsImages as DrawsImages
    from worldline.labs.base import Hides as Hides
    from worldline.labs.base import Lab as Lab
    from worldline.labs.base import NoisyLab as NoisyLab
    from worldline.labs.base import Policy as Policy
    from worldline.labs.base import SolvedLab as SolvedLab
    from worldline.labs.base import read_options as read_options
    from worldline.labs.drawing import BLUE as BLUE
    from worldline.labs.drawing import CAMERA as CAMERA
    from worldline.labs.drawing import GREEN as GREEN
    from worldline.labs.drawing import GREY as GREY
    from worldline.labs.drawing import INK as INK
    from worldline.labs.drawing import PAPER as PAPER
    from worldline.labs.drawing import RED as RED
    from worldline.labs.drawing import SIZE as SIZE
    from worldline.labs.drawing import YELLOW as YELLOW
    from worldline.labs.drawing import Colour as Colour
    from worldline.labs.drawing import Picture as Picture
    from worldline.labs.playing import explore as explore
    from worldline.labs.playing import replay as replay
    from worldline.labs.playing import stacked as stacked
    from worldline.labs.spaces import boxes as boxes


__getattr__ = lazy_names(__name__)
