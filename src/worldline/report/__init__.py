"""HTML pages: reports of training, of stores and of audits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldline.lazy import lazy_names

if TYPE_CHECKING:
    from worldline.plots.charts import ChartLine as ChartLine
    from worldline.plots.charts import Dot as Dot
    from worldline.plots.charts import IntervalChart as IntervalChart
    from worldline.plots.charts import LineChart as LineChart
    from worldline.plots.parts import Chapter as Chapter
    from worldline.plots.parts import Chips as Chips
    from worldline.plots.parts import Facts as Facts
    from worldline.plots.parts import FindingBlock as FindingBlock
    from worldline.plots.parts import Group as Group
    from worldline.plots.parts import Header as Header
    from worldline.plots.parts import Note as Note
    from worldline.plots.parts import PagePart as PagePart
    from worldline.plots.parts import Phrase as Phrase
    from worldline.plots.parts import Table as Table
    from worldline.report.page import render_page as render_page


__getattr__ = lazy_names(__name__)
