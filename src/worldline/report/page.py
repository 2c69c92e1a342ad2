"""Renders a self-contained HTML page: header, chapters and facts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from typing import Final

from worldline.report.markup import Html, tag

_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy; the browser blocks scripts and network access."""


def render_page(title: str, *children: str, style: str = "") -> str:
    """A self-contained UTF-8 page with light and dark mode; deterministic.

    Args:
        title: title of the page.
        children: content of the page.
        style: CSS to append to the style sheet of the report; empty for none.
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
    """The text of a style sheet in a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def header(title: str, subtitle: str, tiles: Mapping[str, str], *children: str) -> Html:
    """Page header: title, subtitle, other content, and a row of key figures.

    Args:
        title: title of the page.
        subtitle: one line; empty for none.
        tiles: key figures by label, in order; empty for none.
        children: content between subtitle and key figures.
    """
    small = tag("p", {"class": "subtitle"}, subtitle) if subtitle else Html("")
    return tag("header", {}, tag("h1", {}, title), small, *children, _definitions("glance", tiles.items()))


def chapter(title: str, *children: str) -> Html:
    """A chapter; empty without children."""
    return tag("section", {"class": "chapter"}, tag("h2", {}, title), *children) if any(children) else Html("")


def facts(rows: Sequence[tuple[str, str]]) -> Html:
    """A list of names and values; empty without rows."""
    return _definitions("facts", rows)


def _definitions(style: str, rows: Collection[tuple[str, str]]) -> Html:
    items = [tag("div", {}, tag("dt", {}, name), tag("dd", {}, text)) for name, text in rows]
    return tag("dl", {"class": style}, *items) if items else Html("")
