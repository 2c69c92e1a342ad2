"""Pictures of labs, 64 x 64, with smooth edges so that less than a pixel of motion shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from worldline.contracts.schema import Kind, Role, Signal

SIZE: Final = 64
CAMERA: Final = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(SIZE, SIZE, 3))
"""The signal that a lab with pictures adds."""

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
    """A picture that is being drawn, in the lab's own coordinates; y points up.

    Args:
        low: of both axes at the left and lower edge.
        high: at the right and upper edge.
        paper: background.
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
        """A filled circle."""
        self._fill(np.hypot(self._x - x, self._y - y) - radius, colour)

    def box(
        self, x: float, y: float, half_width: float, half_height: float, colour: Colour, angle: float = 0.0
    ) -> None:
        """A filled rectangle around its middle, turned by `angle` radians against the clock."""
        dx, dy = self._x - x, self._y - y
        along = np.abs(np.cos(angle) * dx + np.sin(angle) * dy) - half_width
        across = np.abs(np.cos(angle) * dy - np.sin(angle) * dx) - half_height
        self._fill(np.maximum(along, across), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        """A line with round ends."""
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy
        share = ((self._x - x0) * dx + (self._y - y0) * dy) / square if square > 0 else 0.0 * (self._x + self._y)
        share = np.clip(share, 0.0, 1.0)
        self._fill(np.hypot(self._x - x0 - share * dx, self._y - y0 - share * dy) - width / 2, colour)

    def pixels(self) -> UInt8[np.ndarray, "64 64 3"]:
        """What was drawn."""
        return np.asarray(np.rint(self._pixels), dtype=np.uint8)

    def _fill(self, distance: Float[np.ndarray, "64 64"], colour: Colour) -> None:
        """Colours what is inside, a pixel at the edge as far as it is."""
        cover: NDArray[np.floating] = np.clip(0.5 - distance / self._unit, 0.0, 1.0)[..., None]
        self._pixels += cover * (np.asarray(colour, dtype=float) - self._pixels)
