"""Data of the figure of a test: lines in panels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import SupportsFloat


@dataclass(frozen=True, kw_only=True)
class FigureLine:
    """A line or a set of points.

    Args:
        name: legend entry. Lines with the same name have the same colour in all panels. "truth" and "this world" are
            highlighted.
        x: [n].
        y: [n]; NaN for a gap.
        low: lower end [n] of a band; empty for none.
        high: upper end [n] of a band; empty for none.
        points: whether to draw separate points.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    points: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        x: Iterable[SupportsFloat],
        y: Iterable[SupportsFloat],
        *,
        low: Iterable[SupportsFloat] = (),
        high: Iterable[SupportsFloat] = (),
        points: bool = False,
    ) -> FigureLine:
        """A line of arrays or other sequences of numbers."""
        xs, ys, lows, highs = (tuple(map(float, values)) for values in (x, y, low, high))
        return cls(name=name, x=xs, y=ys, low=lows, high=highs, points=points)


@dataclass(frozen=True, kw_only=True)
class FigurePanel:
    """One chart.

    Args:
        title: short title.
        x_label: label with unit.
        y_label: label with unit.
        lines: in drawing order.
        equal: whether both axes have the same scale.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[FigureLine, ...]
    equal: bool = False

    @classmethod
    def of(
        cls, title: str, x_label: str, y_label: str, lines: Iterable[FigureLine], *, equal: bool = False
    ) -> FigurePanel:
        """A panel of any iterable of lines."""
        return cls(title=title, x_label=x_label, y_label=y_label, lines=tuple(lines), equal=equal)


@dataclass(frozen=True, kw_only=True)
class ExamFigure:
    """One to six charts that illustrate a test.

    Args:
        caption: one or two sentences.
        panels: in reading order.
    """

    caption: str
    panels: tuple[FigurePanel, ...]
