"""What an audit measured, as blocks of its page: a sentence first, then its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from worldline.audit.advice import beaten, does, judged, not_finite, usable
from worldline.audit.audit_evidence import Effect, Measured, Agreement
from worldline.audit.excitation import MIN_EXCITATION, MIN_CORRELATION, MIN_EPISODES
from worldline.audit.findings import ReportFinding
from worldline.audit.findings import Verdict as Direction
from worldline.audit.grades import Verdict
from worldline.formatting import (
    MINUTE_S,
    label,
    listing,
    number,
    percent,
    plural,
    quantity,
    round_percent,
    span,
    tick,
    with_unit,
)
from worldline.plots.ticks import nice_ticks, zero_ticks
from worldline.report.blocks import SHARES, block, note
from worldline.report.charts import Dot, IntervalChart, interval_chart
from worldline.report.effect_chart import effect_picture
from worldline.report.markup import Html, numbers, table, tag
from worldline.stats import Estimate

MAX_ROWS: Final = 24
MAX_PLACEBOS: Final = 12
_TOLD: Final[dict[Agreement, tuple[str, str]]] = {
    "agrees": ("good", "✓ as the logs say"),
    "apart": ("unclear", "≈ of another size"),
    "opposite": ("bad", "✗ the other way"),
    "none": ("soft", "next to none"),
    "unclear": ("soft", "the logs are too few"),
    "not identifiable": ("unclear", "NOT IDENTIFIABLE"),
}
_HELD: Final = {"holds": ("good", "✓ holds"), "narrow": ("bad", "✗ too narrow"), "wide": ("unclear", "≈ too wide")}
_TRUSTED: Final = (
    "Trusted: at every step up to there its error is below persistence's and, where actions help a linear model, below "
    "that of a linear model without actions, beyond chance; and a linear model with actions is not clearly better. "
    "Where a comparison errs by next to nothing, it need only not be worse."
)
_WORST: Final[tuple[Agreement, ...]] = ("opposite", "apart", "agrees", "not identifiable", "unclear", "none")


def effects_block(found: Measured) -> Html:
    """Action by signal: a small picture over the lags, the largest effect, and how both compare."""
    pairs = list(dict.fromkeys((one.action, one.signal) for one in found.effects))
    groups = [[one for one in found.effects if (one.action, one.signal) == pair] for pair in pairs]
    groups.sort(key=_weight, reverse=True)
    step_s = found.diagnostics.step_s
    lags = [one.lag for one in groups[0]]
    head = tag("div", {"class": "lags"}, *(tag("span", {}, str(lag)) for lag in lags))
    rows = [_effect_row(group, found) for group in groups[:MAX_ROWS]]
    titles = ["a deviation of … on …", head, "the world", "the logs", "compared"]
    each = f" of {span(1, step_s)}" if step_s is not None and step_s >= MINUTE_S else ""
    caption = (
        "One deviation of an action, for one step, and what follows after so many steps"
        f"{each}: the world as a line with intervals, the logs dashed in a band. Later actions are held."
    )
    body = tag("div", {"class": "effects"}, table(titles, rows, caption=caption))
    left = len(groups) - MAX_ROWS
    more = note(f"{plural(left, 'more pair')} with smaller effects are in the JSON.") if left > 0 else Html("")
    return block(_effects_finding(found), body, more, _effect_numbers(groups[:MAX_ROWS]))


def _weight(group: Sequence[Effect]) -> float:
    """The largest effect over the deviation of the signal."""
    return max(abs((one.logs or one.world).value) / (one.spread or 1.0) for one in group)


def _effect_row(group: Sequence[Effect], found: Measured) -> list[str]:
    """The worst of what can be told; steps of which nothing can be are named where others can."""
    told = min((one.told for one in group), key=_WORST.index)
    shown = [one for one in group if one.told != "not identifiable"] or group
    hidden = [str(one.lag) for one in group if one not in shown]
    largest = max(shown, key=lambda one: abs((one.logs or one.world).value))
    style, words = _TOLD[told]
    change = quantity(largest.change, found.units.get(largest.action, "1"))
    unknown = f"; after {listing(hidden)} NOT IDENTIFIABLE" if hidden else ""
    title = tag(
        "span",
        {},
        f"{label(largest.action)} → {label(largest.signal)}",
        tag("small", {}, f"{change} more; largest after {plural(largest.lag, 'step')}{unknown}"),
    )
    return [
        title,
        effect_picture(group),
        _with_interval(largest.world, largest.unit),
        "–" if told == "not identifiable" or largest.logs is None else _with_interval(largest.logs, largest.unit),
        tag("span", {"class": f"told verdict {style}"}, words),
    ]


def _with_interval(found: Estimate, unit: str) -> Html:
    """A figure, and its interval below it."""
    interval = f"{number(found.low)} to {number(found.high)}"
    return tag("span", {}, quantity(found.value, unit), tag("small", {}, interval))


def _effect_numbers(groups: Sequence[Sequence[Effect]]) -> Html:
    """Every figure with its interval, folded away."""
    rows = [
        [
            f"{label(one.action)} → {label(one.signal)}",
            str(one.lag),
            f"{number(one.world.value)} ({number(one.world.low)} to {number(one.world.high)})",
            "–"
            if one.logs is None
            else f"{number(one.logs.value)} ({number(one.logs.low)} to {number(one.logs.high)})",
            one.told,
        ]
        for group in groups
        for one in group
    ]
    return numbers(["effect", "steps", "the world", "the logs", ""], rows, caption="Effects with their intervals")


def _effects_finding(found: Measured) -> ReportFinding:
    seen = judged(found)
    dull = [label(one.action) for one in found.excitation if not one.enough]
    cannot = f" Of {listing(dull)} the logs cannot tell: NOT IDENTIFIABLE." if dull else ""
    if not seen:
        return ReportFinding(
            text=f"The logs show no effect that the world could be held against.{cannot}", verdict="unclear"
        )
    right = sum(one.told == "agrees" for one in seen)
    wrong = sum(one.told == "opposite" for one in seen)
    text = f"{right} of {plural(len(seen), 'effect')} that the logs show are as the world says"
    text += f"; {wrong} go the other way." if wrong else "."
    verdict: Direction = "bad" if wrong else "good" if right == len(seen) and not dull else "unclear"
    return ReportFinding(text=text + cannot, verdict=verdict)


def horizon_block(found: Measured) -> Html:
    """Per signal, up to which step it beats everything trivial."""
    step_s, end, lost = found.diagnostics.step_s, found.diagnostics.horizon, not_finite(found)
    ends = {one.signal: "it is not finite" if one.signal in lost else does(one.stops) for one in found.trusted}
    rows = [
        Dot(
            label=label(one.signal), value=one.steps, low=0, high=one.steps,
            text=span(one.steps, step_s) + (f"; then {ends[one.signal]}" if one.stops else ", to the end"),
            style="world" if one.steps == one.of else "floor" if one.steps else "missed",
        )
        for one in found.trusted
    ]  # fmt: skip
    title = "Steps up to which it is to be trusted"
    said = "; ".join(f"{row.label}: {row.text}" for row in rows)
    ticks = [mark for mark in nice_ticks(0, end, 5) if mark <= end] if end > 1 else [0, 1]
    ticks = ticks if ticks[-1] == end else [*ticks, end]
    chart = IntervalChart(
        title=title, alt=f"{title}. {said}", rows=rows, ticks=ticks, show=tick, head=("signal", "steps")
    )
    good = [label(one.signal) for one in usable(found)]
    bad = [label(one.signal) for one in found.trusted if not one.steps]
    if not good:
        return block(
            ReportFinding(text="It is to be trusted on no signal.", verdict="bad"), _chart(chart), note(_TRUSTED)
        )
    shortest = min(one.steps for one in usable(found))
    text = f"It is to be trusted on {listing(good)} for {span(shortest, step_s)} at least."
    ways = list(dict.fromkeys(beaten(found, one).rstrip(",") for one in usable(found)))
    if bad or len(ways) == 1:
        text += f" On {listing(bad)} it is not." if bad else f" There it predicts {ways[0]}."
    return block(
        ReportFinding(text=text, verdict="unclear" if bad or shortest < end else "good"), _chart(chart), note(_TRUSTED)
    )


def _chart(chart: IntervalChart) -> Html:
    return interval_chart(chart)


def leak_block(found: Measured) -> Html:
    """Whether anything predicted depends on later actions."""
    leak = found.leak
    if leak.leaks:
        text = f"It looks into the future: {label(leak.signal)} changes by {percent(leak.worst)} with later actions."
        return block(ReportFinding(text=text, verdict="bad"))
    text = (
        f"It does not look into the future: of {plural(leak.num_checked, 'predicted value')} none changes with actions "
        "that come later"
    )
    text += f", but for rounding ({number(leak.worst, 2)} of the largest)." if leak.worst else "."
    return block(ReportFinding(text=text, verdict="good"))


def rank_block(found: Measured) -> Html:
    """In how many directions predictions vary."""
    rank = found.rank
    text = (
        f"Its predictions one step ahead vary in some {number(rank.predicted, 2)} independent directions of "
        f"{rank.num_components}, what happened in {number(rank.real, 2)}, with {percent(rank.spread)} of its variance."
    )
    small = "Effective rank, as a participation ratio. Latents do not show through a world, so theirs is not told here."
    return block(ReportFinding(text=text, verdict="bad" if rank.collapsed else "good"), note(small))


def joint_block(found: Measured) -> Html:
    """Joint coverage by exact count."""
    rows = [
        [
            label(one.signal),
            round_percent(one.level),
            f"{one.inside.successes} of {one.inside.trials}",
            number(one.too_few, 2),
            number(one.too_many, 2),
            tag(
                "span",
                {"class": f"verdict {_HELD[one.verdict][0]}"},
                _HELD[one.verdict][1],
            ),
        ]
        for one in found.coverage
    ]
    narrow = [label(one.signal) for one in found.coverage if one.verdict == "narrow"]
    text = (
        f"The bands of {listing(narrow)} hold less than they promise."
        if narrow
        else "The bands hold what they promise, as far as this many episodes can tell."
    )
    head = ["signal", "promised", "inside", "chance of so few", "chance of so many", ""]
    caption = "Whole trajectories inside the joint band, one an episode, and how likely such a count is if it is honest"
    return block(ReportFinding(text=text, verdict="bad" if narrow else "good"), table(head, rows, caption=caption))


def excitation_block(found: Measured) -> Html:
    """Per action, how much the history leaves open."""
    rows = [
        Dot(
            label=label(one.action), value=one.left.value, low=one.left.low, high=one.left.high,
            text=percent(one.left.value), style="world" if one.enough else "missed", target=MIN_EXCITATION,
        )
        for one in found.excitation
    ]  # fmt: skip
    title = "Share of each action that does not follow from the history"
    said = "; ".join(f"{row.label} {row.text}" for row in rows)
    chart = IntervalChart(
        title=title, alt=f"{title}: {said}", rows=rows, ticks=SHARES, show=round_percent, head=("action", "left open")
    )
    dull = [label(one.action) for one in found.excitation if not one.enough]
    text = (
        f"The logs leave too little of {listing(dull)} to chance for its effects to be told."
        if dull
        else "Every action was varied enough for its effects to be told."
    )
    if found.randomised is not None:
        text += f" {percent(found.randomised)} of the steps are flagged as randomised."
    small = f"The upright tick is {round_percent(MIN_EXCITATION)}, below which effects are not identifiable."
    return block(ReportFinding(text=text, verdict="bad" if dull else "good"), _chart(chart), note(small))


def placebo_block(found: Measured) -> Html:
    """Whether errors foretell actions."""
    if not found.placebo:
        return note("Too few steps were complete to look for errors that foretell actions.")
    ranked = sorted(found.placebo, key=lambda one: -abs(one.value.value))[:MAX_PLACEBOS]
    rows = [
        Dot(
            label=f"{label(one.signal)}, {label(one.action)}", value=one.value.value, low=one.value.low,
            high=one.value.high, text=number(one.value.value, 2), style="missed" if one.found else "world", target=0.0,
        )
        for one in ranked
    ]  # fmt: skip
    ends = max(0.2, *(max(abs(row.low), abs(row.high)) for row in rows))
    title = "Correlation of the last error with the next action, beyond what was just seen"
    said = "; ".join(f"{row.label} {row.text}" for row in rows)
    chart = IntervalChart(
        title=title, alt=f"{title}: {said}", rows=rows, ticks=zero_ticks([-ends], [ends]), show=tick, zero=True,
        head=("error, action", "correlation"),
    )  # fmt: skip
    there = listing(sorted({label(one.action) for one in found.placebo if one.found}))
    finding = _placebo_finding(there, found.placebo[0].num_episodes)
    most = max(found.placebo, key=lambda one: abs(one.raw.value))
    small = (
        "A placebo: an action cannot cause an error that came before it. What the last observation and action explain "
        f"of it is taken out first (with that, correlations reach {number(abs(most.raw.value), 2)}). Counted if sure "
        f"among all pairs and at least {MIN_CORRELATION}. A cause that is drawn anew at every step does not show here."
    )
    return block(finding, _chart(chart), note(small))


def _placebo_finding(there: str, num_episodes: int) -> ReportFinding:
    """What the placebo found, in a sentence."""
    if num_episodes < MIN_EPISODES:
        return ReportFinding(
            text=f"Whether its errors foretell actions cannot be told from {plural(num_episodes, 'episode')}: "
            f"{MIN_EPISODES} are needed.",
            verdict="unclear",
        )
    if there:
        return ReportFinding(
            text=f"Its errors foretell {there}: a controller with a memory acts on both, or something that is not "
            "logged.",
            verdict="bad",
        )
    return ReportFinding(
        text="Its errors say nothing of the actions that come after them, as it should be.", verdict="good"
    )


def cover_block(found: Measured) -> Html:
    """What part of the actions and states was logged."""
    data = found.data
    rows = [
        [
            with_unit(label(one.name), found.units.get(one.name, "1")),
            f"{number(one.least)} to {number(one.greatest)}",
            "not known" if one.low is None or one.high is None else f"{number(one.low)} to {number(one.high)}",
            percent(one.used),
        ]
        for one in data.actions
    ]
    text = (
        f"Observations vary in some {number(data.effective_dimension, 2)} independent directions of "
        f"{data.num_components}"
    )
    text += "." if data.spread is None else f"; {percent(data.spread)} of the combinations of two numbers were seen."
    pairs = [
        f"{label(pair.one)} and {label(pair.other)} ({percent(pair.share)})" for pair in data.narrow if pair.share < 0.5
    ]
    small = f"Seldom seen together: {listing(pairs)}." if pairs else ""
    caption = "How the actions were used: outside of what was logged nothing is known"
    used = table(["action", "logged", "possible", "of it used"], rows, caption=caption)
    return block(ReportFinding(text=text, verdict="plain"), used, note(small))


def twins_block(found: Measured) -> Html:
    """The exam's tests in the owner's environment."""
    rows, small = [], []
    for test in found.twins:
        for cell in test.grade.cells:
            if cell.score is None:
                small.append(f"{test.name} {label(cell.name)}: {cell.note}.")
                continue
            one = cell.score
            style = "world" if one.low > 0.5 else "floor" if one.high > 0 else "missed"
            name = f"{test.name} {label(cell.name)}"
            rows.append(
                Dot(label=name, value=one.value, low=one.low, high=one.high, text=number(one.value, 2), style=style)
            )
        small += [f"{test.name}: {one.name}: {one.found}." for one in test.grade.conditions if not one.met]
    verdicts = [f"{test.name} ({test.title}): {test.verdict.value}" for test in found.twins]
    worst = {test.verdict for test in found.twins}
    verdict: Direction = "bad" if Verdict.FAIL in worst else "good" if worst == {Verdict.PASS} else "unclear"
    parts = [*map(note, small)]
    if rows:
        low = min(0.0, max(-1.0, min(row.low for row in rows)))
        title = "0 is the best trivial answer, 1 the truth"
        said = "; ".join(f"{row.label} {row.text}" for row in rows)
        chart = IntervalChart(
            title=title, alt=f"{title}: {said}", rows=rows, ticks=nice_ticks(low, 1.0, 5), show=tick, zero=True,
            head=("test and signal", "score"),
        )  # fmt: skip
        parts.insert(0, _chart(chart))
    return block(ReportFinding(text=f"{'; '.join(verdicts)}.", verdict=verdict), *parts)
