"""Effects of actions: which agree with the logs, and what that means for the deployment of a world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.errors import CHANGED, NEGLIGIBLE
from worldline.audit.measured import AGREEMENTS, Agreement, Effect, Measured
from worldline.audit.measurement import AuditMeasurement, ReportFinding, verdict
from worldline.formatting import MINUTE_S, listing, number, percent, plural, pretty_unit, quantity, span
from worldline.plots.charts import Plane, Sketch
from worldline.plots.parts import Group, Note, PagePart, Phrase, Table
from worldline.stats import Estimate

MIN_OPPOSITE_SHARE: Final = 0.25
"""Share of identified effects with the opposite sign from which a world is not deployed."""
MAX_ROWS: Final = 24
_IDENTIFIED: Final = ("agrees", "apart", "opposite")
_AGREEMENT: Final[dict[Agreement, tuple[str, str]]] = {
    "opposite": ("bad", "✗ opposite sign"),
    "apart": ("unclear", "≈ different size"),
    "agrees": ("good", "✓ agrees"),
    "not identifiable": ("unclear", "NOT IDENTIFIABLE"),
    "not resolved": ("soft", "not resolved"),
    "none": ("soft", "too small to matter"),
}
"""Style and text of each agreement."""


def effect_pairs(measured: Measured) -> list[list[Effect]]:
    """The effects of each pair of action and signal, at every lag."""
    pairs: dict[tuple[str, str], list[Effect]] = {}
    for effect in measured.effects:
        pairs.setdefault((effect.action, effect.signal), []).append(effect)
    return list(pairs.values())


def effect_rows(measured: Measured) -> list[Effect]:
    """One effect for each pair of action and signal, see `worst_effect`; texts count these, as tables show them."""
    return [worst_effect(group) for group in effect_pairs(measured)]


def worst_effect(group: Sequence[Effect]) -> Effect:
    """The effect that a pair of action and signal counts by: the largest of those with the worst agreement."""
    worst = min((effect.agreement for effect in group), key=AGREEMENTS.index)
    return max((effect for effect in group if effect.agreement == worst), key=_size)


def _size(effect: Effect) -> float:
    """The size of an effect in the logs, else in the world."""
    return abs((effect.logs or effect.world).value)


def _identified(effects: Sequence[Effect]) -> list[Effect]:
    """The effects that the logs show, and those that only the world has."""
    return [effect for effect in effects if effect.agreement in _IDENTIFIED]


def ignored_actions(measured: Measured) -> str:
    """What shows that the error does not depend on the actions; empty if it does, or if most effects agree.

    It is only a limit of a world that plans to logged goals, which needs effects of actions.
    """
    gaps, effects = measured.diagnostics.gaps, _identified(measured.effects)
    overall = [gap for gap in gaps if gap.signal is None and isfinite(gap.increase.high)]
    weakest = min(overall, key=lambda gap: gap.increase.high, default=None)
    if weakest is None or not (effects or any(row.enough for row in measured.excitation)):
        return ""
    if any(gap.increase.high >= NEGLIGIBLE for gap in gaps if gap.change == weakest.change):
        return ""  # actions matter overall, or for one signal among many that they do not move
    if sum(effect.agreement == "agrees" for effect in effects) > len(effects) / 2:
        return ""
    how, change = CHANGED[weakest.change], percent(weakest.increase.value, signed=True)
    moved = any(abs(effect.world.value) >= MIN_EFFECT_SHARE * effect.spread for effect in measured.effects)
    if moved or weakest.increase.high < -NEGLIGIBLE or measured.reaches_goals:
        return f"Its error does not grow with wrong actions: with actions {how} it changes by {change}."
    return f"It ignores its actions: with actions {how} its error changes by {change}."


@dataclass(frozen=True)
class ActionEffects(AuditMeasurement):
    """Effects by action and signal, compared with the logs.

    Args:
        measured: all measurements of the audit.
    """

    chapter = "Effects of actions"

    measured: Measured

    def findings(self) -> Sequence[ReportFinding]:
        """The effects with another size or sign than in the logs, those that were not compared, and how many agree."""
        effects, rows = _identified(self.measured.effects), _identified(effect_rows(self.measured))
        wrong = [row for row in rows if row.agreement == "opposite"]
        if sum(effect.agreement == "opposite" for effect in effects) >= max(2, MIN_OPPOSITE_SHARE * len(effects)):
            text = (
                f"It predicts the wrong direction for {len(wrong)} of {plural(len(rows), 'effect')} in the logs, "
                f"such as {wrong[0].action} on {wrong[0].signal}."
            )
            return [ReportFinding(text, "bad", _CLOCKS)]
        # A world that ignores its actions has no effect, so a list of the differences adds nothing.
        ignores = ignored_actions(self.measured) and not self.measured.reaches_goals
        differences = [] if ignores else self._differences()
        right = sum(row.agreement == "agrees" for row in rows)
        verb = "agrees" if right == 1 else "agree"
        summary = f"{right} of {plural(len(rows), 'effect')} in the logs {verb} with the world."
        if rows:
            return [*differences, ReportFinding(summary, "good" if right else "plain")]
        return [self._unchecked()]

    def _differences(self) -> list[ReportFinding]:
        """Effects that differ from the logs, by action and signal."""
        findings = []
        for pair in effect_pairs(self.measured):
            rows = [(row, row.logs) for row in pair if row.agreement in ("apart", "opposite") and row.logs is not None]
            if not rows:
                continue
            worst, logs = max(rows, key=lambda row: abs(row[0].world.value - row[1].value) / row[0].spread)
            how = f"{number(worst.world.value / logs.value, 2)} times the effect in the logs"
            if logs.low * logs.high <= 0:
                how = f"{quantity(worst.world.value, worst.unit)}, and the logs show no effect"
            when = span(worst.lag, self.measured.diagnostics.step_s)
            text = (
                f"Check the effect of {worst.action} on {worst.signal}: after {when} the world predicts {how}. The "
                "logs are fitted by a linear model; if the effect depends on the state, both may be right."
            )
            findings.append(ReportFinding(text, "unclear", _CLOCKS if worst.agreement == "opposite" else ""))
        return findings

    def _unchecked(self) -> ReportFinding:
        """Why no effect was compared; a limit unless twins confirm the effects, or another finding names the action."""
        effects = self.measured.effects
        kinds = {effect.agreement for effect in effects}
        if "none" in kinds:
            return ReportFinding("The logs show no effect that matters.", "plain")
        if kinds == {"not identifiable"} or not (effects or any(row.enough for row in self.measured.excitation)):
            return ReportFinding("No effect in the logs can be compared with the world: NOT IDENTIFIABLE.", "plain")
        text = "Effects of actions were not checked: the logs have too few rows or too many signals for a regression."
        if any(effect.logs is not None for effect in effects):
            text = "Effects of actions are not resolved: these logs have too few episodes to show or to exclude them."
        return ReportFinding(text, "plain" if self.measured.causal else "unclear")

    def figure(self) -> Sequence[PagePart]:
        """A chart over the lags, the largest effect, and the agreement with the logs."""
        groups = sorted(effect_pairs(self.measured), key=_relative_size, reverse=True)
        if not groups:
            return []
        step_s, left = self.measured.diagnostics.step_s, len(groups) - MAX_ROWS
        lags = Group([Phrase(str(effect.lag)) for effect in groups[0]], "lags")
        duration = f" of {span(1, step_s)}" if step_s is not None and step_s >= MINUTE_S else ""
        caption = (
            "Effect of one standard deviation of an action, held from the first step on, after the given number of "
            f"steps{duration}. Line with intervals: world; dashed line in a band: logs. Other actions are unchanged."
        )
        head: list[str | PagePart] = ["action → signal", lags, "world", "logs", "agreement"]
        rows = [_effect_row(group, self.measured) for group in groups[:MAX_ROWS]]
        more = [Note(f"The JSON file has {plural(left, 'more pair')} with smaller effects.")] if left > 0 else []
        return [Table(caption, head, rows, style="effects"), *more]


_CLOCKS: Final = (
    "Correct signs and clocks in the training logs (`worldline check`): effects have the opposite direction."
)


def _relative_size(group: Sequence[Effect]) -> float:
    """The largest effect divided by the standard deviation of the signal."""
    return max(_size(effect) / (effect.spread or 1.0) for effect in group)


def _effect_row(group: Sequence[Effect], measured: Measured) -> list[str | PagePart]:
    """The lag that the pair counts by, and the steps at which the effect is not identifiable."""
    worst = worst_effect(group)
    hidden = [str(effect.lag) for effect in group if effect.agreement == "not identifiable" != worst.agreement]
    style, words = _AGREEMENT[worst.agreement]
    change = quantity(worst.change, measured.units.get(worst.action, "1"))
    unknown = f"; after {listing(hidden)} NOT IDENTIFIABLE" if hidden else ""
    details = f"+{change}; figures after {plural(worst.lag, 'step')}{unknown}"
    logs = None if worst.agreement == "not identifiable" else worst.logs
    return [
        Phrase(f"{worst.action} → {worst.signal}", small=details),
        _effect_sketch(group),
        _value(worst.world, worst.unit),
        "–" if logs is None else _value(logs, worst.unit),
        verdict(f"{style} agreement", words),
    ]


def _value(estimate: Estimate, unit: str) -> Phrase:
    """A figure and its interval."""
    return Phrase(quantity(estimate.value, unit), small=f"{number(estimate.low)} to {number(estimate.high)}")


def _effect_sketch(effects: Sequence[Effect]) -> Sketch:
    """An effect over its lags, equally spaced: the logs as a band, the world as a line with intervals."""
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
