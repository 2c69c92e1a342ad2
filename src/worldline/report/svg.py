"""Paths of drawings that are stretched over their box: both axes run from 0 to 1000, strokes keep their width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.formatting import Number

GRID: Final = 1000.0
"""Length of both axes."""


@dataclass(frozen=True)
class Stroke:
    """A path of a drawing.

    Args:
        style: classes of the style sheet.
        d: its commands.
    """

    style: str
    d: str


@dataclass(frozen=True)
class Plane:
    """Maps data to the coordinates of a drawing.

    Args:
        x: values at the left and right ends.
        y: values at the lower and upper ends.
        log: whether the y axis is logarithmic.
    """

    x: tuple[Number, Number]
    y: tuple[Number, Number] = (0.0, 1.0)
    log: bool = False

    def across(self, x: Number) -> Number:
        """The horizontal coordinate, limited to the drawing."""
        return min(GRID, max(0.0, GRID * (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)))

    def down(self, y: Number) -> Number:
        """The vertical coordinate."""
        low, high, value = (math.log10(number) if self.log else number for number in (*self.y, y))
        return GRID * (high - value) / ((high - low) or 1.0)

    def horizontal(self, style: str, y: Number) -> Stroke:
        """A line over the whole width."""
        return Stroke(style, f"M0 {self.down(y):.1f}H1000")

    def vertical(self, style: str, x: Number, top: Number = 0.0, bottom: Number = GRID) -> Stroke:
        """A line over the height, or over a part of it in coordinates of the drawing."""
        return Stroke(style, f"M{self.across(x):.1f} {top:.1f}V{bottom:.1f}")

    def column(self, style: str, start: Number, stop: Number) -> Stroke:
        """An area over the whole height."""
        left, right = f"{self.across(start):.1f}", f"{self.across(stop):.1f}"
        return Stroke(style, f"M{left} 0H{right}V1000H{left}Z")

    def level(self, style: str, start: Number, stop: Number, y: Number = 0.5) -> Stroke:
        """A line at the height `y`; a dot if it has no length."""
        return Stroke(style, f"M{self.across(start):.1f} {self.down(y):.1f}H{self.across(stop):.1f}")

    def curve(self, style: str, xs: Iterable[Number], ys: Iterable[Number], *, points: bool = False) -> Stroke:
        """A curve between its gaps, which are values that cannot be drawn; an isolated point is a dot."""
        runs = self._runs(xs, ys)
        runs = [[point] for run in runs for point in run] if points else runs
        return Stroke(style, "".join("M" + "L".join(run if len(run) > 1 else [*run, *run]) for run in runs))

    def area(self, style: str, xs: Sequence[Number], low: Sequence[Number], high: Sequence[Number]) -> Stroke:
        """The area between two curves."""
        edges = zip(self._runs(xs, high), self._runs(xs, low), strict=False)
        return Stroke(style, "".join(f"M{'L'.join([*top, *reversed(bottom)])}Z" for top, bottom in edges))

    def _runs(self, xs: Iterable[Number], ys: Iterable[Number]) -> list[list[str]]:
        runs: list[list[str]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y) and (y > 0 or not self.log):
                runs[-1].append(f"{self.across(x):.1f} {self.down(y):.1f}")
            else:
                runs.append([])
        return [run for run in runs if run]
