"""The HTML page of an audit: advice first, then all measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worldline.audit.advice import NO_TWINS
from worldline.audit.audit_measurements import audit_measurements
from worldline.audit.effect_measurement import ActionEffects
from worldline.audit.effects import MARGIN, MIN_EFFECT_SHARE, NUM_FITS, TEST_LEVEL
from worldline.audit.grades import Verdict
from worldline.audit.measured import Advice, Audit, Decision, Measured
from worldline.formatting import plural, round_percent, span
from worldline.plots.parts import Chapter, Facts, Group, Header, Items, Note
from worldline.report.page import render_page

_COLOURS: Final[Mapping[Advice, str]] = {Advice.DEPLOY: "good", Advice.LIMITS: "unclear"}
"""Any other advice is bad."""
MAX_REASONS: Final = 3
MAX_LINES: Final = 5


def render_audit(audit: Audit) -> str:
    """A self-contained UTF-8 page; deterministic.

    Args:
        audit: the audit.
    """
    measured = audit.measured
    graded = ""
    if measured is not None:
        count = plural(measured.diagnostics.num_episodes, "episode")
        graded = f": {count} graded over {span(measured.diagnostics.horizon, measured.diagnostics.step_s)}"
    title = f"Audit of {audit.world}"
    lede = f"Logs {audit.logs}{graded}"
    methods = [] if measured is None else map(Note, _METHODS)
    return render_page(
        title,
        Header(title=title, lede=lede, parts=[_card(audit.decision)]),
        *([] if measured is None else _chapters(measured)),
        Chapter("Methods and details", [Facts(list(audit.facts.items())), *methods], folded=True),
    )


def _card(decision: Decision) -> Group:
    """Advice, reasons, limits, and data that would help."""
    limits = "Limits" if decision.advice is Advice.LIMITS else "Further findings"
    lists = (
        Items("Reasons", decision.reasons, MAX_REASONS),
        Items(limits, decision.limits, MAX_LINES),
        Items("Data that would help", decision.help, MAX_LINES),
    )
    word = decision.advice.value
    parts = [
        Note(f"{word[0].upper()}{word[1:]}", "word"),
        Note(_cause(decision), "cause"),
        Group(lists, "columns"),
    ]
    return Group(parts, f"advice {_COLOURS.get(decision.advice, 'bad')}", "Advice")


def _cause(decision: Decision) -> str:
    if decision.advice in (Advice.UNREADABLE, Advice.UNSUPPORTED):
        return "The world was not measured."
    if decision.cause is Verdict.NOT_MEASURED:
        return NO_TWINS
    return f"Causal effects, tested against twins in a replayed environment: {decision.cause.value}."


def _chapters(measured: Measured) -> list[Chapter]:
    """All measurements, folded except for the effects."""
    parts = audit_measurements(measured)
    blocks = [(part.chapter, part.block(folded=not isinstance(part, ActionEffects))) for part in parts]
    titles = dict.fromkeys([ActionEffects.chapter, *(part.chapter for part in parts)])
    return [Chapter(title, [block for chapter, block in blocks if chapter == title]) for title in titles]


_METHODS: Final = (
    "Intervals are 95\u00a0% bootstrap intervals over episodes. Those of the placebo test are jackknife intervals, and "
    "those of effects are t intervals with bootstrap standard errors. Coverage is counted on one window per episode. "
    "Its probability follows the beta-binomial distribution of split conformal bands, given the number of calibration "
    "episodes.",
    "Effects in the logs come from a linear regression of the next observation. Its inputs are the last three "
    "observations, the two actions between them, the next action and the exogenous inputs. The regression is iterated "
    f"on its own output while the action is changed, and refitted on {NUM_FITS} bootstrap samples of episodes. It "
    "adjusts for logged confounders only.",
    "An effect is shown if its interval excludes 0. It is too small to matter if two one-sided tests show that it is "
    f"below {round_percent(MIN_EFFECT_SHARE)} of the standard deviation of the signal within the horizon. If neither "
    "is shown, it is not resolved. An effect agrees if two one-sided tests reject a difference of more than "
    f"{round_percent(MARGIN)} of the effect in the logs. Each one-sided test has level {round_percent(TEST_LEVEL)}. A "
    "different size or the opposite sign needs a significant difference after the Holm correction over all effects, "
    f"also at {round_percent(TEST_LEVEL)}.",
    "Excitation is the share of an action's variance that the same history does not predict on held-out episodes. It "
    "uses the better of a linear and a nonlinear regression.",
)
