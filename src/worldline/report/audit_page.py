"""An audit as one HTML page: what to do in a minute, then everything that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from worldline.audit.advice import NO_TWINS, judged, usable, weakest_gap
from worldline.audit.audit_evidence import Advice, Audit, Decision, Measured
from worldline.audit.grades import Verdict
from worldline.formatting import percent, plural, span
from worldline.report.audit_blocks import (
    cover_block,
    effects_block,
    excitation_block,
    horizon_block,
    joint_block,
    leak_block,
    placebo_block,
    rank_block,
    twins_block,
)
from worldline.report.blocks import note
from worldline.report.markup import Html, tag
from worldline.report.measured_blocks import coverage_block, gaps_block, open_loop_block, skill_block
from worldline.report.page import chapter, facts, render_page, style_sheet

_COLOURS: Final[Mapping[Advice, str]] = {
    Advice.DEPLOY: "good",
    Advice.LIMITS: "unclear",
    Advice.NO: "bad",
    Advice.UNREADABLE: "bad",
    Advice.UNSUPPORTED: "bad",
}
MAX_REASONS: Final = 3
MAX_LINES: Final = 5


def render_audit(found: Audit) -> str:
    """The page: UTF-8, self-contained, the same bytes for the same audit.

    Args:
        found: the audit.
    """
    measured = found.measured
    graded = ""
    if measured is not None:
        count = plural(measured.diagnostics.num_episodes, "episode")
        graded = f": {count} graded, up to {span(measured.diagnostics.horizon, measured.diagnostics.step_s)} ahead"
    top = tag(
        "header",
        {},
        tag("h1", {}, f"Audit of {found.world}"),
        tag("p", {"class": "subtitle"}, f"On the logs {found.logs}{graded}"),
        _card(found.decision),
        Html("") if measured is None else _glance(measured),
    )
    chapters = [] if measured is None else _chapters(measured)
    small = facts(list(found.facts.items()))
    return render_page(
        f"Audit of {found.world}",
        top,
        *chapters,
        _small_print(small, measured),
        style=style_sheet("worldline.report", "audit.css"),
    )


def _card(decision: Decision) -> Html:
    """What to do, why, within which limits, and what data would help."""
    limits = "Within these limits" if decision.advice is Advice.LIMITS else "Also"
    lists = (
        ("Why", decision.reasons, MAX_REASONS),
        (limits, decision.limits, MAX_LINES),
        ("Data that would help", decision.help, MAX_LINES),
    )
    columns = [_column(title, lines, most) for title, lines, most in lists if lines]
    word = decision.advice.value
    return tag(
        "section",
        {"class": f"advice {_COLOURS[decision.advice]}", "aria-label": "Verdict"},
        tag("p", {"class": "word"}, f"{word[0].upper()}{word[1:]}"),
        tag("p", {"class": "cause"}, _cause(decision)),
        tag("div", {"class": "columns"}, *columns),
    )


def _column(title: str, lines: Sequence[str], most: int) -> Html:
    """A list; what does not fit a minute's reading is folded away."""
    items = [tag("li", {}, line) for line in lines]
    folded = tag("details", {}, tag("summary", {}, f"and {len(lines) - most} more"), tag("ul", {}, *items[most:]))
    return tag("div", {}, tag("h3", {}, title), tag("ul", {}, *items[:most]), *([folded] if items[most:] else []))


def _cause(decision: Decision) -> str:
    if decision.advice in (Advice.UNREADABLE, Advice.UNSUPPORTED):
        return "Nothing was measured."
    if decision.cause is Verdict.NOT_MEASURED:
        return NO_TWINS
    return f"Cause and effect, against twins in a replayed environment: {decision.cause.value}."


def _glance(found: Measured) -> Html:
    """A row of figures."""
    step_s = found.diagnostics.step_s
    best = max((one.steps for one in usable(found)), default=0)
    tiles = [("the furthest that a signal is to be trusted", span(best, step_s))]
    gap = weakest_gap(found.diagnostics.gaps)
    if gap is not None:
        tiles.append((f"error with actions {gap.change}", percent(gap.increase.value, signed=True)))
    seen = judged(found)
    if seen:
        tiles.append(("effects as the logs have them", f"{sum(one.told == 'agrees' for one in seen)} of {len(seen)}"))
    if found.coverage:
        worst = min(found.coverage, key=lambda one: one.inside.value)
        tiles.append((f"inside the {percent(worst.level)} band, at worst", percent(worst.inside.value)))
    dull = min((one.left.value for one in found.excitation), default=0.0)
    tiles.append(("of the least varied action left to chance", percent(dull)))
    items = [tag("div", {}, tag("dt", {}, text), tag("dd", {}, value)) for text, value in tiles]
    return tag("dl", {"class": "glance"}, *items)


def _chapters(found: Measured) -> list[Html]:
    """In the order in which a reader asks."""
    told = found.diagnostics
    gaps = [gaps_block(told.gaps)] if told.gaps else []
    bands = [joint_block(found), coverage_block(told)] if told.bands else []
    return [
        chapter("What its actions do", effects_block(found)) if found.effects else Html(""),
        chapter("Against twins", twins_block(found)) if found.twins else Html(""),
        chapter("How far to trust it", horizon_block(found), skill_block(told), open_loop_block(told)),
        chapter("Whether it listens, and to what", *gaps, leak_block(found), rank_block(found)),
        chapter("How sure it is", *bands),
        chapter("What the logs can tell", excitation_block(found), placebo_block(found), cover_block(found)),
    ]


def _small_print(small: Html, found: Measured | None) -> Html:
    notes = [] if found is None else [note(text) for text in _METHODS]
    return chapter("The small print", small, *notes)


_METHODS: Final = (
    "Intervals are 95\u00a0% bootstrap intervals over whole episodes; the placebo's "
    "leave out one episode at a time. Coverage is counted on one window an episode; "
    "its chance follows the beta-binomial law of split conformal bands, given how many episodes set their widths.",
    "Effects in the logs: a linear regression of the next observation on three observations, the two actions between "
    "them, the action and the exogenous inputs, applied to its own output with later actions held; 300 regressions on "
    "resampled episodes. It adjusts for what was logged, and for nothing else.",
    "Excitation: the share of an action's variance that neither a linear regression nor one that can bend predicts "
    "from the same history, on episodes that were held out of it.",
)
