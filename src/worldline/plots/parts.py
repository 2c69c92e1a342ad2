"""The elements of a page. A page is a tree of them; `parts.html.jinja` has one macro for each class."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class PagePart(Struct, frozen=True):
    """An element of a page, rendered by the macro with the name of its class. Its strings are escaped."""


class Note(PagePart, frozen=True):
    """A paragraph.

    Args:
        text: its text.
        style: class of the style sheet.
        code: text in a typewriter face after it; empty for none.
    """

    text: str
    style: str = "note"
    code: str = ""


class Phrase(PagePart, frozen=True):
    """A text within a table or a line.

    Args:
        text: the text.
        style: classes of the style sheet, such as "verdict good"; empty for none.
        small: a small text below; empty for none.
    """

    text: str
    style: str = ""
    small: str = ""


class Table(PagePart, frozen=True):
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


class Facts(PagePart, frozen=True):
    """Names and values; nothing without rows.

    Args:
        rows: in order; names may repeat.
        style: "facts" for small print, "glance" for a row of key figures.
    """

    rows: Sequence[tuple[str, str]]
    style: str = "facts"


class Commands(PagePart, frozen=True):
    """Lines to type; nothing without lines.

    Args:
        lines: commands.
        title: heading.
    """

    lines: Sequence[str]
    title: str = "Next"


class Items(PagePart, frozen=True):
    """A list whose further items are folded; nothing without items.

    Args:
        title: heading.
        lines: items.
        most: number of items that are not folded.
    """

    title: str
    lines: Sequence[str]
    most: int


class Group(PagePart, frozen=True):
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


class Captioned(PagePart, frozen=True):
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


class Chips(PagePart, frozen=True):
    """Short links in a row.

    Args:
        links: text, second text, address and style of each.
        title: above them; empty for none.
        aside: next to the title.
    """

    links: Sequence[tuple[str, str, str, str]]
    title: str = ""
    aside: str = ""


class Legend(PagePart, frozen=True):
    """A legend of lines.

    Args:
        entries: label and class of each line.
    """

    entries: Sequence[tuple[str, str]]


class FindingBlock(PagePart, frozen=True):
    """A finding with its figures.

    Args:
        finding: one to three sentences.
        parts: figures, tables and notes.
        verdict: "good", "bad" or "unclear" for a mark before the finding; "plain" for none.
        anchor: target of links to the block, shown before the finding; empty for none.
        result: a word after the finding with its style; None for none.
        folded: whether the reader has to open the parts.
    """

    finding: str
    parts: Sequence[PagePart | None] = ()
    verdict: str = "plain"
    anchor: str = ""
    result: Phrase | None = None
    folded: bool = False


class Chapter(PagePart, frozen=True):
    """A part of the page with a title; nothing without content.

    Args:
        title: heading.
        parts: content.
        folded: whether the reader has to open it.
    """

    title: str
    parts: Sequence[PagePart | None]
    folded: bool = False


class Header(PagePart, frozen=True, kw_only=True):
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


class PageImage(PagePart, frozen=True):
    """An image.

    Args:
        src: data URI, see `images.picture`.
        alt: alternative text.
        style: class of the style sheet.
    """

    src: str
    alt: str
    style: str = "pixels"


class Animation(PagePart, frozen=True, kw_only=True):
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


class Grid(PagePart, frozen=True):
    """Cells in columns that scroll horizontally if necessary.

    Args:
        label: accessible name.
        columns: widths of the columns, in CSS.
        cells: row by row.
    """

    label: str
    columns: str
    cells: Sequence[PagePart]


class GridCell(PagePart, frozen=True):
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
