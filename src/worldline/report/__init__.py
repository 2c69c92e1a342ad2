"""HTML pages: reports of training, of stores and of audits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart
    from worldline.plots.parts import Chapter, Chips, Facts, FindingBlock, Group, Header, Note, PagePart, Phrase, Table
    from worldline.report.page import render_page

__all__ = [
    "Chapter",
    "ChartLine",
    "Chips",
    "Dot",
    "Facts",
    "FindingBlock",
    "Group",
    "Header",
    "IntervalChart",
    "LineChart",
    "Note",
    "PagePart",
    "Phrase",
    "Table",
    "render_page",
]

__getattr__ = lazy_names(__name__)
