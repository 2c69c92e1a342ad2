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
from worldline.report.charts import ChartLine, Dot, IntervalChart, LineChart, share_chart, zero_chart
from worldline.report.parts import FindingBlock, Group, Note, PagePart, Phrase, Table


def block(finding: ReportFinding, *parts: PagePart | None) -> FindingBlock:
    """A finding with its figures."""
    return FindingBlock(finding.text, parts, verdict=finding.verdict)


def verdict(style: str, text: str) -> Phrase:
    """A verdict in a table, in the colour of `style`: "good", "bad", "unclear" or "soft"."""
    return Phrase(text, f"verdict {style}")


def skill_block(found: Diagnostics) -> FindingBlock:
    """Errors of the world and the baselines by signal and horizon, with verdicts; a sentence if there is no skill."""
    if not found.skills or not found.horizons:
        return block(findings.margins(found))
    against = list(dict.fromkeys(one.against for one in found.skills))
    errors = {(one.world, one.signal): one.rmse for one in found.errors}
    rows: list[list[str | PagePart]] = []
    for signal in dict.fromkeys(one.signal for one in found.skills):
        curves = [errors.get((name, signal)) for name in ["", *against]]
        for step in found.horizons:
            style = "" if step == found.horizons[0] else "again"
            title = Phrase(with_unit(label(signal), found.units[signal]), style)
            values = ["–" if one is None else number(one.at(step).value) for one in curves]
            rows.append([title, span(step, found.step_s), *values, _contest(found, signal, step)])
    head = ["signal", "ahead", "this world", *map(label, against), "verdict"]
    caption = "Error (RMSE) on the same held-out windows; a tie is a difference whose 95\u00a0% interval includes 0"
    return block(findings.margins(found), Table(caption, head, rows))


def _contest(found: Diagnostics, signal: str, step: int) -> Phrase:
    """Verdict at this step."""
    skills = {one.against: one.skill.at(step) for one in found.skills if one.signal == signal}
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


def open_loop_block(found: Diagnostics) -> FindingBlock | None:
    """Error over the horizon by signal, with the baselines; None without errors."""
    own = [error for error in found.errors if not error.world]
    if not own:
        return None
    summary = findings.open_loops(found)
    texts = [findings.open_loop(found, error).text for error in own]
    each = [Note(text) for text in texts if text != summary.text]
    details = Note("Open loop: no observation after the start. Shaded: 95\u00a0% interval over episodes.")
    return block(summary, Group.gallery([_error_chart(found, error) for error in own]), *each, details)


def _error_chart(found: Diagnostics, own: ErrorCurve) -> LineChart:
    """Curves of one signal; the world on top with its interval."""
    unit, unit_name = clock(found.horizon, found.step_s)
    x = [unit * (k + 1) for k in range(found.horizon)]
    others = [one for one in found.errors if one.world and one.signal == own.signal]
    lines = [
        ChartLine(label=label(one.world), style=f"other{k % 6}", x=x, y=one.rmse.value) for k, one in enumerate(others)
    ]
    lines.append(
        ChartLine(label="this world", style="world", x=x, y=own.rmse.value, low=own.rmse.low, high=own.rmse.high)
    )
    title, y_label = label(own.signal), with_unit("error (RMSE)", found.units[own.signal])
    last = "; ".join(f"{line.label} {number(line.y[-1])}" for line in reversed(lines))
    alt = f"Error of {title} over the horizon; after {span(found.horizon, found.step_s)}: {last}"
    return LineChart(title=title, alt=alt, x_label=f"{unit_name} ahead", y_label=y_label, lines=lines, zero=True)


def gaps_block(found: Diagnostics) -> FindingBlock | None:
    """Growth of the error without the true actions; None without gaps."""
    if not found.gaps:
        return None
    overall = [gap for gap in found.gaps if gap.signal is None]
    shown = overall if len({gap.signal for gap in found.gaps}) == 2 and overall else found.gaps
    large = any(gap.increase.value >= MAX_GROWTH for gap in shown)  # then the axis has factors
    rows = []
    for gap in shown:
        one, name = gap.increase, "all signals" if gap.signal is None else label(gap.signal)
        dot = Dot.of(f"{name}, {gap.change}", one, growth(one.value), "world" if one.low > 0 else "floor")
        rows.append(replace(dot, value=1 + dot.value, low=1 + dot.low, high=1 + dot.high) if large else dot)
    title = "Growth of the error without the true actions"
    show: Callable[[Number], str] = (lambda factor: f"×{number(factor)}") if large else growth
    return block(findings.gaps(found.gaps), zero_chart(title, ("actions", "growth"), rows, least=0.1, show=show))


def coverage_block(found: Diagnostics) -> FindingBlock | None:
    """Nominal and measured coverage, and the width of the bands; None without bands."""
    if not found.bands:
        return None
    signals = list(dict.fromkeys(band.signal for band in found.bands))
    charts = [_coverage_chart([band for band in found.bands if band.signal == name]) for name in signals]
    bands = findings.headline_bands(found.bands)
    steps = found.horizons or (found.horizon,)
    rows = [
        [
            with_unit(label(band.signal), found.units[band.signal]),
            *(number(band.width[step - 1]) for step in steps),
            span(band.horizon, found.step_s),
        ]
        for band in bands
    ]
    head = ["signal", *(f"after {span(step, found.step_s)}" for step in steps), "informative up to"]
    caption = f"Mean width of the {round_percent(bands[0].level)} band"
    details = "A band contains a trajectory if every step and component lies inside. Vertical tick: nominal coverage."
    table = Table(caption, head, rows)
    return block(findings.coverage(found.bands), Group.gallery(charts), Note(details), table)


def _coverage_chart(bands: Sequence[Band]) -> IntervalChart:
    rows = [
        Dot.of(
            f"{round_percent(band.level)} band",
            band.coverage,
            percent(band.coverage.value),
            "world" if band.coverage.low <= band.level <= band.coverage.high else "missed",
            target=band.level,
        )
        for band in bands
    ]
    return share_chart(f"Trajectories inside, {label(bands[0].signal)}", ("band", "inside"), rows)
