"""The blocks of an audit page: each measurement as a finding with its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit import advice
from worldline.audit.audit_evidence import Agreement, Effect, Measured
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.excitation import MIN_CORRELATION, MIN_EPISODES, MIN_EXCITATION
from worldline.audit.findings import ReportFinding, Tone, goal_reaching
from worldline.audit.grades import Verdict
from worldline.data.quality.regressions import MIN_CHANGES
from worldline.formatting import (
    MINUTE_S,
    label,
    listing,
    number,
    percent,
    plural,
    pretty_unit,
    quantity,
    round_percent,
    span,
    with_unit,
)
from worldline.plots.ticks import nice_ticks, zero_ticks
from worldline.report.charts import Dot, IntervalChart, Sketch, share_chart
from worldline.report.measured_blocks import block, verdict
from worldline.report.parts import FindingBlock, Group, Note, PagePart, Phrase, Table
from worldline.report.svg import Plane
from worldline.stats import Estimate

MAX_ROWS: Final = 24
MAX_PLACEBOS: Final = 12
_AGREEMENT: Final[dict[Agreement, tuple[str, str]]] = {
    "opposite": ("bad", "✗ opposite sign"),
    "apart": ("unclear", "≈ different size"),
    "agrees": ("good", "✓ agrees"),
    "not identifiable": ("unclear", "NOT IDENTIFIABLE"),
    "not resolved": ("soft", "not resolved"),
    "none": ("soft", "too small to matter"),
}
"""Style and text of each agreement."""
_COVERAGE: Final = {
    "holds": ("good", "✓ calibrated"),
    "narrow": ("bad", "✗ too narrow"),
    "wide": ("unclear", "≈ too wide"),
}
_TRUSTED: Final = (
    "A signal is trusted up to a step if, at every step until then, its error is significantly below that of "
    "persistence. If actions help a linear model, the error must also be below that of a linear model without actions. "
    "A linear model with actions must not be significantly better. If the error of a baseline is negligible, the world "
    "must only not be worse."
)


def effects_block(measured: Measured) -> FindingBlock | None:
    """Effects by action and signal: a chart over the lags, the largest effect, and the agreement with the logs.

    None without effects.
    """
    if not measured.effects:
        return None
    groups = sorted(advice.effect_pairs(measured), key=_relative_size, reverse=True)
    step_s = measured.diagnostics.step_s
    shown = groups[:MAX_ROWS]
    lags = Group([Phrase(str(effect.lag)) for effect in groups[0]], "lags")
    rows = [_effect_row(group, advice.worst_effect(group), measured) for group in shown]
    duration = f" of {span(1, step_s)}" if step_s is not None and step_s >= MINUTE_S else ""
    caption = (
        "Effect of one standard deviation of an action, held from the first step on, after the given number of steps"
        f"{duration}. Line with intervals: world; dashed line in a band: logs. Other actions are unchanged."
    )
    head: list[str | PagePart] = ["action → signal", lags, "world", "logs", "agreement"]
    table = Table(caption, head, rows, style="effects")
    left = len(groups) - MAX_ROWS
    more = Note(f"The JSON file has {plural(left, 'more pair')} with smaller effects.") if left > 0 else None
    return block(_effects_finding(measured), table, more)


def _relative_size(group: Sequence[Effect]) -> float:
    """The largest effect divided by the standard deviation of the signal."""
    return max(advice.effect_size(effect) / (effect.spread or 1.0) for effect in group)


def _effect_row(group: Sequence[Effect], worst: Effect, measured: Measured) -> list[str | PagePart]:
    """The lag that the pair counts by, and the steps at which the effect is not identifiable."""
    hidden = [str(effect.lag) for effect in group if effect.agreement == "not identifiable" != worst.agreement]
    style, words = _AGREEMENT[worst.agreement]
    change = quantity(worst.change, measured.units.get(worst.action, "1"))
    unknown = f"; after {listing(hidden)} NOT IDENTIFIABLE" if hidden else ""
    details = f"+{change}; figures after {plural(worst.lag, 'step')}{unknown}"
    logs = None if worst.agreement == "not identifiable" else worst.logs
    return [
        Phrase(f"{worst.action} → {worst.signal}", small=details),
        effect_sketch(group),
        _value(worst.world, worst.unit),
        "–" if logs is None else _value(logs, worst.unit),
        verdict(f"{style} agreement", words),
    ]


def _value(estimate: Estimate, unit: str) -> Phrase:
    """A figure and its interval."""
    return Phrase(quantity(estimate.value, unit), small=f"{number(estimate.low)} to {number(estimate.high)}")


def effect_sketch(effects: Sequence[Effect]) -> Sketch:
    """An effect over its lags, equally spaced: the logs as a band, the world as a line with intervals.

    Args:
        effects: effects of one action on one signal, by lag.
    """
    least = MIN_EFFECT_SHARE * effects[0].spread  # a negligible effect must look negligible
    logs = [(k + 0.5, effect.logs) for k, effect in enumerate(effects) if effect.logs is not None]
    worlds = [(k + 0.5, effect.world) for k, effect in enumerate(effects)]
    ends = [-least, least, *(end for _, estimate in (*worlds, *logs) for end in (estimate.low, estimate.high))]
    margin = 0.06 * ((max(ends) - min(ends)) or 1.0)
    plane = Plane((0, len(effects)), (min(ends) - margin, max(ends) + margin))
    drawn = [plane.horizontal("level", 0.0)]
    if logs:
        xs, low, value, high = zip(*((x, logged.low, logged.value, logged.high) for x, logged in logs), strict=True)
        drawn += [plane.area("band logs", xs, low, high), plane.curve("line logs", xs, value)]
    drawn.append(plane.curve("line world", [x for x, _ in worlds], [estimate.value for _, estimate in worlds]))
    for x, estimate in worlds:
        drawn.append(plane.vertical("whisker world", x, plane.down(estimate.high), plane.down(estimate.low)))
        drawn.append(plane.level("dot world", x, x, estimate.value))
    unknown = " unknown" if effects[0].agreement == "not identifiable" else ""
    unit = pretty_unit(effects[0].unit)
    parts = [
        f"after {effect.lag}: {number(effect.world.value)} {unit}".rstrip()
        + ("" if effect.logs is None else f", logs {number(effect.logs.value)}")
        for effect in effects
    ]
    alt = f"Effect of {effects[0].action} on {effects[0].signal}, {'; '.join(parts)}"
    return Sketch(drawn, alt, f"mini{unknown}")


def _effects_finding(measured: Measured) -> ReportFinding:
    effects = advice.identified_rows(measured)
    words = [effect.agreement for effect in advice.effect_rows(measured)]
    dull = [row.action for row in measured.excitation if not row.enough]
    unknown = f" In these logs, effects of {listing(dull)} are NOT IDENTIFIABLE." if dull else ""
    if num_open := words.count("not resolved"):
        unknown = f" {plural(num_open, 'effect')} {'is' if num_open == 1 else 'are'} not resolved.{unknown}"
    if not effects:
        text = "No effect in the logs can be compared with the world."
        if set(words) == {"none"}:
            text = "The logs show no effect that matters."
        return ReportFinding(text + unknown, "unclear")
    wrong = sum(effect.agreement == "opposite" for effect in effects)
    sign = f"; {wrong} {'has' if wrong == 1 else 'have'} the opposite sign" if wrong else ""
    all_agree = all(effect.agreement == "agrees" for effect in effects)
    tone: Tone = "bad" if wrong else "good" if all_agree and not dull else "unclear"
    return ReportFinding(f"{advice.share_that_agrees(effects)}{sign}.{unknown}", tone)


def goals_block(measured: Measured) -> FindingBlock | None:
    """Goal reaching on logged segments; None if it was not measured."""
    goals = measured.goals
    if goals is None:
        return None
    count = f"{plural(goals.num_segments, 'segment')} of {plural(goals.num_episodes, 'episode')}"
    details = (
        f"For {count}, the goal is the observation at the end. The planner's cost of the logged actions is compared "
        f"with that of {plural(goals.num_others, 'sequence')} of other episodes."
    )
    return block(goal_reaching(goals), Note(details))


def horizon_block(measured: Measured) -> FindingBlock:
    """The trusted horizon of each signal."""
    step_s, end, lost = measured.diagnostics.step_s, measured.diagnostics.horizon, advice.not_finite(measured)
    rows = []
    for row in measured.trusted:
        reason = "it is not finite" if row.signal in lost else advice.end_reason(row.stops)
        text = span(row.steps, step_s) + (f"; then {reason}" if row.stops else " (all)")
        style = "world" if row.steps == row.of else "floor" if row.steps else "missed"
        rows.append(Dot(label=row.signal, value=row.steps, low=0, high=row.steps, text=text, style=style))
    title = "Trusted horizon in steps"
    ticks = [mark for mark in nice_ticks(0, end, 5) if mark <= end] if end > 1 else [0, 1]
    ticks = ticks if ticks[-1] == end else [*ticks, end]
    chart = IntervalChart(title=title, rows=rows, ticks=ticks, head=("signal", "steps"))
    good = advice.trusted_signals(measured)
    bad = [row.signal for row in measured.trusted if not row.steps]
    if not good:
        return block(ReportFinding("No signal can be trusted.", "bad"), chart, Note(_TRUSTED))
    shortest, names = min(row.steps for row in good), [row.signal for row in good]
    text = f"Predictions of {listing(names)} can be trusted for at least {span(shortest, step_s)}."
    ways = list(dict.fromkeys(advice.baselines_beaten(measured, row).rstrip(",") for row in good))
    if bad or len(ways) == 1:
        text += f" Predictions of {listing(bad)} cannot." if bad else f" They are {ways[0]}."
    tone: Tone = "unclear" if bad or shortest < end else "good"
    return block(ReportFinding(text, tone), chart, Note(_TRUSTED))


def leak_block(measured: Measured) -> FindingBlock:
    """Dependence of predictions on later actions."""
    leak = measured.leak
    if leak.leaks:
        text = f"Predictions depend on later actions: these change {leak.signal} by {percent(leak.worst)}."
        return block(ReportFinding(text, "bad"))
    text = f"None of {plural(leak.num_checked, 'predicted value')} depends on later actions"
    text += f", except for rounding (relative change {number(leak.worst, 2)})." if leak.worst else "."
    return block(ReportFinding(text, "good"))


def rank_block(measured: Measured) -> FindingBlock:
    """Effective rank of the predictions."""
    rank = measured.rank
    text = (
        f"One-step predictions have an effective rank of {number(rank.predicted, 2)}, the observations of "
        f"{number(rank.real, 2)}, with {plural(rank.num_components, 'component')}. Predictions have "
        f"{percent(rank.spread)} of the variance of the observations."
    )
    details = (
        "The effective rank is the participation ratio of the predictions. The latents of a world are not accessible."
    )
    return block(ReportFinding(text, "bad" if rank.collapsed else "good"), Note(details))


def joint_block(measured: Measured) -> FindingBlock:
    """Coverage of whole trajectories, with exact probabilities."""
    rows: list[list[str | PagePart]] = []
    for band in measured.coverage:
        counts = [f"{band.inside.successes} of {band.inside.trials}", number(band.too_few, 2), number(band.too_many, 2)]
        rows.append([band.signal, round_percent(band.level), *counts, verdict(*_COVERAGE[band.verdict])])
    narrow = [band.signal for band in measured.coverage if band.verdict == "narrow"]
    calibrated = "No band is significantly too narrow with this number of episodes."
    text = f"The bands of {listing(narrow)} are too narrow." if narrow else calibrated
    head = ["signal", "nominal", "inside", "P(this or fewer)", "P(this or more)", "result"]
    caption = "Trajectories inside the band, one per episode, and the probability of this count under nominal coverage"
    return block(ReportFinding(text, "bad" if narrow else "good"), Table(caption, head, rows))


def excitation_block(measured: Measured) -> FindingBlock:
    """Excitation of each action."""
    rows = []
    for row in measured.excitation:
        style = "world" if row.enough else "missed"
        rows.append(Dot.of(row.action, row.left, percent(row.left.value), style, target=MIN_EXCITATION))
    title = "Share of each action, or of its changes, that the history does not predict"
    chart = share_chart(title, ("action", "excitation"), rows)
    dull = [row.action for row in measured.excitation if not row.enough]
    excited = "Every action has enough excitation to identify its effects."
    text = f"Excitation of {listing(dull)} is too low to identify effects." if dull else excited
    if measured.randomised is not None:
        text += f" {percent(measured.randomised)} of the steps are flagged as randomised."
    details = (
        f"Vertical tick: {round_percent(MIN_EXCITATION)}; below it, effects are not identifiable. They also need "
        f"{plural(MIN_CHANGES, 'change')} of the action. An action that is held is measured where it changes."
    )
    return block(ReportFinding(text, "bad" if dull else "good"), chart, Note(details))


def placebo_block(measured: Measured) -> PagePart:
    """Correlation of errors with the next actions."""
    if not measured.placebo:
        return Note("The placebo test was not run: too few steps are complete.")
    rows = []
    for placebo in sorted(measured.placebo, key=lambda placebo: -abs(placebo.value.value))[:MAX_PLACEBOS]:
        name, style = f"{placebo.signal}, {placebo.action}", "missed" if placebo.found else "world"
        rows.append(Dot.of(name, placebo.value, number(placebo.value.value, 2), style, target=0.0))
    ends = max(0.2, *(max(abs(row.low), abs(row.high)) for row in rows))
    title = "Correlation of the last error with the next action, given the last observation and action"
    head = ("error, action", "correlation")
    chart = IntervalChart(title=title, rows=rows, ticks=zero_ticks([-ends], [ends]), zero=True, head=head)
    finding = _placebo_finding(measured)
    largest = max(measured.placebo, key=lambda placebo: abs(placebo.raw.value))
    details = (
        "Placebo test: an action cannot cause an earlier error. The part of the action that the last observation and "
        f"action explain is removed first; without this, correlations reach {number(abs(largest.raw.value), 2)}. A "
        f"correlation counts if it is at least {MIN_CORRELATION} and significant after correction for all pairs. The "
        "test does not detect a hidden cause that is independent at every step."
    )
    return block(finding, chart, Note(details))


def _placebo_finding(measured: Measured) -> ReportFinding:
    if (count := measured.placebo[0].num_episodes) < MIN_EPISODES:
        return ReportFinding(f"The placebo test needs {MIN_EPISODES} episodes; there are {count}.", "unclear")
    if actions := listing(advice.confounded_actions(measured)):
        text = f"Errors predict {actions}: a controller with a memory or an unlogged cause affects both."
        return ReportFinding(text, "bad")
    return ReportFinding("Errors do not predict the next action.", "good")


def cover_block(measured: Measured) -> FindingBlock:
    """Coverage of actions and states by the logs."""
    data, rows = measured.data, []
    for action in data.actions:
        known = action.low is not None and action.high is not None
        possible = f"{number(action.low or 0.0)} to {number(action.high or 0.0)}" if known else "not known"
        logged = f"{number(action.least)} to {number(action.greatest)}"
        rows.append(
            [with_unit(action.name, measured.units.get(action.name, "1")), logged, possible, percent(action.used)]
        )
    text = (
        f"Observations have an effective dimension of {number(data.effective_dimension, 2)} with "
        f"{plural(data.num_components, 'component')}"
    )
    text += "." if data.spread is None else f"; {percent(data.spread)} of the combinations of two components occur."
    few = [pair for pair in data.narrow if pair.share < 0.5]
    pairs = [f"{pair.one} and {pair.other} ({percent(pair.share)})" for pair in few]
    details = Note(f"Pairs with few combinations: {listing(pairs)}.") if pairs else None
    caption = "Logged range of each action; predictions outside of it are unreliable"
    used = Table(caption, ["action", "logged", "possible", "share used"], rows)
    return block(ReportFinding(text, "plain"), used, details)


def twins_block(measured: Measured) -> FindingBlock | None:
    """Scores of the tests against twins; None without tests."""
    if not measured.twins:
        return None
    rows, notes = [], []
    for test in measured.twins:
        for cell in test.grade.cells:
            name, score = f"{test.name} {label(cell.name)}", cell.score
            if score is None:
                notes.append(f"{name}: {cell.note}.")
                continue
            style = "world" if score.low > 0.5 else "floor" if score.high > 0 else "missed"
            rows.append(Dot.of(name, score, number(score.value, 2), style))
        unmet = [condition for condition in test.grade.conditions if not condition.met]
        notes += [f"{test.name}: {condition.name}: {condition.found}." for condition in unmet]
    verdicts = [f"{test.name} ({test.title}): {test.verdict.value}" for test in measured.twins]
    kinds = {test.verdict for test in measured.twins}
    tone: Tone = "bad" if Verdict.FAIL in kinds else "good" if kinds == {Verdict.PASS} else "unclear"
    low = min([0.0, *(max(-1.0, row.low) for row in rows)])
    title, head = "Score: 0 is the best trivial baseline, 1 the ground truth", ("test and signal", "score")
    chart = IntervalChart(title=title, rows=rows, ticks=nice_ticks(low, 1.0, 5), zero=True, head=head)
    return block(ReportFinding(f"{'; '.join(verdicts)}.", tone), chart if rows else None, *map(Note, notes))
