"""HTML in which every string is escaped unless it was built here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

_VOID: Final = frozenset({"img", "meta", "input", "br", "col"})


class Html(str):
    """Markup that is safe to insert as it is."""

    __slots__ = ()


def tag(name: str, attributes: Mapping[str, str], *children: str) -> Html:
    """The element `name`.

    Args:
        name: a literal, never a user's string.
        attributes: names are literals; values are escaped.
        children: escaped, except where they are `Html`.
    """
    opening = "".join(f' {key}="{escape(value, quote=True)}"' for key, value in attributes.items())
    inside = join(children)
    return Html(f"<{name}{opening}>" if name in _VOID else f"<{name}{opening}>{inside}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """The parts one after the other, escaped except where they are `Html`."""
    return Html("".join(part if isinstance(part, Html) else escape(part, quote=True) for part in parts))


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Html:
    """A table in a box that scrolls sideways where it is too wide.

    Args:
        head: column titles; the first column holds row titles.
        rows: cells, as many as `head` has.
        caption: what the table says.
    """
    top = tag("tr", {}, *(tag("th", {"scope": "col"}, title) for title in head))
    body = [_row(row) for row in rows]
    whole = tag("table", {"aria-label": caption}, tag("thead", {}, top), tag("tbody", {}, *body))
    box = tag("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}, whole)
    return tag("div", {"class": "table"}, tag("p", {"class": "caption"}, caption), box)


def _row(cells: Sequence[str]) -> Html:
    """A row whose first cell is its title."""
    return tag("tr", {}, tag("th", {"scope": "row"}, cells[0]), *(tag("td", {}, cell) for cell in cells[1:]))


def numbers(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> Html:
    """The figure's numbers, folded away."""
    return tag("details", {}, tag("summary", {}, "Numbers"), table(head, rows, caption=caption))
