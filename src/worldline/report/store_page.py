"""HTML pages of a store and of one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from worldline.data.store import Store
from worldline.data.store_plot import ending_of, frame_of, length_of, spread, step_s_of
from worldline.formatting import duration, number, plural, size, tick
from worldline.plots import images
from worldline.plots.episode_view import MAX_CAMERAS
from worldline.plots.figure import EpisodeView
from worldline.plots.images import Frames
from worldline.plots.parts import Captioned, Chapter, Chips, Facts, Grid, GridCell, Header, Note, PagePart, Table
from worldline.plots.signal_chart import time_axis
from worldline.report import store_figures as say
from worldline.report.page import render_page
from worldline.report.store_figures import StoreFigures
from worldline.schema import Kind, Signal

SAMPLE_EPISODES: Final = 8
SAMPLE_MOMENTS: Final = 8
_BOX: Final = 224
"""Largest width and height of an image in pixels."""


def index_page(figures: StoreFigures, preview: Sequence[PagePart], links: Mapping[str, str]) -> str:
    """The page of a store.

    Args:
        figures: figures of the store.
        preview: images of a few episodes.
        links: texts of links, by file in the same folder.
    """
    time = "not known" if figures.time_s is None else duration(figures.time_s)
    counts = [("episodes", number(figures.num_episodes)), ("steps", number(figures.num_steps))]
    tiles = [*counts, ("logged time", time), ("on disk", size(figures.num_bytes))]
    lede = f"{plural(len(figures.signals), 'signal')}; episodes of {say.lengths(figures)}"
    origin = [("Endings of episodes", say.endings(figures)), ("Episodes with a seed", number(figures.seeded))]
    return render_page(
        figures.name,
        Header(title=figures.name, lede=lede, parts=[Facts(tiles, "glance"), _links(links)]),
        Chapter("Preview", preview),
        Chapter("Signals", [_signals_table(figures)]),
        Chapter("Origin", [Facts([*origin, *figures.sources.items(), *figures.notes.items()])]),
    )


def episode_page(store: str, view: EpisodeView, source: Sequence[tuple[str, str]], links: Mapping[str, str]) -> str:
    """The page of one episode.

    Args:
        store: name of the store.
        view: view of the episode.
        source: origin of the episode.
        links: texts of links, by file in the same folder.
    """
    return render_page(
        f"{view.title}, {store}",
        Header(title=view.title, lede=view.subtitle, parts=[_links(links)]),
        Chapter("Time series", [*_reels(view), *_charts(view), *map(Note, view.notes)]),
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
    texts = [view.axis.text(moment) for moment in view.moments]
    for strip in view.strips:
        frames = zip(strip.frames, texts, strict=True)
        cells = [still(frame, strip.shape, f"{strip.name} at {text}", text) for frame, text in frames]
        parts.append(Captioned(strip.name, [Grid(strip.name, f"repeat({len(cells)},minmax(3rem,1fr))", cells)], "wide"))
    return parts


def _signals_table(figures: StoreFigures) -> PagePart:
    head = [*say.SIGNAL_TITLES, "stored as", "missing", "on disk"]
    rows = [
        [*say.signal_cells(row.signal), say.stored_as(row), say.missing(row), size(row.num_bytes)]
        for row in figures.signals
    ]
    step_s = figures.schema.step_s
    period = "The time per step is unknown" if step_s is None else f"One step takes {tick(step_s)} s"
    return Table(f"{period}. Units: 1 is dimensionless, ? is unknown.", head, rows)


def preview(store: Store) -> list[PagePart]:
    """Images of up to 8 episodes of each camera, evenly spread; nothing without episodes or cameras."""
    cameras = [signal for signal in store.schema.observations if signal.kind is Kind.IMAGE]
    numbers = spread(len(store), SAMPLE_EPISODES)
    parts: list[PagePart] = [_sheet(store, camera, numbers) for camera in cameras[:MAX_CAMERAS] if numbers]
    left = len(cameras[MAX_CAMERAS:])
    return [*parts, Note(f"{plural(left, 'camera')} left out.")] if parts and left else parts


def _sheet(store: Store, camera: Signal, numbers: Sequence[int]) -> Captioned:
    """Up to 8 images of each episode, one row per episode."""
    moments = {k: spread(int(store.num_steps[k]) + 1, SAMPLE_MOMENTS) for k in numbers}
    columns, cells = max(map(len, moments.values())), list[PagePart]()
    for k, times in moments.items():
        title, axis = f"episode {k}", time_axis(int(store.num_steps[k]), step_s_of(store, k))
        cells.append(GridCell(title, [length_of(store, k), ending_of(store, k)]))
        for at in times:
            text, frame = axis.text(at), frame_of(store, camera, k, at)
            cells.append(still(frame, camera.shape, f"{camera.name}, {title}, {text}", text))
        cells += [GridCell()] * (columns - len(times))
    grid = Grid(camera.name, f"8rem repeat({columns},minmax(3rem,7rem))", cells)
    return Captioned(camera.name, [grid], "wide", aside=" × ".join(map(str, camera.shape)))


def still(frame: Frames | None, shape: tuple[int, ...], alt: str, text: str) -> GridCell:
    """A frame as a thumbnail with a text; an empty box of the same shape if it is missing."""
    if frame is None:
        return GridCell(lines=[text], lost=(shape[1], shape[0]))
    small = images.png(images.thumbnail(frame, _BOX, _BOX, enlarge=False))
    style = "pixels" if max(shape[:2]) < _BOX else "photo"
    return GridCell(lines=[text], picture=images.picture(small, alt, style))
