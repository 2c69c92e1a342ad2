"""Drawing of 64 x 64 lab images; edges are antialiased, so sub-pixel motion is visible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from worldline.schema import Kind, Role, Signal

SIZE: Final = 64
CAMERA: Final = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIZE, SIZE, 3))
"""The image signal of labs with a camera."""

Colour = tuple[int, int, int]
INK: Final[Colour] = (34, 40, 49)
PAPER: Final[Colour] = (244, 241, 234)
RED: Final[Colour] = (205, 70, 55)
BLUE: Final[Colour] = (48, 98, 168)
GREEN: Final[Colour] = (62, 140, 96)
YELLOW: Final[Colour] = (228, 178, 60)
GREY: Final[Colour] = (150, 150, 146)


@final
@dataclass(eq=False)
class Picture:
    """An image that is drawn in the lab's coordinates; y points up.

    Args:
        low: coordinate of the left and lower edge, on both axes.
        high: coordinate of the right and upper edge.
        paper: background colour.
    """

    low: float
    high: float
    paper: Colour = PAPER

    def __post_init__(self) -> None:
        self._pixels = np.tile(np.asarray(self.paper, dtype=float), (SIZE, SIZE, 1))
        self._unit = (self.high - self.low) / SIZE
        centres = self.low + self._unit * (np.arange(SIZE) + 0.5)
        self._x, self._y = centres[None, :], centres[::-1][:, None]

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Draws a filled circle."""
        part = self._around((x, x), (y, y), radius)
        self._fill(part, np.hypot(self._x[:, part[1]] - x, self._y[part[0]] - y) - radius, colour)

    def box(
        self, x: float, y: float, half_width: float, half_height: float, colour: Colour, angle: float = 0.0
    ) -> None:
        """Draws a filled rectangle with centre (x, y), turned counterclockwise by `angle` radians."""
        part = self._around((x, x), (y, y), float(np.hypot(half_width, half_height)))
        dx, dy = self._x[:, part[1]] - x, self._y[part[0]] - y
        along = np.abs(np.cos(angle) * dx + np.sin(angle) * dy) - half_width
        across = np.abs(np.cos(angle) * dy - np.sin(angle) * dx) - half_height
        self._fill(part, np.maximum(along, across), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        """Draws a line with round ends."""
        part = self._around((x0, x1), (y0, y1), width / 2)
        across, up = self._x[:, part[1]], self._y[part[0]]
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy
        share = ((across - x0) * dx + (up - y0) * dy) / square if square > 0 else 0.0 * (across + up)
        share = np.clip(share, 0.0, 1.0)
        self._fill(part, np.hypot(across - x0 - share * dx, up - y0 - share * dy) - width / 2, colour)

    def pixels(self) -> UInt8[np.ndarray, "64 64 3"]:
        """Returns the image."""
        return np.asarray(np.rint(self._pixels), dtype=np.uint8)

    def _around(self, x: tuple[float, float], y: tuple[float, float], reach: float) -> tuple[slice, slice]:
        """Returns the rows and columns within `reach` of a rectangle plus one pixel; only these change colour."""

        def span(ends: tuple[float, float]) -> tuple[int, int]:
            low = (min(ends) - reach - self.low) / self._unit - 1
            high = (max(ends) + reach - self.low) / self._unit + 1
            first, last = np.clip([np.floor(low), np.ceil(high)], 0, SIZE)
            return int(first), int(last)

        (left, right), (lower, upper) = span(x), span(y)
        return slice(SIZE - upper, SIZE - lower), slice(left, right)

    def _fill(self, part: tuple[slice, slice], distance: Float[np.ndarray, "rows columns"], colour: Colour) -> None:
        """Colours pixels by the covered share, which the signed `distance` of their centres approximates."""
        cover: NDArray[np.floating] = np.clip(0.5 - distance / self._unit, 0.0, 1.0)[..., None]
        self._pixels[part] += cover * (np.asarray(colour, dtype=float) - self._pixels[part])
