"""A canvas with coordinates in pixels from the top left that is saved as PNG; deterministic.

It uses matplotlib without global state: no current figure, and no user settings.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray

from worldline.formatting import Number

Floats = NDArray[np.float64]
Frames = NDArray[np.uint8]
Dashes = Literal["-", "--"]
"""A solid or a dashed line, as matplotlib names them."""

SCALE: Final = 2
"""Pixels of the PNG per pixel of the drawing, so that text is sharp."""
_DPI: Final = 72 * SCALE
_UNKNOWN: Final = "\N{WHITE SQUARE}"


@cache
def palette() -> Mapping[str, str]:
    """The colours of the report in light mode, by name."""
    text = resources.files("worldline.plots").joinpath("colours.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text.partition("@media")[0]))


@contextmanager
def drawing(width: Number, height: Number) -> Iterator[Canvas]:
    """A blank canvas in a context with matplotlib's default settings.

    Args:
        width: in pixels of the drawing.
        height: in pixels of the drawing.
    """
    with style.context(["default", {"text.parse_math": False, "font.family": ["DejaVu Sans"]}]):
        yield Canvas(width, height)


class PlotFigure(Figure):
    """A figure that notebooks show, without global state of matplotlib."""

    def png(self) -> bytes:
        """The figure as PNG; deterministic."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """For IPython."""
        return self.png()


class Canvas:
    """A canvas; created by `drawing`.

    Args:
        width: in pixels of the drawing.
        height: in pixels of the drawing.

    Attributes:
        figure: of matplotlib.
    """

    def __init__(self, width: Number, height: Number) -> None:
        self.width, self.height = float(round(width)), float(round(height))
        self.figure = PlotFigure((self.width / 72, self.height / 72), dpi=_DPI, facecolor=palette()["paper"])
        FigureCanvasAgg(self.figure)  # the figure keeps a reference
        self._pixels = Affine2D().scale(1 / self.width, -1 / self.height).translate(0, 1) + self.figure.transFigure

    def text(
        self,
        x: Number,
        y: Number,
        text: str,
        *,
        size: Number = 9.0,
        color: str = "ink",
        bold: bool = False,
        align: Literal["left", "center", "right"] = "left",
    ) -> None:
        """Writes one line of text; characters missing in the font become squares.

        Args:
            x: left end, middle or right end of the text, depending on `align`.
            y: baseline.
            text: one line.
            size: font size.
            color: name of a colour in the palette.
            bold: whether the text is bold.
            align: meaning of `x`.
        """
        font, ink = FontProperties(fname=str(_font(bold)), size=size), palette()[color]
        shown = _printable(text, bold)
        self.figure.text(x, y, shown, fontproperties=font, color=ink, ha=align, va="baseline", transform=self._pixels)

    def picture(self, x: Number, y: Number, image: Frames) -> None:
        """Draws an image [height, width, 3] with its top left corner at `x`, `y`, unscaled in pixels of the PNG."""
        left, bottom = round(x * SCALE), round((self.height - y) * SCALE) - len(image)
        self.figure.figimage(image, left, bottom, origin="upper", zorder=2)

    def line(
        self, points: Sequence[tuple[Number, Number]], *, color: str, width: Number = 1.0, dashes: Dashes = "-"
    ) -> None:
        """Draws straight lines between consecutive points; `dashes` is its line style."""
        xs, ys = ([point[k] for point in points] for k in (0, 1))
        stroke = Line2D(xs, ys, color=palette()[color], linewidth=width, linestyle=dashes, transform=self._pixels)
        self.figure.add_artist(stroke)

    def box(self, x: Number, y: Number, width: Number, height: Number, *, fill: str, edge: str) -> None:
        """Draws a rectangle with its top left corner at `x`, `y`."""
        inside, border = palette()[fill], palette()[edge]
        area = Rectangle(
            (x, y), width, height, facecolor=inside, edgecolor=border, linewidth=1.0, transform=self._pixels
        )
        self.figure.add_artist(area)

    def axes(
        self,
        x: Number,
        y: Number,
        width: Number,
        height: Number,
        across: tuple[Number, Number],
        up: tuple[Number, Number],
    ) -> Axes:
        """Axes without frame, ticks and margins.

        Args:
            x: left edge.
            y: upper edge.
            width: width of the axes.
            height: height of the axes.
            across: x values at the left and right edges.
            up: y values at the lower and upper edges.
        """
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        axes.set_xlim(*across)
        axes.set_ylim(*up)
        return axes

    def png(self) -> bytes:
        """The canvas as PNG."""
        return self.figure.png()


def plot(
    axes: Axes, x: Floats, y: Floats, *, color: str, width: Number, dashes: Dashes = "-", alpha: Number = 1.0
) -> None:
    """Draws a curve; NaN leaves a gap, and an isolated point is a dot. `dashes` is its line style."""
    known = np.isfinite(y)
    padded = np.concatenate([[False], known, [False]])
    lone = known & ~padded[:-2] & ~padded[2:]
    ink = palette()[color]
    both: dict[str, Any] = {"color": ink, "alpha": alpha, "clip_on": False}
    axes.plot(x, y, dashes, linewidth=width, solid_capstyle="round", solid_joinstyle="round", **both)
    axes.plot(x[lone], y[lone], ".", markersize=2.4 * width, markeredgewidth=0, **both)


def shorten(text: str, max_length: int) -> str:
    """The text, shortened in the middle if it is longer than `max_length`."""
    if len(text) <= max_length:
        return text
    tail = (max_length - 1) // 3
    return f"{text[: max_length - 1 - tail]}…{text[len(text) - tail :]}"


@cache
def _font(bold: bool) -> Path:
    """The font of matplotlib, so that plots are the same on every machine."""
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@cache
def _known_characters(bold: bool) -> frozenset[int]:
    return frozenset(get_font(str(_font(bold))).get_charmap())


def _printable(text: str, bold: bool) -> str:
    known = _known_characters(bold)
    return "".join(c if (ord(c) in known and c.isprintable()) or c in "\u00a0\u202f" else _UNKNOWN for c in text)
