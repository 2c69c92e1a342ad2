"""The sentence that each section opens with, written from the numbers, whichever way they came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from worldline.audit.diagnostics import Band, Diagnostics, ErrorCurve, Gap, SkillCurve
from worldline.audit.report_evidence import (
    Decoded,
    Films,
    Forecasts,
    GoalOutcome,
    LatentHealth,
    Learning,
    Planning,
    PredictedPaths,
    ReadoutQuality,
)
from worldline.formatting import (
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
from worldline.stats import Rate

NEGLIGIBLE: Final = 0.05
"""A gap whose whole interval lies below this is no use of the actions worth the name."""
WELL_READ: Final = 0.9
POORLY_READ: Final = 0.5
HEADLINE_LEVEL: Final = 0.9

Verdict = Literal["good", "bad", "unclear", "plain"]


@dataclass(frozen=True, kw_only=True)
class ReportFinding:
    """A sentence, and which way it points.

    Args:
        text: the sentence or two.
        verdict: good or bad for the world, unclear where the numbers cannot tell, plain where nothing is judged.
    """

    text: str
    verdict: Verdict


def planning(found: Planning) -> ReportFinding:
    """Whether the planner reaches its goals, against the best floor and the ceiling."""
    planner = found.planner
    rate, floor, ceiling = planner.all, _best(found.outcomes, "floor"), _best(found.outcomes, "ceiling")
    text = f"Planning reaches {number(rate.successes)} of {plural(rate.trials, 'goal')}: {_share(rate)}."
    verdict: Verdict = "plain"
    if floor is not None:
        verdict = _order(rate, floor.all)
        text += {
            "good": f" The best floor, {floor.name}, reaches {percent(floor.all.value)}.",
            "bad": f" That is worse than {floor.name}, which reaches {percent(floor.all.value)}.",
            "unclear": f" That is not told apart from {floor.name}, which reaches {percent(floor.all.value)}.",
        }[verdict]
    if ceiling is not None:
        apart = _order(rate, ceiling.all)
        text += {
            "good": f" It does better than {ceiling.name} with {percent(ceiling.all.value)}.",
            "bad": f" {_capital(ceiling.name)} reaches {percent(ceiling.all.value)}: the "
            f"{number(100 * (ceiling.all.value - rate.value))} points between lie in the model and its planner.",
            "unclear": f" {_capital(ceiling.name)} reaches {percent(ceiling.all.value)}, and on this many pairs "
            "the two are not told apart.",
        }[apart]
    return ReportFinding(text=text, verdict=verdict)


def splits(found: Planning) -> ReportFinding:
    """How success differs by kind of pair, and against the best peer; then how long a plan takes."""
    peer, rate = _best(found.outcomes, "peer"), found.planner.all
    shares = [f"{_share(one)} {kind}" for kind, one in (found.planner.split or {"over all pairs": rate}).items()]
    text, verdict = f"Goals reached: {listing(shares)}.", "plain"
    if peer is not None:
        verdict = _order(rate, peer.all)
        text += {
            "good": f" Searching pays: {peer.name} reaches {percent(peer.all.value)} of all.",
            "bad": f" Searching hurts: {peer.name} reaches {percent(peer.all.value)} of all.",
            "unclear": f" Whether searching pays is not shown: {peer.name} reaches {percent(peer.all.value)} of all.",
        }[verdict]
    return ReportFinding(text=f"{text} {speed(found)}".strip(), verdict="bad" if verdict == "bad" else "plain")


def speed(found: Planning) -> str:
    """How long a plan takes; empty where it was not measured."""
    parts = []
    if found.plan_ms is not None:
        parts.append(f"{quantity(found.plan_ms, 'ms')} alone")
    if found.plan_batched_ms is not None:
        parts.append(f"{quantity(found.plan_batched_ms, 'ms')} in a batch of {found.planner.all.trials}")
    return f"One plan takes {listing(parts)}." if parts else ""


def learning(found: Learning) -> ReportFinding:
    """Whether the validation loss fell, and stayed down."""
    time = "" if found.learn_s is None else f" Learning took {duration(found.learn_s)}."
    series = found.validation or found.terms[0]
    name = "validation loss" if found.validation is not None else f"{label(series.name)} loss"
    start, end, steps = series.values[0], series.values[-1], plural(series.steps[-1], "step")
    best = int(np.nanargmin(series.values)) if not np.isnan(series.values).all() else 0
    if not np.isfinite(end):
        return ReportFinding(text=f"The {name} is no longer a number after {steps}: training diverged.", verdict="bad")
    if not end < start:
        return ReportFinding(
            text=f"The {name} did not fall: it went from {number(start)} to {number(end)} over {steps}.{time}",
            verdict="bad",
        )
    if end > 1.2 * series.values[best]:
        text = (
            f"The {name} fell from {number(start)} to {number(series.values[best])} by step "
            f"{number(series.steps[best])}, then rose again to {number(end)}."
        )
        return ReportFinding(text=text, verdict="unclear")
    times = f", {number(start / end, 2)} times lower" if end > 0 and start / end >= 2 else ""
    text = f"The {name} fell from {number(start)} to {number(end)}{times}, over {steps}.{time}"
    return ReportFinding(text=text, verdict="good" if found.validation is not None else "plain")


def latent_health(found: LatentHealth) -> ReportFinding:
    """Whether every vital stayed above its threshold."""
    guarded = [(vital, vital.threshold) for vital in found.vitals if vital.threshold is not None]
    fallen = [(vital, line) for vital, line in guarded if not vital.series.values[-1] >= line]
    if fallen:
        parts = [f"{v.series.name} fell to {number(v.series.values[-1])}, below {number(line)}" for v, line in fallen]
        return ReportFinding(text=f"The latent collapsed: {listing(parts)}.", verdict="bad")
    ends = [
        f"{vital.series.name} ended at {number(vital.series.values[-1])}"
        + ("" if vital.most is None else f" of {number(vital.most)}")
        for vital in found.vitals
    ]
    if not guarded:
        return ReportFinding(text=f"{_capital(listing(ends))}.", verdict="plain")
    return ReportFinding(text=f"The latent stayed alive: {listing(ends)}.", verdict="good")


def readout(found: ReadoutQuality) -> ReportFinding:
    """What the latent knows best and worst."""
    rows = [(row, row.r2) for row in found.rows if row.r2 is not None]
    if not rows:
        return ReportFinding(
            text="No signal varies on the held-out episodes, so nothing can be read or missed.", verdict="plain"
        )
    worst, r2 = min(rows, key=lambda pair: pair[1].value)
    name, error = label(worst.signal), quantity(worst.rmse, worst.unit)
    explained = f"R² {number(r2.value, 4)}, {number(r2.low, 4)} to {number(r2.high, 4)}"
    if r2.low >= WELL_READ:
        which = f"{_capital(name)} can" if len(rows) == 1 else f"Every signal can, even {name},"
        return ReportFinding(text=f"{which} be read from the latent to within {error} ({explained}).", verdict="good")
    if r2.high < POORLY_READ:
        return ReportFinding(text=f"{_capital(name)} cannot be read from the latent ({explained}).", verdict="bad")
    return ReportFinding(
        text=f"{_capital(name)} can be read from the latent only roughly, to {error} ({explained}).", verdict="unclear"
    )


def skills(found: Diagnostics) -> ReportFinding:
    """On how many signals the world beats every comparison at every reported horizon."""
    against = list(dict.fromkeys(one.against for one in found.skills))
    signals = list(dict.fromkeys(one.signal for one in found.skills))
    won = [name for name in signals if wins(found, name)]
    lost = [name for name in signals if any(_clearly_worse(one, found) for one in found.skills if one.signal == name)]
    rivals, when = listing([label(name) for name in against]), listing([span(h, found.step_s) for h in found.horizons])
    count = f"on {len(won)} of {plural(len(signals), 'signal')}"
    text = f"It predicts better than {rivals} at {when} {count}."
    if lost:
        text += f" It is worse somewhere on {listing([label(name) for name in lost])}."
    elif len(won) < len(signals):
        rest = [label(name) for name in signals if name not in won]
        text += f" On {listing(rest)} the difference is not clear at every horizon."
    return ReportFinding(text=text, verdict="good" if len(won) == len(signals) else "bad" if not won else "unclear")


def margins(found: Diagnostics) -> ReportFinding:
    """Where the world is furthest ahead and furthest behind, at the last reported horizon."""
    if not found.skills:
        return ReportFinding(
            text="No comparison errs at every step, so no share of an error is saved.", verdict="unclear"
        )
    step = found.horizons[-1]
    ranked = sorted(found.skills, key=lambda one: one.skill.at(step).value)
    parts = []
    for one in [ranked[-1], ranked[0]] if len(ranked) > 1 else ranked:
        skill = one.skill.at(step)
        how = f"{round_percent(abs(skill.value))} {'smaller' if skill.value >= 0 else 'larger'}"
        chance = "" if skill.low > 0 or skill.high < 0 else ", so it may be chance"
        parts.append(f"{how} than {label(one.against)}'s in {label(one.signal)} (saved: {between(skill)}{chance})")
    text = f"After {span(step, found.step_s)} its error is {listing(parts)}."
    worst, best = ranked[0].skill.at(step), ranked[-1].skill.at(step)
    return ReportFinding(text=text, verdict="good" if worst.low > 0 else "unclear" if best.low > 0 else "bad")


def wins(found: Diagnostics, signal: str) -> bool:
    """Whether `signal` is predicted better than by every comparison at every reported horizon, beyond chance."""
    curves = [one.skill for one in found.skills if one.signal == signal]
    return bool(curves) and all(skill.at(step).low > 0 for skill in curves for step in found.horizons)


def open_loops(found: Diagnostics) -> ReportFinding:
    """On how many signals the world beats every comparison to the end; of one signal, its own story."""
    own = [error for error in found.errors if not error.world]
    if len(own) == 1:
        return open_loop(found, own[0])
    each = {error.signal: open_loop(found, error) for error in own}
    end = span(found.horizon, found.step_s)
    contested = [error for error in own if any(one.signal == error.signal for one in found.skills)]
    if len(contested) == 1:
        return open_loop(found, contested[0])
    if not contested:
        return ReportFinding(
            text=f"The error was followed, open loop, over {end} on {len(own)} signals.", verdict="plain"
        )
    held = [label(name) for name, finding in each.items() if finding.verdict == "good"]
    rivals = listing(list(dict.fromkeys(label(one.against) for one in found.skills)))
    which = f", {listing(held)}" if 0 < len(held) < len(contested) else ""
    count = f"{len(held)} of {len(contested)} signals{which}"
    text = f"Its error is below that of {rivals} at every step up to {end} on {count}."
    return ReportFinding(text=text, verdict="good" if len(held) == len(contested) else "bad" if not held else "unclear")


def open_loop(found: Diagnostics, error: ErrorCurve) -> ReportFinding:
    """How the error of one signal grows, and at how many steps it is smaller than each comparison's, beyond chance."""
    unit, last, rmse = found.units[error.signal], found.horizon, error.rmse
    text = (
        f"The error in {label(error.signal)} goes from {quantity(rmse.value[0], unit)} after "
        f"{span(1, found.step_s)} to {quantity(rmse.value[-1], unit)} after {span(last, found.step_s)}."
    )
    curves = [one for one in found.skills if one.signal == error.signal]
    if not curves:
        rivals = [label(one.world) for one in found.errors if one.world and one.signal == error.signal]
        text += f" {_capital(listing(rivals))} cannot be beaten there: no change, no error." if rivals else ""
        return ReportFinding(text=text, verdict="plain")
    ahead = {one.against: sum(low > 0 for low in one.skill.low) for one in curves}
    always = [label(name) for name, steps in ahead.items() if steps == last]
    never = [label(name) for name, steps in ahead.items() if steps == 0]
    text += f" It is below that of {listing(always)} at every step." if always else ""
    text += f" It is at no step below that of {listing(never)}." if never else ""
    for name, steps in ahead.items():
        if 0 < steps < last:
            text += f" It is below that of {label(name)} at {number(steps)} of {plural(last, 'step')}."
    return ReportFinding(text=text, verdict="bad" if never else "good" if len(always) == len(ahead) else "unclear")


def gaps(found: Sequence[Gap]) -> ReportFinding:
    """Whether the world's error needs its actions; judged by the weaker of the two changes, over all signals."""
    overall = [gap for gap in found if gap.signal is None] or list(found)
    weakest = min(overall, key=lambda gap: gap.increase.low)
    low, high = weakest.increase.low, weakest.increase.high
    done = f"with actions {changed(weakest)}, its error"
    grown = f"{percent(weakest.increase.value, signed=True)}, {between(weakest.increase)}"
    if high < 0:
        return ReportFinding(text=f"Its actions mislead the world: {done} shrinks ({grown}).", verdict="bad")
    if high < NEGLIGIBLE:
        how = "no" if low <= 0 else "hardly"
        return ReportFinding(
            text=f"The world does {how} worse with other actions: {done} changes by {grown}.", verdict="bad"
        )
    if low <= 0:
        text = f"Whether the world listens to its actions is not shown: {done} changes by {grown}."
        return ReportFinding(text=text, verdict="unclear")
    parts = [f"{percent(gap.increase.value)} when they are {changed(gap)}" for gap in overall]
    return ReportFinding(text=f"The world listens to its actions: its error grows by {listing(parts)}.", verdict="good")


def changed(gap: Gap) -> str:
    """What was done to the actions, in words."""
    return "zeroed" if gap.change == "zeroed" else "shuffled across episodes"


def coverage(found: Sequence[Band]) -> ReportFinding:
    """Whether the bands held what they promised, at the level nearest to 0.9."""
    level = min({band.level for band in found}, key=lambda one: abs(one - HEADLINE_LEVEL))
    bands = [band for band in found if band.level == level]
    narrow = [band for band in bands if band.coverage.high < level]
    wide = [band for band in bands if band.coverage.low > level]
    worst = max(narrow or wide or bands, key=lambda band: abs(band.coverage.value - level))
    rate, promise = worst.coverage, round_percent(level)
    held = (
        f"{number(rate.successes)} of {plural(rate.trials, 'real trajectory')} of {label(worst.signal)}: {_share(rate)}"
    )
    if narrow:
        return ReportFinding(text=f"The bands are too narrow: at {promise} they held {held}.", verdict="bad")
    if wide:
        return ReportFinding(text=f"The bands are too wide: at {promise} they held {held}.", verdict="unclear")
    return ReportFinding(text=f"The bands hold what they promise: at {promise} they held {held}.", verdict="good")


def imagined(found: PredictedPaths) -> ReportFinding:
    """How far imagination ends from reality on the paths that are shown."""
    misses = [float(np.linalg.norm(path.real[-1] - path.imagined[-1])) for path in found.paths]
    travelled = [float(np.linalg.norm(path.real[-1] - path.real[0])) for path in found.paths]
    steps = listing(list(dict.fromkeys(str(len(path.real) - 1) for path in found.paths)))
    name, miss, way = label(found.signal), float(np.median(misses)), float(np.median(travelled))
    text = f"After {steps} imagined steps, {name} is {quantity(miss, found.unit)} from where it really went"
    far = "" if miss < way else ", no nearer than had it not moved at all"
    shown = " (median of the paths shown)" if len(misses) > 1 else ""
    return ReportFinding(text=f"{text}{shown}{far}.", verdict="plain" if miss < way else "bad")


def decoded(found: Decoded) -> ReportFinding:
    """How far pictures of the imagined end are from the real ones, and whether they say more than the last seen one."""
    own, stays, alone = (one.value[-1] for one in (found.imagined, found.persistence, found.decoder))
    text = (
        f"Drawn as pictures, what it imagines {span(found.steps[-1], found.step_s)} ahead is {number(own)} grey levels "
        f"from what was seen. The last seen frame is {number(stays)} away; the decoder alone loses {number(alone)}."
    )
    if found.saved is None or found.saved.low[-1] > 0:
        return ReportFinding(text=text, verdict="plain")
    if alone >= stays:
        return ReportFinding(
            text=f"{text} More is lost in drawing than changes, so these pictures judge nothing.", verdict="plain"
        )
    if found.saved.high[-1] < 0:
        return ReportFinding(text=f"{text} Imagination ends further off than had nothing changed.", verdict="bad")
    return ReportFinding(text=f"{text} Whether imagination beats standing still is not shown.", verdict="unclear")


def films(found: Films) -> ReportFinding:
    """How many of the plans that are shown reached their goal."""
    reached = sum(film.reached for film in found.films)
    shown = plural(len(found.films), "plan")
    text = f"Of the {shown} shown, {number(reached) if reached else 'none'} reached the goal."
    if len(found.films) == 1:
        text = f"The plan shown {'reached' if reached else 'did not reach'} its goal."
    return ReportFinding(text=text, verdict="plain" if reached else "bad")


def sampled(found: Forecasts) -> ReportFinding:
    """How much of what happened lies inside the bands that are drawn."""
    inside = [
        all(low <= real <= high for low, real, high in zip(one.low, one.real, one.high, strict=True))
        for one in found.samples
        if one.low is not None and one.high is not None
    ]
    ahead = span(len(found.samples[0].real), found.step_s)
    text = f"One held-out forecast over {ahead}, beside what happened."
    if inside:
        whole = round_percent(found.level)
        text += f" {sum(inside)} of {plural(len(inside), 'trajectory')} stay "
        text += f"inside the {whole} band from start to end."
    return ReportFinding(text=text, verdict="plain")


def _best(outcomes: Sequence[GoalOutcome], role: str) -> GoalOutcome | None:
    """The outcome of this role with the highest rate."""
    return max((one for one in outcomes if one.role == role), key=lambda one: one.all.value, default=None)


def _order(ours: Rate, theirs: Rate) -> Literal["good", "bad", "unclear"]:
    """Whether ours is above or below theirs, by intervals that do not overlap."""
    return "good" if ours.low > theirs.high else "bad" if ours.high < theirs.low else "unclear"


def _clearly_worse(one: SkillCurve, found: Diagnostics) -> bool:
    """Whether the world is worse than the comparison at a reported horizon, beyond chance."""
    return any(one.skill.at(step).high < 0 for step in found.horizons)


def _share(rate: Rate) -> str:
    """A rate with its interval."""
    return f"{percent(rate.value)} ({between(rate)})"


def _capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
