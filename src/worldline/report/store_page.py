"""HTML pages of a store and of one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worldline.formatting import duration, number, percent, plural, pretty_unit, tick
from worldline.plots.contact_sheet import Reel, Sheet, Sparks
from worldline.plots.episode_plot import EpisodeView
from worldline.report import store_figures as say
from worldline.report.evidence_blocks import note
from worldline.report.markup import Html, table, tag
from worldline.report.page import chapter, facts, header, render_page, style_sheet
from worldline.report.panel_chart import spark, still, timeline
from worldline.report.store_figures import StoreFigures


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
        "on disk": say.size(figures.num_bytes),
    }
    if figures.num_steps:
        tiles["per step"] = say.size(figures.num_bytes / figures.num_steps)
    top = header(figures.name, f"{plural(len(figures.signals), 'signal')}; episodes of {say.lengths(figures)}", tiles)
    return render_page(
        figures.name,
        top,
        _links(links),
        chapter("Preview", *([] if sheet is None else _sheet(sheet))),
        chapter("Signals", _signals_table(figures)),
        chapter("Size on disk", _sizes_table(figures)),
        chapter("Origin", facts(_origin(figures))),
        style=style_sheet("worldline.report", "show.css"),
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
        header(view.title, view.subtitle, {}),
        _links(links),
        chapter("Time series", timeline(view), *map(note, view.notes)),
        chapter("Value ranges", *([_ranges_table(view)] if view.panels else [])),
        chapter("Origin", facts(source)),
        style=style_sheet("worldline.report", "show.css"),
    )


def _links(links: Mapping[str, str]) -> Html:
    return tag("nav", {"class": "links"}, *(tag("a", {"href": file}, text) for file, text in links.items()))


def _signals_table(figures: StoreFigures) -> Html:
    head = [*say.SIGNAL_TITLES, "stored as", "missing"]
    rows = [[*say.signal_cells(one.signal), one.signal.dtype, say.missing(one)] for one in figures.signals]
    step_s = figures.schema.step_s
    period = "The time per step is unknown" if step_s is None else f"One step takes {tick(step_s)} s"
    return table(head, rows, caption=f"{period}. Units: 1 is dimensionless, ? is unknown.")


def _sizes_table(figures: StoreFigures) -> Html:
    total = figures.num_bytes
    rows = [
        [
            one.signal.name,
            say.size(one.num_bytes),
            say.value_size(one),
            percent(one.num_bytes / total),
            say.exactness(one),
        ]
        for one in figures.signals
    ]
    rows.append(["index, cards", say.size(figures.other_bytes), "", percent(figures.other_bytes / total), ""])
    head = ["signal", "on disk", "per value", "share", "precision"]
    caption = f"{say.size(total)} on disk, layout {figures.layout}"
    return tag("div", {"class": "number"}, table(head, rows, caption=caption))


def _origin(figures: StoreFigures) -> list[tuple[str, str]]:
    """Endings of the episodes, keys of the sources, and notes of the data card."""
    rows = [("Endings of episodes", say.endings(figures)), ("Episodes with a seed", number(figures.seeded))]
    rows += [(key.name, say.origin(key)) for key in figures.keys]
    return rows + list(figures.notes.items())


def _ranges_table(view: EpisodeView) -> Html:
    """Minimum, mean and maximum of every curve."""
    rows = []
    for panel in view.panels:
        name, unit = panel.signal.name, pretty_unit(panel.signal.unit) or panel.signal.unit
        for curve, found in zip(panel.curves, panel.ranges, strict=True):
            title = name if len(panel.curves) == 1 else f"{name} · {curve.label}"
            rows.append([title, unit, *(number(value, 4) for value in (found.least, found.mean, found.most))])
    head = ["signal", "unit", "minimum", "mean", "maximum"]
    return tag("div", {"class": "number"}, table(head, rows, caption="Over the whole episode"))


def _sheet(sheet: Sheet) -> list[Html]:
    """Images by camera, or small curves."""
    parts = [_reel(sheet, reel) for reel in sheet.reels]
    parts += [] if sheet.sparks is None else [_sparks(sheet, sheet.sparks)]
    return [*parts, note(sheet.note)]


def _reel(sheet: Sheet, reel: Reel) -> Html:
    """The images of one camera, one row per episode."""
    columns = max(len(row) for row in reel.rows)
    cells = []
    for heading, moments in zip(sheet.rows, reel.rows, strict=True):
        cells.append(_head(heading.title, heading.lines))
        for moment in moments:
            image = still(moment.frame, reel.shape, f"{reel.name}, {heading.title}, {moment.text}")
            cells.append(tag("div", {"class": "cell"}, image, tag("span", {}, moment.text)))
        cells += [tag("div", {})] * (columns - len(moments))
    size = tag("span", {"class": "aside"}, " × ".join(str(n) for n in reel.shape))
    return _grid([reel.name, size], cells, f"8rem repeat({columns},minmax(3rem,7rem))", reel.name)


def _sparks(sheet: Sheet, sparks: Sparks) -> Html:
    """The curves of each signal, one row per episode."""
    cells = [tag("div", {})]
    for panels in sparks.columns:
        ends = f"{panels[0].tick_texts[0]} to {panels[0].tick_texts[-1]}"
        cells.append(_head(panels[0].title, [ends]))
    for k, heading in enumerate(sheet.rows):
        cells.append(_head(heading.title, heading.lines))
        cells += [tag("div", {"class": "cell"}, spark(panels[k], sparks.span)) for panels in sparks.columns]
    columns = f"8rem repeat({len(sparks.columns)},minmax(6rem,1fr))"
    return _grid(["signals"], cells, columns, "signals of a few episodes")


def _head(title: str, lines: Sequence[str]) -> Html:
    return tag("div", {"class": "head"}, tag("b", {}, title), *(tag("div", {}, line) for line in lines))


def _grid(caption: Sequence[str], cells: Sequence[str], columns: str, alt: str) -> Html:
    """A figure whose cells scroll horizontally if necessary."""
    grid = tag("div", {"class": "sheet", "style": f"grid-template-columns:{columns}"}, *cells)
    box = tag("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": alt}, grid)
    return tag("figure", {"class": "wide"}, tag("figcaption", {}, *caption), box)
