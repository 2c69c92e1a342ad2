"""The elements of a page. A page is a tree of them; `parts.html.jinja` has one macro for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class PagePart:
    """An element of a page, rendered by the macro with the name of its class. Its strings are escaped."""


@dataclass(frozen=True)
class Note(PagePart):
    """A paragraph.

    Args:
        text: its text.
        style: class of the style sheet.
        code: text in a typewriter face after it; empty for none.
    """

    text: str
    style: str = "note"
    code: str = ""


@dataclass(frozen=True)
class Phrase(PagePart):
    """A text within a table or a line.

    Args:
        text: the text.
        style: classes of the style sheet, such as "verdict good"; empty for none.
        small: a small text below; empty for none.
    """

    text: str
    style: str = ""
    small: str = ""


@dataclass(frozen=True)
class Table(PagePart):
    """A table that scrolls horizontally if necessary.

    Args:
        caption: above the table.
        head: column titles; the first column holds row titles.
        rows: cells, one per column.
        folded: label of the fold that hides the table; empty for an open table.
        style: classes of the style sheet; "number" aligns cells to the right.
    """

    caption: str
    head: Sequence[str | PagePart]
    rows: Sequence[Sequence[str | PagePart]]
    folded: str = ""
    style: str = ""


@dataclass(frozen=True)
class Facts(PagePart):
    """Names and values; nothing without rows.

    Args:
        rows: in order; names may repeat.
        style: "facts" for small print, "glance" for a row of key figures.
    """

    rows: Sequence[tuple[str, str]]
    style: str = "facts"


@dataclass(frozen=True)
class Commands(PagePart):
    """Lines to type.

    Args:
        lines: commands.
        title: heading.
    """

    lines: Sequence[str]
    title: str = "Next"


@dataclass(frozen=True)
class Items(PagePart):
    """A list whose further items are folded.

    Args:
        title: heading.
        lines: items.
        most: number of items that are not folded.
    """

    title: str
    lines: Sequence[str]
    most: int


@dataclass(frozen=True)
class Group(PagePart):
    """Elements in a box of the style sheet.

    Args:
        parts: in order.
        style: such as "gallery" for elements side by side on wide screens.
        label: accessible name; empty for none.
    """

    parts: Sequence[PagePart | None]
    style: str
    label: str = ""

    @classmethod
    def gallery(cls, figures: Sequence[PagePart]) -> Group:
        """Figures, side by side on wide screens."""
        kinds = {1: "gallery alone", 3: "gallery three"}
        return cls(figures, kinds.get(len(figures), "gallery"))


@dataclass(frozen=True)
class Captioned(PagePart):
    """A figure with a title.

    Args:
        title: above the content.
        parts: the content.
        style: classes of the style sheet.
        aside: remark next to the title; empty for none.
    """

    title: str
    parts: Sequence[PagePart | None]
    style: str = ""
    aside: str = ""


@dataclass(frozen=True)
class Chips(PagePart):
    """Short links in a row.

    Args:
        links: text, second text, address and style of each.
        title: above them; empty for none.
        aside: next to the title.
    """

    links: Sequence[tuple[str, str, str, str]]
    title: str = ""
    aside: str = ""


@dataclass(frozen=True)
class Legend(PagePart):
    """A legend of lines.

    Args:
        entries: label and class of each line.
    """

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class FindingBlock(PagePart):
    """A finding with its figures.

    Args:
        finding: one to three sentences.
        parts: figures, tables and notes.
        verdict: "good", "bad" or "unclear" for a mark before the finding; "plain" for none.
        anchor: target of links to the block, shown before the finding; empty for none.
        result: a word after the finding with its style; None for none.
    """

    finding: str
    parts: Sequence[PagePart | None] = ()
    verdict: str = "plain"
    anchor: str = ""
    result: Phrase | None = None


@dataclass(frozen=True)
class Chapter(PagePart):
    """A part of the page with a title; nothing without content.

    Args:
        title: heading.
        parts: content.
        folded: whether the reader has to open it.
    """

    title: str
    parts: Sequence[PagePart | None]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Header(PagePart):
    """The top of a page.

    Args:
        title: the heading; on a report its main finding.
        eyebrow: what the page is about, in small letters above the heading; empty for none.
        lede: sentences below the heading; empty for none.
        parts: content below.
    """

    title: str
    eyebrow: str = ""
    lede: str = ""
    parts: Sequence[PagePart | None] = ()


@dataclass(frozen=True)
class PageImage(PagePart):
    """An image.

    Args:
        src: data URI, see `images.data_uri`.
        alt: alternative text.
        style: class of the style sheet.
    """

    src: str
    alt: str
    style: str = "pixels"


@dataclass(frozen=True, kw_only=True)
class Animation(PagePart):
    """A looping image with a pause switch, and a still image for readers who prefer reduced motion.

    Args:
        title: caption.
        moving: the animation.
        still: the still image.
        goal: image of the goal; None for none.
        key: identifier that is unique in the page.
    """

    title: str
    moving: PageImage
    still: PageImage
    goal: PageImage | None
    key: str


@dataclass(frozen=True)
class Grid(PagePart):
    """Cells in columns that scroll horizontally if necessary.

    Args:
        label: accessible name.
        columns: widths of the columns, in CSS.
        cells: row by row.
    """

    label: str
    columns: str
    cells: Sequence[PagePart]


@dataclass(frozen=True)
class GridCell(PagePart):
    """A cell of a grid; empty by default.

    Args:
        title: heading in the cell.
        lines: small lines below.
        picture: content; None for none.
        lost: width and height of an empty box for a missing image; None for none.
    """

    title: str = ""
    lines: Sequence[str] = ()
    picture: PagePart | None = None
    lost: tuple[int, int] | None = None
