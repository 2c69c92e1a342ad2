"""A sheet to draw on, in pixels from the top left; what comes out is a PNG, the same bytes for the same drawing.

It uses matplotlib without its global state: there is no current figure, and no setting of the user's has a say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from worldline.formatting import Number

Floats = NDArray[np.float64]
Frames = NDArray[np.uint8]

SCALE: Final = 2
"""Pixels of the picture to one of the drawing, so that text is sharp."""
_DPI: Final = 72 * SCALE
_UNKNOWN: Final = "\N{WHITE SQUARE}"


@cache
def palette() -> Mapping[str, str]:
    """The report's colours on paper, by name."""
    text = resources.files("worldline.plots").joinpath("report.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", text.partition("@media")[0]))


@contextmanager
def drawing(width: Number, height: Number) -> Iterator[Canvas]:
    """A blank sheet; matplotlib's own defaults hold as long as it is drawn on.

    Args:
        width: in pixels of the drawing.
        height: in pixels of the drawing.
    """
    with style.context(["default", {"text.parse_math": False, "font.family": ["DejaVu Sans"]}]):
        yield Canvas(width, height)


class Canvas:
    """A sheet to draw on; made by `drawing`.

    Args:
        width: in pixels of the drawing.
        height: in pixels of the drawing.
    """

    def __init__(self, width: Number, height: Number) -> None:
        self.width, self.height = float(round(width)), float(round(height))
        self._figure = Figure((self.width / 72, self.height / 72), dpi=_DPI, facecolor=palette()["paper"])
        FigureCanvasAgg(self._figure)  # the figure keeps it

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
        """Writes one line, its baseline at `y`; characters that the font lacks become squares.

        Args:
            x: left end, middle or right end of the text, as `align` says.
            y: of the baseline.
            text: one line.
            size: of the letters.
            color: a name in the palette.
            bold: whether it stands out.
            align: what `x` is.
        """
        font = _font(bold)
        self._figure.text(
            x / self.width,
            1 - y / self.height,
            _printable(text, bold),
            fontproperties=FontProperties(fname=str(font), size=size),
            color=palette()[color],
            ha=align,
            va="baseline",
        )

    def picture(self, x: Number, y: Number, image: Frames) -> None:
        """Puts an image [height, width, 3] with its top left corner there, each of its pixels one of the PNG."""
        left, bottom = round(x * SCALE), round((self.height - y) * SCALE) - len(image)
        self._figure.figimage(image, left, bottom, origin="upper", zorder=2)

    def line(self, points: Sequence[tuple[Number, Number]], *, color: str, width: Number = 1.0) -> None:
        """Draws straight lines from point to point."""
        xs, ys = ([point[k] for point in points] for k in (0, 1))
        across, up = [x / self.width for x in xs], [1 - y / self.height for y in ys]
        stroke = Line2D(across, up, color=palette()[color], linewidth=width, transform=self._figure.transFigure)
        self._figure.add_artist(stroke)

    def box(self, x: Number, y: Number, width: Number, height: Number, *, fill: str, edge: str) -> None:
        """Draws a rectangle; its top left corner is at `x`, `y`."""
        corner = (x / self.width, 1 - (y + height) / self.height)
        area = Rectangle(
            corner,
            width / self.width,
            height / self.height,
            facecolor=palette()[fill],
            edgecolor=palette()[edge],
            linewidth=1.0,
            transform=self._figure.transFigure,
        )
        self._figure.add_artist(area)

    def axes(
        self,
        x: Number,
        y: Number,
        width: Number,
        height: Number,
        across: tuple[Number, Number],
        up: tuple[Number, Number],
    ) -> Axes:
        """Bare axes: no frame, no ticks, no margins.

        Args:
            x: of the left edge.
            y: of the upper edge.
            width: of the axes.
            height: of the axes.
            across: what the left and right edges stand for.
            up: what the lower and upper edges stand for.
        """
        place = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        axes = self._figure.add_axes(place)
        axes.set_axis_off()
        axes.set_xlim(*across)
        axes.set_ylim(*up)
        return axes

    def png(self) -> bytes:
        """The picture."""
        buffer = io.BytesIO()
        self._figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()


def plot(axes: Axes, x: Floats, y: Floats, *, color: str, width: Number) -> None:
    """Draws a curve; NaN leaves a gap, and a point between two gaps is a dot."""
    known = np.isfinite(y)
    padded = np.concatenate([[False], known, [False]])
    lone = known & ~padded[:-2] & ~padded[2:]
    ink = palette()[color]
    axes.plot(x, y, color=ink, linewidth=width, solid_capstyle="round", solid_joinstyle="round", clip_on=False)
    axes.plot(x[lone], y[lone], ".", color=ink, markersize=2.4 * width, markeredgewidth=0, clip_on=False)


def shorten(text: str, most: int) -> str:
    """The text, or its first and last characters where it has more than `most`."""
    if len(text) <= most:
        return text
    tail = (most - 1) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


@cache
def _font(bold: bool) -> Path:
    """The font that comes with matplotlib, so that every machine draws the same."""
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@cache
def _known_characters(bold: bool) -> frozenset[int]:
    return frozenset(get_font(str(_font(bold))).get_charmap())


def _printable(text: str, bold: bool) -> str:
    known = _known_characters(bold)
    return "".join(c if (ord(c) in known and c.isprintable()) or c in "\u00a0\u202f" else _UNKNOWN for c in text)
