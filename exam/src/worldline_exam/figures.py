"""What the picture of a test is drawn from: lines in panels."""

from __future__ import annotations

from dataclasses import dataclass

from worldline.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FigureLine:
    """A line, or points.

    Args:
        name: for the legend; lines of one name share their colour over all panels. "truth" and "this world" are drawn
            to be seen first.
        x: [n].
        y: [n]; NaN for a gap.
        low: [n] of a band around it; empty for none.
        high: likewise.
        points: whether to draw points that are not joined.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    points: bool = False

    def __post_init__(self) -> None:
        bands = len(self.low) in (0, len(self.x)) and len(self.high) == len(self.low)
        if len(self.x) != len(self.y) or not bands:
            raise ConfigError(f"line {self.name!r} has {len(self.x)} x and {len(self.y)} y; they must be as many.")


@dataclass(frozen=True, kw_only=True)
class FigurePanel:
    """One chart.

    Args:
        title: what is seen, in a few words.
        x_label: with unit.
        y_label: with unit.
        lines: in drawing order.
        equal: whether both axes have one scale, as a map has.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[FigureLine, ...]
    equal: bool = False


@dataclass(frozen=True, kw_only=True)
class ExamFigure:
    """One to six charts that show what a test is about.

    Args:
        caption: what to look at, in one or two sentences.
        panels: in reading order.
    """

    caption: str
    panels: tuple[FigurePanel, ...]
