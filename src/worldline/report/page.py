"""One HTML page with everything inside it and nothing from outside, in the look of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from worldline.report.markup import Html, tag

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses scripts and every address."""


def render_page(title: str, *children: str, style: str = "") -> str:
    """The page: UTF-8, self-contained, light or dark as the reader has it, the same bytes for the same children.

    Args:
        title: of the page.
        children: its content.
        style: CSS to add to the style sheet of the report; empty for none.
    """
    styles = [style_sheet("worldline.plots", "report.css"), style]
    head = tag(
        "head",
        {},
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("title", {}, title),
        tag("style", {}, Html("\n".join(styles))),
    )
    body = tag("body", {}, tag("main", {}, *children))
    return f"<!doctype html>\n{tag('html', {'lang': 'en'}, head, body)}\n"


def style_sheet(package: str, name: str) -> str:
    """The text of a style sheet that lies in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def header(title: str, subtitle: str, tiles: Mapping[str, str]) -> Html:
    """The top of a page: title, one line below it, and a row of figures.

    Args:
        title: of the page.
        subtitle: empty for none.
        tiles: per meaning its figure, in order; empty for none.
    """
    items = [tag("div", {}, tag("dt", {}, text), tag("dd", {}, value)) for text, value in tiles.items()]
    glance = tag("dl", {"class": "glance"}, *items) if items else Html("")
    small = tag("p", {"class": "subtitle"}, subtitle) if subtitle else Html("")
    return tag("header", {}, tag("h1", {}, title), small, glance)


def chapter(title: str, *children: str) -> Html:
    """A chapter; nothing where it has no children."""
    return tag("section", {"class": "chapter"}, tag("h2", {}, title), *children) if any(children) else Html("")


def facts(rows: Sequence[tuple[str, str]]) -> Html:
    """Names with what there is to say of them; nothing for none."""
    items = [tag("div", {}, tag("dt", {}, name), tag("dd", {}, text)) for name, text in rows]
    return tag("dl", {"class": "facts"}, *items) if items else Html("")
