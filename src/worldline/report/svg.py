"""Inline SVG that is stretched over its box: coordinates run from 0 to 1000 on both axes, strokes keep their width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from worldline.formatting import Number
from worldline.report.markup import Html, tag

GRID: Final = 1000.0
"""Length of both axes."""

Runs = Sequence[Sequence[str]]
"""Points "x y" of a curve between its gaps."""


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
        """The horizontal coordinate."""
        return GRID * (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)

    def down(self, y: Number) -> Number:
        """The vertical coordinate."""
        low, high, value = (math.log10(one) if self.log else one for one in (*self.y, y))
        return GRID * (high - value) / (high - low)

    def runs(self, xs: Iterable[Number], ys: Iterable[Number]) -> list[list[str]]:
        """The points of a curve between its gaps, which are values that cannot be drawn."""
        runs: list[list[str]] = [[]]
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(x) and math.isfinite(y) and (y > 0 or not self.log):
                runs[-1].append(f"{self.across(x):.1f} {self.down(y):.1f}")
            else:
                runs.append([])
        return [run for run in runs if run]

    def horizontal(self, style: str, y: Number) -> Html:
        """A line over the whole width."""
        return rule(style, 0, self.down(y), GRID, self.down(y))

    def vertical(self, style: str, x: Number) -> Html:
        """A line over the whole height."""
        return rule(style, self.across(x), 0, self.across(x), GRID)

    def x_label(self, style: str, x: Number, text: str) -> Html:
        """A label of the x axis, placed in per cent."""
        return _label(style, "left", self.across(x), text)

    def y_label(self, style: str, y: Number, text: str) -> Html:
        """A label of the y axis, placed in per cent."""
        return _label(style, "top", self.down(y), text)


def _label(style: str, side: str, position: Number, text: str) -> Html:
    return tag("span", {"class": style, "style": f"{side}:{position / 10:.2f}%", "aria-hidden": "true"}, text)


def svg(*drawn: str, style: str = "") -> Html:
    """A drawing without a text alternative, which its container has."""
    frame = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "aria-hidden": "true", "focusable": "false"}
    return tag("svg", {**frame, "class": style} if style else frame, *drawn)


def path(style: str, moves: str) -> Html:
    """A path of this class."""
    return tag("path", {"class": style, "d": moves})


def rule(style: str, x1: Number, y1: Number, x2: Number, y2: Number) -> Html:
    """A straight line; a dot if its length is 0."""
    return path(style, f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}")


def curve(style: str, runs: Runs) -> Html:
    """A curve through the points; an isolated point is a dot."""
    return path(style, "".join("M" + "L".join(run if len(run) > 1 else [*run, *run]) for run in runs))


def area(style: str, upper: Runs, lower: Runs) -> Html:
    """The area between two curves."""
    parts = [f"M{'L'.join([*top, *reversed(bottom)])}Z" for top, bottom in zip(upper, lower, strict=False)]
    return path(style, "".join(parts))


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """A legend of lines.

    Args:
        entries: label and class of each line.
    """
    key = rule("", 0, 500, GRID, 500)
    keys = [tag("span", {"class": "key"}, svg(key, style=f"line {style}"), label) for label, style in entries]
    return tag("div", {"class": "legend", "aria-hidden": "true"}, *keys)
