"""The pages that show a store: its signals, sizes and origin, and one episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worldline.formatting import duration, number, percent, plural, pretty_unit, tick
from worldline.plots.contact_sheet import Reel, Sheet, Sparks
from worldline.plots.episode_plot import EpisodeView
from worldline.report import store_figures as say
from worldline.report.markup import Html, join, table, tag
from worldline.report.page import chapter, facts, header, render_page, style_sheet
from worldline.report.panel_chart import spark, still, timeline
from worldline.report.store_figures import StoreFigures


@dataclass(frozen=True, kw_only=True)
class Link:
    """Another file beside the page.

    Args:
        file: its name.
        text: what it is.
    """

    file: str
    text: str


def index_page(figures: StoreFigures, sheet: Sheet | None, links: Sequence[Link]) -> str:
    """The store on one page.

    Args:
        figures: of the store.
        sheet: its contact sheet; None for none.
        links: to what lies beside the page.
    """
    time = "not known" if figures.time_s is None else duration(figures.time_s)
    tiles = {
        "episodes": number(figures.num_episodes),
        "steps": number(figures.num_steps),
        "of logged time": time,
        "on disk": say.size(figures.num_bytes),
    }
    if figures.num_steps:
        tiles["for one step"] = say.size(figures.num_bytes / figures.num_steps)
    top = header(figures.name, f"{plural(len(figures.signals), 'signal')}; episodes of {say.lengths(figures)}", tiles)
    looks = [_sheet(sheet)] if sheet is not None else []
    return render_page(
        figures.name,
        top,
        _links(links),
        chapter("What it looks like", *looks),
        chapter("What is in it", _signals_table(figures)),
        chapter("What it takes", _sizes_table(figures)),
        chapter("Where it came from", facts(_origin(figures))),
        style=style_sheet("worldline.report", "show.css"),
    )


def episode_page(store: str, view: EpisodeView, source: Sequence[tuple[str, str]], links: Sequence[Link]) -> str:
    """One episode on one page.

    Args:
        store: name of the store.
        view: of the episode.
        source: where it came from.
        links: to what lies beside the page.
    """
    notes = [tag("p", {"class": "note"}, note) for note in view.notes]
    return render_page(
        f"{view.title}, {store}",
        header(view.title, view.subtitle, {}),
        _links(links),
        chapter("What happened", timeline(view), *notes),
        chapter("In numbers", *([_ranges_table(view)] if view.panels else [])),
        chapter("Where it came from", facts(source)),
        style=style_sheet("worldline.report", "show.css"),
    )


def _links(links: Sequence[Link]) -> Html:
    return tag("nav", {"class": "links"}, *(tag("a", {"href": link.file}, link.text) for link in links))


def _signals_table(figures: StoreFigures) -> Html:
    """The schema."""
    head = ["signal", "role", "kind", "shape", "unit", "bounds", "stored as", "missing"]
    rows = [
        [
            one.signal.name,
            str(one.signal.role),
            str(one.signal.kind),
            say.shape(one.signal),
            pretty_unit(one.signal.unit) or one.signal.unit,
            say.bounds(one.signal),
            one.signal.dtype,
            say.missing(one),
        ]
        for one in figures.signals
    ]
    step_s = figures.schema.step_s
    beat = "The time between two steps is not known" if step_s is None else f"One step takes {tick(step_s)} s"
    return table(head, rows, caption=f"{beat}. Units: 1 is a plain number, ? is not known.")


def _sizes_table(figures: StoreFigures) -> Html:
    """Bytes by signal."""
    total = figures.num_bytes
    rows = [
        [
            one.signal.name,
            say.size(one.num_bytes),
            say.size(one.num_bytes / one.num_rows) if one.num_rows else "–",
            percent(one.num_bytes / total),
            say.exactness(one),
        ]
        for one in figures.signals
    ]
    rows.append(["index, cards", say.size(figures.other_bytes), "", percent(figures.other_bytes / total), ""])
    head = ["signal", "on disk", "for one value", "share", "kept"]
    caption = f"{say.size(total)} on disk, layout {figures.layout}"
    return tag("div", {"class": "number"}, table(head, rows, caption=caption))


def _origin(figures: StoreFigures) -> list[tuple[str, str]]:
    """Notes of the card, keys of the sources, and how the episodes ended."""
    rows = [("Episodes ended", say.endings(figures)), ("With a seed", number(figures.seeded))]
    rows += [(key.name, say.origin(key)) for key in figures.keys]
    return rows + list(figures.notes.items())


def _ranges_table(view: EpisodeView) -> Html:
    """Least, mean and most of every curve."""
    rows = [
        [
            panel.signal.name if len(panel.curves) == 1 else f"{panel.signal.name} · {curve.label}",
            pretty_unit(panel.signal.unit) or panel.signal.unit,
            number(found.least, 4),
            number(found.mean, 4),
            number(found.most, 4),
        ]
        for panel in view.panels
        for curve, found in zip(panel.curves, panel.ranges, strict=True)
    ]
    whole = table(["signal", "unit", "least", "mean", "most"], rows, caption="Over the whole episode")
    return tag("div", {"class": "number"}, whole)


def _sheet(sheet: Sheet) -> Html:
    """Pictures by camera, or small curves."""
    parts = [_reel(sheet, reel) for reel in sheet.reels]
    parts += [] if sheet.sparks is None else [_sparks(sheet, sheet.sparks)]
    parts += [tag("p", {"class": "note"}, sheet.note)] if sheet.note else []
    return join(parts)


def _reel(sheet: Sheet, reel: Reel) -> Html:
    """The pictures of one camera, a row for each episode."""
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
    """The curves of each signal, a row for each episode."""
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


def _grid(caption: Sequence[str], cells: Sequence[str], columns: str, said: str) -> Html:
    """A figure whose cells scroll sideways where there is no room."""
    grid = tag("div", {"class": "sheet", "style": f"grid-template-columns:{columns}"}, *cells)
    box = tag("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": said}, grid)
    return tag("figure", {"class": "wide"}, tag("figcaption", {}, *caption), box)
