"""HTML pages of a store and of one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from worldline.formatting import duration, number, percent, plural, size, tick
from worldline.plots import images
from worldline.plots.figure import EpisodeView
from worldline.plots.images import Frames
from worldline.plots.parts import Captioned, Chapter, Chips, Facts, Grid, GridCell, Header, Note, PagePart, Table
from worldline.report import store_figures as say
from worldline.report.page import render_page
from worldline.report.store_figures import StoreFigures

_BOX: Final = 224
"""Largest width and height of an image in pixels."""


@dataclass(frozen=True, kw_only=True)
class Reel:
    """Frames of one camera.

    Args:
        name: of the signal.
        shape: of a frame: height, width, channels.
        rows: for each episode the times and the uint8 frames; None for a frame that was not observed.
    """

    name: str
    shape: tuple[int, ...]
    rows: Sequence[Sequence[tuple[str, Frames | None]]]


@dataclass(frozen=True, kw_only=True)
class SampleImages:
    """Images of a few episodes of a store.

    Args:
        episodes: title, length and ending of each episode.
        reels: one per camera, with a row for each episode.
        note: below them; empty for none.
    """

    episodes: Sequence[tuple[str, str, str]]
    reels: Sequence[Reel]
    note: str = ""


def index_page(figures: StoreFigures, samples: SampleImages | None, links: Mapping[str, str]) -> str:
    """The page of a store.

    Args:
        figures: figures of the store.
        samples: images of a few episodes; None for none.
        links: texts of links, by file in the same folder.
    """
    time = "not known" if figures.time_s is None else duration(figures.time_s)
    tiles = {
        "episodes": number(figures.num_episodes),
        "steps": number(figures.num_steps),
        "logged time": time,
        "on disk": size(figures.num_bytes),
    }
    if figures.num_steps:
        tiles["per step"] = size(figures.num_bytes / figures.num_steps)
    lede = f"{plural(len(figures.signals), 'signal')}; episodes of {say.lengths(figures)}"
    return render_page(
        figures.name,
        Header(title=figures.name, lede=lede, parts=[Facts(list(tiles.items()), "glance"), _links(links)]),
        Chapter("Preview", [] if samples is None else _preview(samples)),
        Chapter("Signals", [_signals_table(figures)]),
        Chapter("Size on disk", [_sizes_table(figures)]),
        Chapter("Origin", [Facts(_origin(figures))]),
    )


def episode_page(store: str, view: EpisodeView, source: Sequence[tuple[str, str]], links: Mapping[str, str]) -> str:
    """The page of one episode.

    Args:
        store: name of the store.
        view: view of the episode.
        source: origin of the episode.
        links: texts of links, by file in the same folder.
    """
    ranges = [_ranges_table(view)] if view.charts else []
    return render_page(
        f"{view.title}, {store}",
        Header(title=view.title, lede=view.subtitle, parts=[_links(links)]),
        Chapter("Time series", [*_reels(view), *_charts(view), *map(Note, view.notes)]),
        Chapter("Value ranges", ranges),
        Chapter("Origin", [Facts(source)]),
    )


def _links(links: Mapping[str, str]) -> Chips | None:
    return Chips([(text, "", file, "") for file, text in links.items()]) if links else None


def _charts(view: EpisodeView) -> list[PagePart]:
    """Charts of all signals over a common time axis, by role."""
    parts: list[PagePart] = []
    for heading, charts in groupby(view.charts, lambda chart: chart.heading):
        parts += [Note(heading, "role"), *charts]
    return parts


def _reels(view: EpisodeView) -> list[PagePart]:
    """Frames of each camera, evenly spaced, with their times."""
    parts: list[PagePart] = []
    for strip in view.strips:
        cells = [
            still(frame, strip.shape, f"{strip.name} at {view.axis.text(moment)}", view.axis.text(moment))
            for frame, moment in zip(strip.frames, view.moments, strict=True)
        ]
        parts.append(Captioned(strip.name, [Grid(strip.name, f"repeat({len(cells)},minmax(3rem,1fr))", cells)], "wide"))
    return parts


def _signals_table(figures: StoreFigures) -> PagePart:
    head = [*say.SIGNAL_TITLES, "stored as", "missing"]
    rows = [[*say.signal_cells(row.signal), row.signal.dtype, say.missing(row)] for row in figures.signals]
    step_s = figures.schema.step_s
    period = "The time per step is unknown" if step_s is None else f"One step takes {tick(step_s)} s"
    return Table(f"{period}. Units: 1 is dimensionless, ? is unknown.", head, rows)


def _sizes_table(figures: StoreFigures) -> PagePart:
    total = figures.num_bytes
    rows = [
        [row.signal.name, size(row.num_bytes), say.value_size(row), percent(row.num_bytes / total), say.exactness(row)]
        for row in figures.signals
    ]
    rows.append(["index, cards", size(figures.other_bytes), "", percent(figures.other_bytes / total), ""])
    head = ["signal", "on disk", "per value", "share", "precision"]
    caption = f"{size(total)} on disk, layout {figures.layout}"
    return Table(caption, head, rows, style="number")


def _origin(figures: StoreFigures) -> list[tuple[str, str]]:
    """Endings of the episodes, keys of the sources, and notes of the data card."""
    rows = [("Endings of episodes", say.endings(figures)), ("Episodes with a seed", number(figures.seeded))]
    rows += [(key.name, say.origin(key)) for key in figures.keys]
    return rows + list(figures.notes.items())


def _ranges_table(view: EpisodeView) -> PagePart:
    """Minimum, mean and maximum of every curve."""
    rows = []
    for chart in view.charts:
        for line in reversed(chart.lines):
            title = chart.title if len(chart.lines) == 1 else f"{chart.title} · {line.label}"
            rows.append([title, *(number(value, 4) for value in line.extent)])
    head = ["signal", "minimum", "mean", "maximum"]
    return Table("Over the whole episode", head, rows, style="number")


def _preview(samples: SampleImages) -> list[PagePart]:
    """The images of each camera, one row per episode."""
    parts: list[PagePart] = []
    for reel in samples.reels:
        columns, cells = max(len(row) for row in reel.rows), list[PagePart]()
        for (title, *lines), frames in zip(samples.episodes, reel.rows, strict=True):
            cells.append(GridCell(title, lines))
            cells += [still(frame, reel.shape, f"{reel.name}, {title}, {time}", time) for time, frame in frames]
            cells += [GridCell()] * (columns - len(frames))
        size = " × ".join(str(n) for n in reel.shape)
        grid = Grid(reel.name, f"8rem repeat({columns},minmax(3rem,7rem))", cells)
        parts.append(Captioned(reel.name, [grid], "wide", aside=size))
    return [*parts, Note(samples.note)] if samples.note else parts


def still(frame: Frames | None, shape: tuple[int, ...], alt: str, text: str) -> GridCell:
    """A frame as a thumbnail with a text; an empty box of the same shape if it is missing."""
    if frame is None:
        return GridCell(lines=[text], lost=(shape[1], shape[0]))
    small = images.png(images.thumbnail(frame, _BOX, _BOX, enlarge=False))
    style = "pixels" if max(shape[:2]) < _BOX else "photo"
    return GridCell(lines=[text], picture=images.picture(small, alt, style))
