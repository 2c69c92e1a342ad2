"""HTML pages of a store and of one episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

from worldline.formatting import duration, number, percent, plural, pretty_unit, quantity, size, tick
from worldline.plots.contact_sheet import Reel, Sheet, Sparks
from worldline.plots.episode_plot import ROLES, EpisodeView
from worldline.plots.panels import SignalCurve, SignalPanel, TimeAxis
from worldline.plots.thumbnails import Frames, thumbnail
from worldline.report import images
from worldline.report import store_figures as say
from worldline.report.charts import ChartLine, LineChart, Sketch
from worldline.report.page import render_page
from worldline.report.parts import Captioned, Chapter, Chips, Facts, Grid, GridCell, Header, Note, PagePart, Table
from worldline.report.store_figures import StoreFigures
from worldline.report.svg import Plane
from worldline.schema import Kind

_BOX: Final = 224
"""Largest width and height of an image in pixels."""


def index_page(figures: StoreFigures, sheet: Sheet | None, links: Mapping[str, str]) -> str:
    """The page of a store.

    Args:
        figures: figures of the store.
        sheet: its contact sheet; None for none.
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
        Chapter("Preview", [] if sheet is None else _sheet(sheet)),
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
    ranges = [_ranges_table(view)] if view.panels else []
    return render_page(
        f"{view.title}, {store}",
        Header(title=view.title, lede=view.subtitle, parts=[_links(links)]),
        Chapter("Time series", [*_reels(view), *_panels(view), *map(Note, view.notes)]),
        Chapter("Value ranges", ranges),
        Chapter("Origin", [Facts(source)]),
    )


def _links(links: Mapping[str, str]) -> Chips | None:
    return Chips([(text, "", file, "") for file, text in links.items()]) if links else None


def _panels(view: EpisodeView) -> list[PagePart]:
    """Charts of all signals over a common time axis, by role."""
    parts: list[PagePart] = []
    for role, panels in groupby(view.panels, lambda panel: panel.signal.role):
        parts += [Note(ROLES[role], "role"), *(panel_chart(panel, view.axis) for panel in panels)]
    return parts


def panel_chart(panel: SignalPanel, axis: TimeAxis) -> LineChart:
    """One signal over time."""
    named = panel.tick_texts if panel.signal.kind is Kind.DISCRETE else ()
    return LineChart(
        title=panel.title,
        aside=panel.note,
        alt=f"{panel.title} over time: {_alt_text(panel)}",
        x_label=axis.label,
        y_label="",
        lines=[_line(curve) for curve in panel.curves[::-1]],
        x_ends=axis.span,
        y_ticks=panel.ticks,
        tick_texts=named,
        gaps=[(gap.start, gap.stop) for gap in panel.missing],
        folds=False,
        style="panel" if len(panel.curves) > 1 else "panel unkeyed",
    )


def _line(curve: SignalCurve) -> ChartLine:
    x, y, low, high = (values.tolist() for values in (curve.x, curve.y, curve.low, curve.high))
    return ChartLine(label=curve.label, style=curve.colour, x=x, y=y, low=low, high=high)


def _alt_text(panel: SignalPanel) -> str:
    unit = panel.signal.unit
    parts = []
    for line, extent in zip(panel.curves, panel.ranges, strict=True):
        values = (
            "not observed" if math.isnan(extent.mean) else f"{number(extent.least)} to {quantity(extent.most, unit)}"
        )
        parts.append(f"{line.label} {values}" if len(panel.curves) > 1 else values)
    return "; ".join(parts)


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
    for panel in view.panels:
        name, unit = panel.signal.name, pretty_unit(panel.signal.unit) or panel.signal.unit
        for curve, extent in zip(panel.curves, panel.ranges, strict=True):
            title = name if len(panel.curves) == 1 else f"{name} · {curve.label}"
            rows.append([title, unit, *(number(value, 4) for value in (extent.least, extent.mean, extent.most))])
    head = ["signal", "unit", "minimum", "mean", "maximum"]
    return Table("Over the whole episode", head, rows, style="number")


def _sheet(sheet: Sheet) -> list[PagePart | None]:
    """Images by camera, or small curves."""
    parts: list[PagePart | None] = [_reel(sheet, reel) for reel in sheet.reels]
    parts += [] if sheet.sparks is None else [_sparks(sheet, sheet.sparks)]
    return [*parts, Note(sheet.note) if sheet.note else None]


def _reel(sheet: Sheet, reel: Reel) -> Captioned:
    """The images of one camera, one row per episode."""
    columns = max(len(row) for row in reel.rows)
    cells: list[PagePart] = []
    for heading, moments in zip(sheet.rows, reel.rows, strict=True):
        cells.append(GridCell(heading.title, heading.lines))
        for moment in moments:
            cells.append(still(moment.frame, reel.shape, f"{reel.name}, {heading.title}, {moment.text}", moment.text))
        cells += [GridCell()] * (columns - len(moments))
    size = " × ".join(str(n) for n in reel.shape)
    grid = Grid(reel.name, f"8rem repeat({columns},minmax(3rem,7rem))", cells)
    return Captioned(reel.name, [grid], "wide", aside=size)


def _sparks(sheet: Sheet, sparks: Sparks) -> Captioned:
    """The curves of each signal, one row per episode."""
    cells: list[PagePart] = [GridCell()]
    for panels in sparks.columns:
        cells.append(GridCell(panels[0].title, [f"{panels[0].tick_texts[0]} to {panels[0].tick_texts[-1]}"]))
    for k, heading in enumerate(sheet.rows):
        cells.append(GridCell(heading.title, heading.lines))
        cells += [GridCell(picture=spark(panels[k], sparks.span)) for panels in sparks.columns]
    grid = Grid("signals of a few episodes", f"8rem repeat({len(sparks.columns)},minmax(6rem,1fr))", cells)
    return Captioned("signals", [grid], "wide")


def spark(panel: SignalPanel, span: tuple[float, float]) -> Sketch:
    """A small chart with curves only."""
    plane, lines = Plane(span, (panel.ticks[0], panel.ticks[-1])), [_line(curve) for curve in panel.curves[::-1]]
    drawn = [plane.area(f"band {line.style}", line.x, line.low, line.high) for line in lines if line.low]
    drawn += [plane.curve(f"line {line.style}", line.x, line.y) for line in lines]
    return Sketch(drawn, _alt_text(panel))


def still(frame: Frames | None, shape: tuple[int, ...], alt: str, text: str) -> GridCell:
    """A frame as a thumbnail with a text; an empty box of the same shape if it is missing."""
    if frame is None:
        return GridCell(lines=[text], lost=(shape[1], shape[0]))
    small = images.png(thumbnail(frame, _BOX, _BOX, enlarge=False))
    style = "pixels" if max(shape[:2]) < _BOX else "photo"
    return GridCell(lines=[text], picture=images.picture(small, alt, style))
