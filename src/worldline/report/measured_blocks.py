"""Blocks of diagnostics on the pages of learning and of an audit: skill, open-loop error, use of actions, coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from worldline.audit import findings
from worldline.audit.diagnostics import Band, Diagnostics, ErrorCurve
from worldline.audit.findings import ReportFinding
from worldline.formatting import (
    MAX_GROWTH,
    Number,
    clock,
    growth,
    label,
    listing,
    number,
    percent,
    round_percent,
    span,
    with_unit,
)
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart, share_chart
from worldline.plots.parts import FindingBlock, Group, Note, PagePart, Phrase, Table
from worldline.plots.ticks import zero_ticks


def block(finding: ReportFinding, *parts: PagePart | None) -> FindingBlock:
    """A finding with its figures."""
    return FindingBlock(finding.text, parts, verdict=finding.verdict)


def verdict(style: str, text: str) -> Phrase:
    """A verdict in a table, in the colour of `style`: "good", "bad", "unclear" or "soft"."""
    return Phrase(text, f"verdict {style}")


def skill_block(measured: Diagnostics) -> FindingBlock:
    """Errors of the world and the baselines by signal and horizon, with verdicts; a sentence if there is no skill."""
    if not measured.skills or not measured.horizons:
        return block(findings.margins(measured))
    against = list(dict.fromkeys(curve.against for curve in measured.skills))
    rows: list[list[str | PagePart]] = []
    for signal in dict.fromkeys(curve.signal for curve in measured.skills):
        curves = [measured.errors_of(signal).get(name) for name in ["", *against]]
        for step in measured.horizons:
            style = "" if step == measured.horizons[0] else "again"
            title = Phrase(with_unit(signal, measured.units[signal]), style)
            values = ["–" if curve is None else number(curve.at(step).value) for curve in curves]
            rows.append([title, span(step, measured.step_s), *values, _contest(measured, signal, step)])
    head = ["signal", "ahead", "this world", *map(label, against), "verdict"]
    caption = "Error (RMSE) on the same held-out windows; a tie is a difference whose 95\u00a0% interval includes 0"
    return block(findings.margins(measured), Table(caption, head, rows))


def _contest(measured: Diagnostics, signal: str, step: int) -> Phrase:
    """Verdict at this step."""
    skills = {name: skill.at(step) for name, skill in measured.skills_of(signal).items()}
    if any(np.isnan(skill.value) for skill in skills.values()):
        return verdict("bad", "✗ not finite")
    orders = {name: findings.compare_errors(skill) for name, skill in skills.items()}
    lost = [label(name) for name, order in orders.items() if order == "worse"]
    tied = [label(name) for name, order in orders.items() if order in ("equivalent", "unclear")]
    if lost:
        return verdict("bad", f"✗ worse than {listing(lost)}")
    if tied:
        return verdict("unclear", f"≈ tie with {listing(tied)}")
    return verdict("good", "✓ better")


def open_loop_block(measured: Diagnostics) -> FindingBlock | None:
    """Error over the horizon by signal, with the baselines; None without errors."""
    if not measured.own:
        return None
    summary = findings.open_loops(measured)
    texts = [findings.open_loop(measured, error).text for error in measured.own]
    notes = [Note(text) for text in texts if text != summary.text]
    details = Note("Open loop: no observation after the start. Shaded: 95\u00a0% interval over episodes.")
    return block(summary, Group.gallery([_error_chart(measured, error) for error in measured.own]), *notes, details)


def _error_chart(measured: Diagnostics, own: ErrorCurve) -> LineChart:
    """Curves of one signal; the world on top with its interval."""
    unit, unit_name = clock(measured.horizon, measured.step_s)
    x = [unit * (k + 1) for k in range(measured.horizon)]
    others, rmse = measured.errors_of(own.signal), own.rmse
    del others[""]
    lines = [
        ChartLine(label=label(name), style=f"other{k % 6}", x=x, y=curve.value)
        for k, (name, curve) in enumerate(others.items())
    ]
    lines.append(ChartLine(label="this world", style="world", x=x, y=rmse.value, low=rmse.low, high=rmse.high))
    title, y_label = own.signal, with_unit("error (RMSE)", measured.units[own.signal])
    last = "; ".join(f"{line.label} {number(line.y[-1])}" for line in reversed(lines))
    alt = f"Error of {title} over the horizon; after {span(measured.horizon, measured.step_s)}: {last}"
    return LineChart(title=title, alt=alt, x_label=f"{unit_name} ahead", y_label=y_label, lines=lines, zero=True)


def gaps_block(measured: Diagnostics) -> FindingBlock | None:
    """Growth of the error without the true actions; None without gaps."""
    if not measured.gaps:
        return None
    overall = [gap for gap in measured.gaps if gap.signal is None]
    shown = overall if len({gap.signal for gap in measured.gaps}) == 2 and overall else measured.gaps
    large = any(gap.increase.value >= MAX_GROWTH for gap in shown)  # then the axis has factors
    rows = []
    for gap in shown:
        name, style = gap.signal or "all signals", "world" if gap.increase.low > 0 else "floor"
        dot = Dot.of(f"{name}, {gap.change}", gap.increase, growth(gap.increase.value), style)
        rows.append(replace(dot, value=1 + dot.value, low=1 + dot.low, high=1 + dot.high) if large else dot)
    title = "Growth of the error without the true actions"
    show: Callable[[Number], str] = (lambda factor: f"×{number(factor)}") if large else growth
    ticks = zero_ticks([row.low for row in rows], [0.1, *(row.high for row in rows)])
    chart = IntervalChart(title=title, rows=rows, ticks=ticks, show=show, zero=True)
    return block(findings.gaps(measured.gaps), chart)


def coverage_block(measured: Diagnostics) -> FindingBlock | None:
    """Nominal and measured coverage, and the width of the bands; None without bands."""
    if not measured.bands:
        return None
    signals = dict.fromkeys(band.signal for band in measured.bands)
    charts = [_coverage_chart([band for band in measured.bands if band.signal == name]) for name in signals]
    bands = findings.headline_bands(measured.bands)
    steps = measured.horizons or (measured.horizon,)
    rows = []
    for band in bands:
        widths = [number(band.width[step - 1]) for step in steps]
        title = with_unit(band.signal, measured.units[band.signal])
        rows.append([title, *widths, span(band.horizon, measured.step_s)])
    head = ["signal", *(f"after {span(step, measured.step_s)}" for step in steps), "informative up to"]
    caption = f"Mean width of the {round_percent(bands[0].level)} band"
    details = "A band contains a trajectory if every step and component lies inside. Vertical tick: nominal coverage."
    table = Table(caption, head, rows)
    return block(findings.coverage(measured.bands), Group.gallery(charts), Note(details), table)


def _coverage_chart(bands: Sequence[Band]) -> IntervalChart:
    rows = []
    for band in bands:
        rate, name = band.coverage, f"{round_percent(band.level)} band"
        style = "world" if rate.low <= band.level <= rate.high else "missed"
        rows.append(Dot.of(name, rate, percent(rate.value), style, target=band.level))
    return share_chart(f"Trajectories inside, {bands[0].signal}", rows)
