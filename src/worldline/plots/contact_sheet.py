"""The content of a contact sheet: one row per episode, with a few frames or with small curves of each signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldline.plots.panels import SignalPanel
from worldline.plots.thumbnails import Frames


@dataclass(frozen=True, kw_only=True)
class SheetFrame:
    """One frame of an episode.

    Args:
        text: time of the frame.
        frame: uint8 [height, width, channels]; None if it was not observed.
    """

    text: str
    frame: Frames | None


@dataclass(frozen=True, kw_only=True)
class Heading:
    """Heading of an episode.

    Args:
        title: title of the episode.
        lines: length and ending, in one or two short lines.
    """

    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reel:
    """Frames of one camera.

    Args:
        name: name of the signal.
        shape: shape of a frame: height, width, channels.
        rows: frames of each episode.
    """

    name: str
    shape: tuple[int, ...]
    rows: Sequence[Sequence[SheetFrame]]


@dataclass(frozen=True, kw_only=True)
class Sparks:
    """Signals as small curves, if there is no camera.

    Args:
        columns: for each signal one panel per episode, with a common range of values.
        span: time span of the longest episode, in its unit.
    """

    columns: Sequence[Sequence[SignalPanel]]
    span: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Content of a contact sheet.

    Args:
        title: title of the sheet.
        subtitle: one line; empty for none.
        rows: heading of each episode.
        reels: one per camera; may be empty.
        sparks: curves if there is no camera; None for none.
        note: note at the bottom; empty for none.
    """

    title: str
    subtitle: str
    rows: Sequence[Heading]
    reels: Sequence[Reel]
    sparks: Sparks | None = None
    note: str = ""
