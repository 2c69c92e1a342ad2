"""The HTML page of a judgement: verdicts first, then figures, then each controller in imagination."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worldline.control.judgement import (
    OWN,
    SHAKES,
    Fan,
    JudgedController,
    Judgement,
    RunVerdict,
    experiment_text,
    figure_names,
    figure_rows,
    figure_title,
    per_unit,
)
from worldline.control.judging import MAX_FAR, MAX_OUTSIDE
from worldline.formatting import NBSP, number, percent, plural, pretty_unit, round_percent, tick, with_interval
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart, Values
from worldline.plots.parts import Chapter, Facts, FindingBlock, Group, Header, Items, Note, PagePart, Phrase, Table
from worldline.plots.signal_chart import time_axis
from worldline.plots.ticks import nice_ticks
from worldline.report.page import render_page

_COLOURS: Final[Mapping[str, str]] = {"better": "good", "worse": "bad", "unstable": "bad"}
"""Of verdicts; others are unclear."""
_STYLES: Final[Mapping[str, str]] = {"better": "world", "worse": "missed"}
"""Of the rows of a chart; others are grey."""
MAX_OPEN: Final = 2
"""Controllers whose charts are open."""
MAX_NAME: Final = 24
"""Characters of names in charts that stand side by side."""
MAX_REACH: Final = 3.0
"""An axis ends here at the latest, in units of the largest figure; wider intervals are cut."""


def render_judgement(judged: Judgement) -> str:
    """A self-contained UTF-8 page; deterministic.

    Args:
        judged: the judgement.
    """
    count = len(judged.controllers)
    title = f"Judgement of {judged.controllers[0].name if count == 1 else plural(count, 'controller')}"
    lede = (
        f"The world {judged.world} imagined {plural(judged.num_episodes, 'logged episode')} of {judged.logs} under "
        f"{'the' if count == 1 else 'each'} controller, about {plural(judged.num_steps, 'step')} each."
    )
    cards = [_card(each, judged) for each in judged.controllers]
    fans = [_imagined(each, judged, folded=count > MAX_OPEN) for each in judged.controllers]
    methods = map(Note, (*_METHODS, f"The width of the intervals is {judged.factor}."))
    return render_page(
        title,
        Header(title=title, lede=lede, parts=cards if count == 1 else [Group(cards, "columns")]),
        Group([Items("Limits", judged.notes, len(judged.notes))], "columns") if judged.notes else None,
        Chapter("Figures in these situations", _figures(judged)),
        Chapter("Differences in cost per step", _differences(judged)),
        Chapter("Runs in imagination", [Note(_FANS), *fans]),
        Chapter("How it was judged", list(methods), folded=True),
    )


def _word(each: JudgedController) -> str:
    """Its verdict, or how its cost compares with the log."""
    return each.figures["cost"].better if each.figures else each.verdict.value


def _verdict(word: str) -> Phrase:
    return Phrase(word, f"verdict {_COLOURS.get(word, 'unclear')}")


def _card(each: JudgedController, judged: Judgement) -> Group:
    """Verdict, reason, and an experiment."""
    alone, word, cost = len(judged.controllers) == 1, _word(each), each.figures.get("cost")
    than = {"better": " than the log", "worse": " than the log", "not distinguishable": " from the log"}.get(word, "")
    reason = each.reason
    if cost is not None:
        reason = f"Cost per step {with_interval(cost.expected)}, in the log {number(cost.logged)}."
    parts = [
        None if alone else Note(each.name, "eyebrow"),
        Note(_capital(word) + than, "word" if alone else "finding"),
        Note(_capital(reason), "note reason"),
        Note(f"To settle it, {experiment_text(each.experiment)}") if each.experiment else None,
    ]
    return Group(parts, f"advice {_COLOURS.get(word, 'unclear')}", each.name)


def _figures(judged: Judgement) -> list[PagePart]:
    """Charts and tables of the judged controllers."""
    shown = [each for each in judged.controllers if each.figures]
    if not shown:
        return []
    names = figure_names(judged)
    head, (log, *rows) = figure_rows(judged, names, fresh=True)
    pairs = zip(judged.controllers, rows, strict=True)
    cells: list[list[str | PagePart]] = [["the log", "", *log[1:]]]
    cells += [[name, _verdict(_word(each)), *row] for each, (name, *row) in pairs if each.figures]
    others = f"Means of {plural(judged.num_fresh, 'episode')} with other starts, targets and disturbances"
    long = max(len(each.name) for each in shown) > MAX_NAME
    return [
        Note(_FIGURES),
        Group([_chart(name, shown, judged) for name in names], "gallery alone" if long else "gallery"),
        Group([Table(others, ["controller", "cost is", *head[1:]], cells, "In other episodes")], "wide"),
    ]


def _chart(name: str, shown: list[JudgedController], judged: Judgement) -> IntervalChart:
    """The log, then each controller with a mark at the log."""
    log, title = per_unit(name, judged) * judged.logged[name], figure_title(name, judged)
    title = title if name.startswith("violations") else _capital(title)  # that of a constraint begins with a signal
    rows = [Dot(label="the log", value=log, low=log, high=log, text=number(log), style="ceiling", target=log)]
    for each in shown:
        figure = each.figures[name]
        mean, style = figure.expected.times(per_unit(name, judged)), _STYLES.get(figure.better, "floor")
        rows.append(Dot.of(each.name, mean, with_interval(mean).replace(" ", NBSP), style, target=log))
    reach = MAX_REACH * max(abs(row.value) for row in rows) or 1.0
    low, high = max(-reach, min(row.low for row in rows)), min(reach, max(row.high for row in rows))
    ticks = nice_ticks(min(0.0, low), high if low or high else 1.0, 4)
    return IntervalChart(title=title, rows=rows, ticks=ticks, show=lambda value: tick(float(f"{value:.5g}")))


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _differences(judged: Judgement) -> list[PagePart]:
    pairs = [(f"{d.first} − {d.second}", with_interval(d.cost), _verdict(d.verdict)) for d in judged.differences]
    return [Table(_PAIRED, ["controllers", "difference", "the first is"], pairs)] if pairs else []


def _imagined(each: JudgedController, judged: Judgement, *, folded: bool) -> Group:
    """Fans, where the controller leaves the logs, and the riskiest steps."""
    axis = time_axis(judged.first_step + len(each.outside_steps) - 1, judged.step_s)
    times = axis.times[judged.first_step :]
    title, aside = "Runs outside the logs", f"{percent(each.outside)} of all steps"
    share = ChartLine(label=title, style="world", x=times, y=[100 * share for share in each.outside_steps])
    alt, ticks = f"{title} at each step, {each.name}", range(0, 101, 20)
    outside = LineChart(
        title=title, alt=alt, x_label=axis.label, y_label="%", lines=[share], y_ticks=ticks, aside=aside
    )
    risky = [(str(r.episode), str(r.step), " and ".join(r.signals), number(r.distance)) for r in each.risky]
    parts = [
        Note(_UNSTABLE) if each.verdict is RunVerdict.UNSTABLE else None,
        Facts([("Settings", line) for line in each.card.settings]),
        Group.gallery([*(_fan(fan, times, axis.label) for fan in each.fans), outside]),
        Table(_RISKY, ["episode", "step", "signals", "distance"], risky),
    ]
    block = FindingBlock(each.name, parts, result=_verdict(_word(each)), folded=folded)
    return Group([block], "" if folded else "wide")  # in a group, so that all names have the same size


def _fan(fan: Fan, times: Values, label: str) -> LineChart:
    """Median and 90 % of the runs, logged and imagined."""
    lines = [
        ChartLine(label=name, style=style, x=times, y=values[1], low=values[0], high=values[2])
        for name, style, values in (("logged", "real", fan.logged), ("imagined", "world", fan.imagined))
    ]
    alt = f"Median and 90 % of the logged and imagined runs of {fan.signal}"
    return LineChart(title=fan.signal, alt=alt, x_label=label, y_label=pretty_unit(fan.unit), lines=lines)


_FIGURES: Final = (
    f"Means with 90{NBSP}% intervals, if these situations came again with other noise. The vertical mark is the log, "
    "and lower is better. A controller is grey if its interval contains the log."
)
_FANS: Final = f"Lines are medians over the runs at each step. Bands contain 90{NBSP}% of the runs."
_PAIRED: Final = (
    f"On the same situations, with 90{NBSP}% intervals. Errors that both share do not change which is better."
)
_UNSTABLE: Final = "The loop is unstable: real runs may be worse than these."
_RISKY: Final = f"Steps that are most unlike the logs. 1{NBSP}% of the logged steps have a distance above 1."
_METHODS: Final = (
    "The world imagines each logged episode under the controller, with the same start, targets and exogenous inputs. "
    "What the world could not predict in the log is added again: disturbances, noise and its own errors.",
    "The width of an interval follows from features. Five linear simulators of the logs show how much models disagree, "
    "and what a larger or later effect of the actions would change. The others are the distance from the logs and the "
    "noise.",
    "A loop is unstable if it keeps oscillating after a step without disturbances, in the world or in a linear "
    f"simulator. The oscillation exceeds {SHAKES:g} standard deviations of the log, and {OWN:g} times that without a "
    "controller. Controllers that switch by design or read nothing are exempt.",
    f"A controller is refused if more than {round_percent(MAX_OUTSIDE)} of its steps have a distance from the logs "
    f"above 1, or {round_percent(MAX_FAR)} above 2.",
)
