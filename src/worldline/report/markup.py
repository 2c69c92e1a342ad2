"""HTML elements and tables; every string is escaped unless it is `Html`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

_VOID: Final = frozenset({"img", "meta", "input", "br", "col"})


class Html(str):
    """Markup that is inserted without escaping."""

    __slots__ = ()


def tag(name: str, attributes: Mapping[str, str], *children: str) -> Html:
    """The element `name`.

    Args:
        name: a literal, never a user's string.
        attributes: names are literals; values are escaped.
        children: escaped, unless they are `Html`.
    """
    opening = "".join(f' {key}="{escape(value, quote=True)}"' for key, value in attributes.items())
    inside = join(children)
    return Html(f"<{name}{opening}>" if name in _VOID else f"<{name}{opening}>{inside}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """The concatenated parts, escaped unless they are `Html`."""
    return Html("".join(part if isinstance(part, Html) else escape(part, quote=True) for part in parts))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Html:
    """A table in a box that scrolls horizontally if necessary.

    Args:
        head: column titles; the first column holds row titles.
        rows: cells, one per column.
        caption: caption of the table.
    """
    top = tag("tr", {}, *(tag("th", {"scope": "col"}, title) for title in head))
    body = [_row(row) for row in rows]
    element = tag("table", {"aria-label": caption}, tag("thead", {}, top), tag("tbody", {}, *body))
    box = tag("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}, element)
    return tag("div", {"class": "table"}, tag("p", {"class": "caption"}, caption), box)


def _row(cells: Sequence[str]) -> Html:
    """A row; its first cell is the row title."""
    return tag("tr", {}, tag("th", {"scope": "row"}, cells[0]), *(tag("td", {}, cell) for cell in cells[1:]))


def numbers(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Html:
    """The numbers of a figure in a collapsed table."""
    return tag("details", {}, tag("summary", {}, "Numbers"), table(head, rows, caption=caption))
