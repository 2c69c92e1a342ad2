"""HTML pages: reports of training, of stores and of audits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.report.charts import ChartLine, Dot, IntervalChart, LineChart, interval_chart, line_chart
    from worldline.report.markup import Html, join, table, tag
    from worldline.report.page import chapter, facts, render_page, style_sheet

__all__ = [
    "ChartLine",
    "Dot",
    "Html",
    "IntervalChart",
    "LineChart",
    "chapter",
    "facts",
    "interval_chart",
    "join",
    "line_chart",
    "render_page",
    "style_sheet",
    "table",
    "tag",
]

__getattr__ = lazy_names(__name__)
