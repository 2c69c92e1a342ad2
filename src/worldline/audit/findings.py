"""The opening sentences of report sections, generated from the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from worldline.audit import report_evidence as evidence
from worldline.audit.audit_evidence import GoalRanking
from worldline.audit.diagnostics import HEADLINE_LEVEL, Band, Diagnostics, ErrorCurve, Gap, SkillCurve
from worldline.formatting import (
    MAX_GROWTH,
    baseline,
    between,
    duration,
    label,
    listing,
    number,
    percent,
    plural,
    quantity,
    round_percent,
    span,
)
from worldline.stats import Estimate, Rate

NEGLIGIBLE: Final = 0.05
"""Growth of the error below which the world counts as not using its actions."""
WELL_READ: Final = 0.9
NEARLY_ALL: Final = 0.999
"""R² above which no further digit is shown."""
POORLY_READ: Final = 0.5

EQUIVALENCE_MARGIN: Final = 0.05
"""Largest relative difference of equivalent errors."""
CHANCE: Final = 0.5
MIN_PREFERRED: Final = 0.7
"""Share of preferred actions below which a world cannot plan to goals."""
WELL_PREFERRED: Final = 0.85
"""Share of preferred actions from which a world plans to goals reliably."""

Tone = Literal["good", "bad", "unclear", "plain"]
Comparison = Literal["better", "worse", "equivalent", "unclear"]
"""Two errors on the same windows.

If the paired interval includes 0, they are equivalent within `EQUIVALENCE_MARGIN`, else unclear; pages call both a tie.
"""


@dataclass(frozen=True)
class ReportFinding:
    """A finding in one to three sentences, with a verdict.

    Args:
        text: the sentences.
        verdict: good or bad for the world, unclear if not significant, plain if nothing is graded.
    """

    text: str
    verdict: Tone


def compare_errors(skill: Estimate) -> Comparison:
    """How a world compares with a baseline.

    Args:
        skill: relative reduction of the baseline's error, with its interval.
    """
    if skill.low > 0 or skill.high < 0:
        return "better" if skill.low > 0 else "worse"
    return "equivalent" if skill.low >= -EQUIVALENCE_MARGIN and skill.high <= EQUIVALENCE_MARGIN else "unclear"


def goal_reaching(ranking: GoalRanking) -> ReportFinding:
    """Whether a planner prefers what led to a goal."""
    rank = ranking.preferred
    is_bad = rank.value < MIN_PREFERRED or rank.low <= CHANCE
    verdict: Tone = "bad" if is_bad else "good" if rank.value >= WELL_PREFERRED else "unclear"
    how = {"good": "can plan", "unclear": "can plan roughly", "bad": "cannot plan"}[verdict]
    goals = listing(list(ranking.goals))
    text = (
        f"The world {how} to logged goals of {goals}, {plural(ranking.steps, 'step')} ahead: it prefers the logged "
        f"actions to {percent(rank.value)} of other actions ({between(rank)}; 50\u00a0% by chance)."
    )
    return ReportFinding(text, verdict)


def planning(plans: evidence.Planning) -> ReportFinding:
    """Success rate of the planner, compared with the best baseline and the upper bound."""
    rate, floor, ceiling = plans.planner.all, _best(plans.outcomes, "floor"), _best(plans.outcomes, "ceiling")
    text = f"Planning reaches {number(rate.successes)} of {plural(rate.trials, 'goal')}: {_share(rate)}."
    verdict: Tone = "plain"
    if floor is not None:
        verdict = _order(rate, floor.all)
        text += f" The best baseline, {floor.name}, {_reaches(floor, verdict)}."
    if ceiling is not None:
        text += f" The upper bound, {ceiling.name}, {_reaches(ceiling, _order(rate, ceiling.all))}."
    return ReportFinding(text, verdict)


def splits(plans: evidence.Planning) -> ReportFinding:
    """Success rate by kind of pair, comparison with the best peer, and time per plan."""
    peer, rate = _best(plans.outcomes, "peer"), plans.planner.all
    shares = [f"{_share(share)} {kind}" for kind, share in (plans.planner.split or {"over all pairs": rate}).items()]
    text, verdict = f"Goals reached: {listing(shares)}.", "plain"
    if peer is not None:
        verdict = _order(rate, peer.all)
        text += f" Without search, {peer.name} {_reaches(peer, verdict)}."
    return ReportFinding(f"{text} {speed(plans)}".strip(), "bad" if verdict == "bad" else "plain")


def _reaches(outcome: evidence.GoalOutcome, order: Tone) -> str:
    """The success rate of another planner: "reaches 3.0 %"."""
    doubt = "; the difference is not significant" if order == "unclear" else ""
    return f"reaches {percent(outcome.all.value)}{doubt}"


def speed(plans: evidence.Planning) -> str:
    """Time per plan; empty if not measured."""
    times = {"alone": plans.plan_ms, f"in a batch of {plans.planner.all.trials}": plans.plan_batched_ms}
    parts = [f"{quantity(time_ms, 'ms')} {how}" for how, time_ms in times.items() if time_ms is not None]
    return f"One plan takes {listing(parts)}." if parts else ""


def learning(losses: evidence.Learning) -> ReportFinding:
    """Whether the validation loss fell and stayed low."""
    time = "" if losses.learn_s is None else f" Training took {duration(losses.learn_s)}."
    series = losses.validation or losses.terms[0]
    name = "validation loss" if losses.validation is not None else f"{label(series.name)} loss"
    start, end, steps = series.values[0], series.values[-1], plural(series.steps[-1], "step")
    best = int(np.nanargmin(series.values)) if not np.isnan(series.values).all() else 0
    if not np.isfinite(end):
        return ReportFinding(f"The {name} is not finite after {steps}: training diverged.", "bad")
    if not end < start:
        text = f"The {name} did not fall: it went from {number(start)} to {number(end)} over {steps}.{time}"
        return ReportFinding(text, "bad")
    if end > 1.2 * series.values[best]:
        lowest = f"{number(series.values[best])} by step {number(series.steps[best])}"
        text = f"The {name} fell from {number(start)} to {lowest}, then rose again to {number(end)}."
        return ReportFinding(text, "unclear")
    times = f", {number(start / end, 2)} times lower" if end > 0 and start / end >= 2 else ""
    text = f"The {name} fell from {number(start)} to {number(end)}{times}, over {steps}.{time}"
    return ReportFinding(text, "good" if losses.validation is not None else "plain")


def latent_health(health: evidence.LatentHealth) -> ReportFinding:
    """Whether every measure stayed above its threshold."""
    guarded = [(vital, vital.threshold) for vital in health.vitals if vital.threshold is not None]
    fallen = [(vital.series, limit) for vital, limit in guarded if not vital.series.values[-1] >= limit]
    if fallen:
        parts = [
            f"{series.name} fell to {number(series.values[-1])}, below {number(limit)}" for series, limit in fallen
        ]
        return ReportFinding(f"The latent collapsed: {listing(parts)}.", "bad")
    ends = [
        f"{vital.series.name} ended at {number(vital.series.values[-1])}"
        + ("" if vital.most is None else f" of {number(vital.most)}")
        for vital in health.vitals
    ]
    if not guarded:
        return ReportFinding(f"{capital(listing(ends))}.", "plain")
    return ReportFinding(f"The latent did not collapse: {listing(ends)}.", "good")


def readout(quality: evidence.ReadoutQuality) -> ReportFinding:
    """Quality of the worst readout."""
    rows = [(row, row.r2) for row in quality.rows if row.r2 is not None]
    if not rows:
        return ReportFinding("No signal varies on the held-out episodes, so readouts cannot be graded.", "plain")
    worst, r2 = min(rows, key=lambda pair: pair[1].value)
    name, error = worst.signal, quantity(worst.rmse, worst.unit)
    explained = f"R² {share_explained(r2.value)}, {share_explained(r2.low)} to {share_explained(r2.high)}"
    explained = f"R² {share_explained(r2.value)}" if r2.low > NEARLY_ALL else explained
    if r2.low >= WELL_READ:
        which = name if len(rows) == 1 else f"Every signal, including {name},"
        return ReportFinding(f"{which} can be read from the latent to within {error} ({explained}).", "good")
    if r2.high < POORLY_READ:
        return ReportFinding(f"{name} cannot be read from the latent ({explained}).", "bad")
    text = f"{name} can be read from the latent only roughly, to within {error} ({explained})."
    return ReportFinding(text, "unclear")


def share_explained(r2: float) -> str:
    """An R² with three digits, or "above 0.999"."""
    return f"above {NEARLY_ALL}" if r2 > NEARLY_ALL else number(r2)


def margins(measured: Diagnostics) -> ReportFinding:
    """Largest and smallest skill at the last reported horizon."""
    if not measured.skills:
        return ReportFinding("No baseline has an error at every step, so no skill can be computed.", "unclear")
    step = measured.horizons[-1]
    ranked = sorted(measured.skills, key=lambda curve: curve.skill.at(step).value)
    parts = [margin(curve, step) for curve in ([ranked[-1], ranked[0]] if len(ranked) > 1 else ranked)]
    text = f"After {span(step, measured.step_s)} its error is {listing(parts)}."
    worst, best = ranked[0].skill.at(step), ranked[-1].skill.at(step)
    lost = worst.high < 0 and best.low <= 0
    return ReportFinding(text, "good" if worst.low > 0 else "bad" if lost else "unclear")


def margin(curve: SkillCurve, step: int) -> str:
    """The error compared with that of a baseline at this step: "50 % smaller than that of persistence on a"."""
    skill, whose = curve.skill.at(step), f"that of {baseline(curve.against)} on {curve.signal}"
    if compare_errors(skill) in ("equivalent", "unclear"):
        return f"tied with {whose} (reduction: {between(skill)})"
    if skill.value < -MAX_GROWTH:
        return f"{number(1 - skill.value, 2)} times {whose}"
    how = f"{round_percent(abs(skill.value))} {'smaller' if skill.value >= 0 else 'larger'}"
    return f"{how} than {whose} (reduction: {between(skill)})"


def open_loops(measured: Diagnostics) -> ReportFinding:
    """On which signals the world beats every baseline at every step; the errors of a single signal."""
    own = measured.own
    graded = [error for error in own if measured.skills_of(error.signal)]
    if len(own) == 1 or len(graded) == 1:
        return open_loop(measured, graded[0] if graded else own[0])
    end = span(measured.horizon, measured.step_s)
    if not graded:
        return ReportFinding(f"The open-loop error was measured over {end} on {len(own)} signals.", "plain")
    verdicts = {error.signal: open_loop(measured, error).verdict for error in graded}
    better = [name for name, verdict in verdicts.items() if verdict == "good"]
    where = listing(better) or "no signal"
    text = f"Its error is below that of every baseline at every step up to {end} on {where}."
    if len(better) == len(verdicts):
        return ReportFinding(text, "good")
    return ReportFinding(text, "bad" if all(verdict == "bad" for verdict in verdicts.values()) else "unclear")


def open_loop(measured: Diagnostics, error: ErrorCurve) -> ReportFinding:
    """Error of one signal over the horizon, and the steps at which it is significantly below each baseline."""
    unit, last, rmse = measured.units[error.signal], measured.horizon, error.rmse
    text = (
        f"The error of {error.signal} is {quantity(rmse.value[0], unit)} after "
        f"{span(1, measured.step_s)} and {quantity(rmse.value[-1], unit)} after {span(last, measured.step_s)}."
    )
    skills = measured.skills_of(error.signal)
    if not skills:
        return ReportFinding(text, "plain")
    ahead = {name: sum(low > 0 for low in skill.low) for name, skill in skills.items()}
    behind = {name: sum(high < 0 for high in skill.high) for name, skill in skills.items()}
    parts = [
        f"below that of {baseline(name)} at {number(steps)} of {plural(last, 'step')}"
        + (f" and above it at {number(behind[name])}" if behind[name] else "")
        for name, steps in ahead.items()
    ]
    lost = any(behind[name] and not steps for name, steps in ahead.items())
    verdict: Tone = "bad" if lost else "good" if set(ahead.values()) == {last} else "unclear"
    return ReportFinding(f"{text} It is {listing(parts)}.", verdict)


def gaps(growths: Sequence[Gap]) -> ReportFinding:
    """Whether the error depends on the actions; graded by the smaller growth of both changes, over all signals."""
    overall = [gap for gap in growths if gap.signal is None] or list(growths)
    weakest = min(overall, key=lambda gap: gap.increase.low)
    low, high = weakest.increase.low, weakest.increase.high
    done = f"with actions {changed(weakest)} its error"
    change = f"{percent(weakest.increase.value, signed=True)}, {between(weakest.increase)}"
    if high < 0:
        return ReportFinding(f"The world uses its actions wrongly: {done} falls ({change}).", "bad")
    if high < NEGLIGIBLE:
        how = "does not use" if low <= 0 else "hardly uses"
        return ReportFinding(f"The world {how} its actions: {done} changes by {change}.", "bad")
    if low <= 0:
        text = f"It is unclear whether the world uses its actions: {done} changes by {change}."
        return ReportFinding(text, "unclear")
    parts = [f"{grown(gap.increase.value)} when they are {changed(gap)}" for gap in overall]
    return ReportFinding(f"The world uses its actions: its error grows {listing(parts)}.", "good")


def grown(share: float) -> str:
    """How much an error grows: "by 45 %" or "to 12 times its value"."""
    return f"by {percent(share)}" if share < MAX_GROWTH else f"to {number(1 + share, 2)} times its value"


def changed(gap: Gap) -> str:
    """The change of the actions, in words."""
    return "zeroed" if gap.change == "zeroed" else "shuffled across episodes"


def coverage(graded: Sequence[Band]) -> ReportFinding:
    """Measured coverage of the bands at the level nearest to 0.9."""
    bands = headline_bands(graded)
    level = bands[0].level
    narrow = [band for band in bands if band.coverage.high < level]
    wide = [band for band in bands if band.coverage.low > level]
    worst = max(narrow or wide or bands, key=lambda band: abs(band.coverage.value - level))
    rate = worst.coverage
    count = f"{number(rate.successes)} of {plural(rate.trials, 'true trajectory')} of {worst.signal}"
    measured = f"the {round_percent(level)} band contains {count}, {_share(rate)}"
    verdict: Tone = "bad" if narrow else "unclear" if wide else "good"
    how = {"bad": "too narrow", "unclear": "too wide", "good": "calibrated"}[verdict]
    return ReportFinding(f"The bands are {how}: {measured}.", verdict)


def headline_bands(bands: Sequence[Band]) -> list[Band]:
    """The bands of all signals at the level nearest to 0.9."""
    level = min({band.level for band in bands}, key=lambda nominal: abs(nominal - HEADLINE_LEVEL))
    return [band for band in bands if band.level == level]


def decoded(frames: evidence.Decoded) -> ReportFinding:
    """Error of the decoded predictions at the last step, compared with persistence and the decoder alone."""
    own, stays, alone = (errors.value[-1] for errors in (frames.imagined, frames.persistence, frames.decoder))
    text = (
        f"Decoded predictions {span(frames.steps[-1], frames.step_s)} ahead have an error of {number(own)} grey "
        f"levels. Persistence has an error of {number(stays)}, and the decoder alone of {number(alone)}."
    )
    if frames.saved is None or frames.saved.low[-1] > 0:
        return ReportFinding(text, "plain")
    if alone >= stays:
        return ReportFinding(f"{text} The decoder error is too large to grade the predictions.", "plain")
    if frames.saved.high[-1] < 0:
        return ReportFinding(f"{text} The predictions are worse than persistence.", "bad")
    return ReportFinding(f"{text} The difference from persistence is not significant.", "unclear")


def films(plans: evidence.Films) -> ReportFinding:
    """Number of the plans shown that reached their goal."""
    reached = sum(film.reached for film in plans.films)
    text = f"{number(reached)} of the {plural(len(plans.films), 'plan')} shown reached the goal."
    return ReportFinding(text, "plain" if reached else "bad")


def _best(outcomes: Sequence[evidence.GoalOutcome], role: str) -> evidence.GoalOutcome | None:
    """The outcome of this role with the highest success rate."""
    return max((one for one in outcomes if one.role == role), key=lambda one: one.all.value, default=None)


def _order(ours: Rate, theirs: Rate) -> Literal["good", "bad", "unclear"]:
    """Compares two rates by non-overlapping intervals."""
    return "good" if ours.low > theirs.high else "bad" if ours.high < theirs.low else "unclear"


def _share(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{percent(rate.value)} ({between(rate)})"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
