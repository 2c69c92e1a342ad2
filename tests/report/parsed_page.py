from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "img", "input", "br", "col"}
SHAPES = {"path", "image", "circle"}
"""Elements of SVG that close themselves."""


class ParsedPage(HTMLParser):
    """Elements, headings and text of a page, after a check that its elements nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.data: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "th", "li", "p", "dt", "dd", "h1", "h2") else ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            if ("type", "application/json") in self.elements[-1][1].items():
                self.data.append(data)
            return
        self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)

    def counts(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)
