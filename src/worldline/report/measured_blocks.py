"""Report blocks of diagnostics: skill, open-loop error, use of actions, coverage."""

from __future__ import annotations

from collections.abc import Sequence

from worldline.audit import findings
from worldline.audit.diagnostics import Band, Diagnostics, ErrorCurve
from worldline.formatting import clock, label, listing, number, percent, round_percent, span, with_unit
from worldline.report.charts import ChartLine, Dot, LineChart, line_chart, share_chart, zero_chart
from worldline.report.evidence_blocks import block, gallery, note, verdict
from worldline.report.markup import Html, table, tag


def skill_block(found: Diagnostics) -> Html:
    """Errors of the world and the baselines by signal and horizon, with verdicts; a sentence if there is no skill."""
    if not found.skills:
        return block(findings.margins(found))
    against = list(dict.fromkeys(one.against for one in found.skills))
    errors = {(one.world, one.signal): one.rmse for one in found.errors}
    rows = []
    for signal in dict.fromkeys(one.signal for one in found.skills):
        curves = [errors.get((name, signal)) for name in ["", *against]]
        for step in found.horizons:
            style = {"class": "first" if step == found.horizons[0] else "again"}
            title = tag("span", style, with_unit(label(signal), found.units[signal]))
            values = ["–" if one is None else number(one.at(step).value) for one in curves]
            rows.append([title, span(step, found.step_s), *values, _contest(found, signal, step)])
    head = ["signal", "ahead", "this world", *map(label, against), "verdict"]
    caption = (
        "Error (RMSE) on the same held-out windows; a difference is significant if its 95\u00a0% interval excludes 0"
    )
    return block(findings.margins(found), table(head, rows, caption=caption))


def _contest(found: Diagnostics, signal: str, step: int) -> Html:
    """Verdict at this step."""
    skills = {one.against: one.skill.at(step) for one in found.skills if one.signal == signal}
    lost = [label(name) for name, skill in skills.items() if skill.high < 0]
    open_ = [label(name) for name, skill in skills.items() if skill.low <= 0 <= skill.high]
    if lost:
        return verdict("bad", f"✗ worse than {listing(lost)}")
    if open_:
        return verdict("unclear", f"≈ not significant: {listing(open_)}")
    return verdict("good", "✓ better")


def skill_chart(found: Diagnostics) -> Html:
    """Skill on every signal against its strongest baseline at the last reported horizon."""
    step, rows = found.horizons[-1], []
    for signal in dict.fromkeys(one.signal for one in found.skills):
        curves = [one for one in found.skills if one.signal == signal]
        strongest = min(curves, key=lambda one: one.skill.at(step).value)
        skill = strongest.skill.at(step)
        text = f"{percent(skill.value, signed=True)} vs {label(strongest.against)}"
        style = "world" if skill.low > 0 else "missed" if skill.high < 0 else "floor"
        rows.append(Dot.of(label(signal), skill, text, style))
    title = f"Error reduction after {span(step, found.step_s)} against the strongest baseline"
    return zero_chart(title, ("signal", "reduction"), rows)


def open_loop_block(found: Diagnostics) -> Html:
    """Error over the horizon by signal, with the baselines; empty without errors."""
    if not found.errors:
        return Html("")
    own = [error for error in found.errors if not error.world]
    charts = [_error_chart(found, error) for error in own]
    summary = findings.open_loops(found)
    texts = [findings.open_loop(found, error).text for error in own]
    each = [note(text) for text in texts if text != summary.text]
    details = "Open loop: no observation after the start. Shaded: 95\u00a0% interval over episodes."
    return block(summary, gallery(charts), *each, note(details))


def _error_chart(found: Diagnostics, own: ErrorCurve) -> Html:
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
    return line_chart(
        LineChart(title=title, alt=alt, x_label=f"{unit_name} ahead", y_label=y_label, lines=lines, zero=True)
    )


def gaps_block(found: Diagnostics) -> Html:
    """Growth of the error without the true actions; empty without gaps."""
    if not found.gaps:
        return Html("")
    overall = [gap for gap in found.gaps if gap.signal is None]
    shown = overall if len({gap.signal for gap in found.gaps}) == 2 and overall else found.gaps
    rows = []
    for gap in shown:
        one, name = gap.increase, "all signals" if gap.signal is None else label(gap.signal)
        style = "world" if one.low > 0 else "floor"
        rows.append(Dot.of(f"{name}, {gap.change}", one, percent(one.value, signed=True), style))
    title = "Growth of the error without the true actions"
    return block(findings.gaps(found.gaps), zero_chart(title, ("actions", "growth"), rows, least=0.1))


def coverage_block(found: Diagnostics) -> Html:
    """Nominal and measured coverage, and the width of the bands; empty without bands."""
    if not found.bands:
        return Html("")
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
    return block(findings.coverage(found.bands), gallery(charts), note(details), table(head, rows, caption=caption))


def _coverage_chart(bands: Sequence[Band]) -> Html:
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
