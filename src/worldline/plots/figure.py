"""Figures of matplotlib without global state: no current figure, and no user settings."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SETTINGS: Final[list[Any]] = [
    "default",
    {"text.parse_math": False, "font.family": ["DejaVu Sans"], "font.size": 8.5, "axes.titlesize": "medium"},
]
"""For `matplotlib.style.context`: plots are the same on every machine."""
_DPI: Final = 144


@cache
def palette() -> Mapping[str, str]:
    """The colours of the report in light mode, by name."""
    text = resources.files("worldline.plots").joinpath("colours.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text.partition("@media")[0]))


class PlotFigure(Figure):
    """A figure that notebooks show.

    Args:
        width: in inches.
        height: in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__((width, height), dpi=_DPI, facecolor=palette()["paper"])
        FigureCanvasAgg(self)  # the figure keeps a reference

    def png(self) -> bytes:
        """The figure as PNG; deterministic."""
        buffer = io.BytesIO()
        with style.context(SETTINGS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # a square replaces the character
            self.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """For IPython."""
        return self.png()
