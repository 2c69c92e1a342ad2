"""Inline SVG that is stretched over its box: coordinates run from 0 to 1000 on both axes, strokes keep their width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from worldline.formatting import Number
from worldline.report.markup import Html, tag

GRID: Final = 1000.0
"""Length of both axes."""

Runs = Sequence[Sequence[str]]
"""Points "x y" of a curve between its gaps."""


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
