"""The HTML page of a judgement: verdicts first, then figures, then each controller in imagination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.control.judgement import (
    Fan,
    JudgedController,
    Judgement,
    RunVerdict,
    cost_rows,
    experiment_text,
    figure_names,
    figure_title,
    interval,
    per_unit,
    shown,
)
from worldline.formatting import percent, plural, with_unit
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart
from worldline.plots.parts import Chapter, FindingBlock, Group, Header, Items, Note, PagePart, Table
from worldline.plots.signal_chart import time_axis
from worldline.plots.ticks import nice_ticks
from worldline.report.page import render_page
from worldline.stats import Estimate

_COLOURS: Final[Mapping[str, str]] = {"better": "good", "worse": "bad", "unstable": "bad"}
"""Of verdicts; others are unclear."""
MAX_OPEN: Final = 2
"""Controllers whose chapters are open."""
MAX_NOTES: Final = 5


def render_judgement(judged: Judgement) -> str:
    """A self-contained UTF-8 page; deterministic.

    Args:
        judged: the judgement.
    """
    count = len(judged.controllers)
    title = f"Judgement of {judged.controllers[0].name if count == 1 else plural(count, 'controller')}"
    lede = (
        f"{judged.world} imagines {plural(judged.num_episodes, 'logged episode')} of {judged.logs} under each "
        f"controller, about {plural(judged.num_steps, 'step')} each. Intervals have 90\u00a0%."
    )
    pairs = [
        (f"{d.first} minus {d.second}", f"{d.cost.value:.3g} ({d.cost.low:.3g} to {d.cost.high:.3g})", d.verdict)
        for d in judged.differences
    ]
    head = ["controllers", "difference in cost", "the first is"]
    return render_page(
        title,
        Header(title=title, lede=lede, parts=[_verdict(each, judged) for each in judged.controllers]),
        Items("Limits", judged.notes, MAX_NOTES) if judged.notes else None,
        Chapter("Figures", _charts(judged)),
        Chapter("Cost in these situations and in others", [Table("", *cost_rows(judged))]),
        Chapter("Differences on the same situations", [Table("", head, pairs)] if pairs else []),
        *(_imagined(each, judged, folded=count > MAX_OPEN) for each in judged.controllers),
        Chapter(
            "How it was judged", [Note(text) for text in (*_METHODS, f"The width is {judged.factor}.")], folded=True
        ),
    )


def _verdict(each: JudgedController, judged: Judgement) -> FindingBlock:
    """Verdict, reason, cost and experiment."""
    cost = each.figures.get("cost")
    notes = [Note(line) for line in each.card.settings]
    if cost is None:
        finding = f"{each.name} is {each.verdict.value}: {each.reason}"
        notes += [Note(f"To settle it, {experiment_text(each.experiment)}")] if each.experiment else []
        return FindingBlock(finding, notes, _COLOURS.get(each.verdict.value, "unclear"))
    than = "not distinguishable from" if cost.better == "not distinguishable" else f"{cost.better} than"
    mean, logged = interval("cost", cost.expected, judged), shown("cost", cost.logged, judged)
    finding = f"{each.name} is {than} the log: its cost per step is {mean}, that of the log {logged}."
    return FindingBlock(finding, notes, _COLOURS.get(cost.better, "unclear"))


def _charts(judged: Judgement) -> list[PagePart]:
    """One interval chart for each figure."""
    charts = list[PagePart]()
    for name in figure_names(judged):
        unit = per_unit(name, judged)
        logged = judged.logged[name]
        rows = [_dot("the log", name, Estimate.around(logged, logged, logged), judged, None)]
        for each in judged.controllers:
            if name in each.figures:
                rows.append(_dot(each.name, name, each.figures[name].expected, judged, unit * logged))
        ticks = nice_ticks(min(0.0, *(row.low for row in rows)), max(1e-9, *(row.high for row in rows)), 5)
        charts.append(IntervalChart(title=figure_title(name, judged), rows=rows, ticks=ticks))
    return charts


def _dot(label: str, name: str, mean: Estimate, judged: Judgement, target: float | None) -> Dot:
    """A row of a chart; the log has no interval."""
    unit, logged = per_unit(name, judged), target is None
    text = shown(name, mean.value, judged) if logged else interval(name, mean, judged)
    scaled = Estimate(value=unit * mean.value, low=unit * mean.low, high=unit * mean.high)
    return Dot.of(label, scaled, text, "peer" if logged else "world", target=target)


def _imagined(each: JudgedController, judged: Judgement, *, folded: bool) -> Chapter:
    """Fans, where the controller leaves the logs, and the riskiest steps."""
    axis = time_axis(judged.first_step + len(each.outside_steps) - 1, judged.step_s)
    times = axis.times[judged.first_step :]
    share = ChartLine(label="outside", style="world", x=times, y=100 * np.array(each.outside_steps))
    outside = LineChart(
        title="Runs outside the logs, %",
        alt=f"Share of the runs of {each.name} that are outside the logs at each step",
        x_label=axis.label,
        y_label="%",
        lines=[share],
        zero=True,
        aside=f"{percent(each.outside)} of all steps",
    )
    risky = [(str(r.episode), str(r.step), " and ".join(r.signals), f"{r.distance:.3g}") for r in each.risky]
    head = ["episode", "step", "signals", "distance; 1 in 100 logged steps exceeds 1"]
    fans = [_fan(fan, times, axis.label) for fan in each.fans]
    parts: list[PagePart] = [Group.gallery([*fans, outside]), Table("Steps that are most unlike the logs", head, risky)]
    if each.verdict is RunVerdict.UNSTABLE:
        parts.insert(0, Note("These runs are imagined, but their loop is unstable: real ones may be worse."))
    return Chapter(f"{each.name} in imagination", parts, folded=folded)


def _fan(fan: Fan, times: NDArray[np.float64], label: str) -> LineChart:
    """Median and 90 % of the runs, logged and imagined."""
    unit = "" if fan.unit == "?" else fan.unit
    lines = [
        ChartLine(label=name, style=style, x=times, y=values[1], low=values[0], high=values[2])
        for name, style, values in (("logged", "real", fan.logged), ("imagined", "world", fan.imagined))
    ]
    alt = f"Median and 90 % of the logged and imagined runs of {fan.signal}"
    title = with_unit(fan.signal, unit)
    return LineChart(title=title, alt=alt, x_label=label, y_label=unit, lines=lines, aside="median and 90 %")


_METHODS: Final = (
    "The world imagines each logged episode under the controller, with the same start, targets and exogenous inputs. "
    "What the world could not predict in the log is added again: disturbances, noise and its own errors.",
    "The width of an interval follows from features. Five linear simulators of the logs show how much models disagree, "
    "and what a larger or later effect of the actions would change. The others are the distance from the logs and the "
    "noise.",
    "A loop is unstable if it keeps oscillating after a step without disturbances, in the world or in a linear "
    "simulator. Controllers that switch by design are left out. A controller is refused if more than a quarter of its "
    "steps are far outside the logs.",
)
