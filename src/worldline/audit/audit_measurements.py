"""Measurements of an audit that need several of its numbers, such as the effects of actions and the trusted horizon."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from worldline.audit import advice
from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.errors import error_measurements
from worldline.audit.excitation import MIN_CORRELATION, MIN_EPISODES, MIN_EXCITATION
from worldline.audit.forecast_measurements import TrustedHorizons
from worldline.audit.grades import Verdict
from worldline.audit.measured import Agreement, Effect, Measured
from worldline.audit.measurement import Measurement, ReportFinding, Tone, verdict
from worldline.audit.signal_table import signal_table
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
)
from worldline.plots.charts import Dot, IntervalChart, Plane, Sketch, share_chart
from worldline.plots.parts import Group, Note, PagePart, Phrase, Table
from worldline.plots.ticks import nice_ticks, zero_ticks
from worldline.stats import Estimate, Rate

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


def audit_measurements(measured: Measured) -> list[Measurement]:
    """All measurements of an audit in the order of its page, without those that have no numbers."""
    views: list[Measurement] = [
        *([measured.goals] if measured.goals else []),
        *([ActionEffects(measured)] if measured.effects else []),
        *([TwinScores(measured)] if measured.twins else []),
        TrustedHorizon(measured),
        *error_measurements(measured.diagnostics),
        measured.rank,
        measured.leak,
        *([JointBands(measured)] if measured.coverage else []),
        ActionExcitation(measured),
        *([ErrorPlacebo(measured)] if measured.placebo else []),
    ]
    return views


@dataclass(frozen=True)
class _OfAudit(Measurement, ABC):
    """A part of the measurements of an audit.

    Args:
        measured: all of them.
    """

    measured: Measured


class ActionEffects(_OfAudit):
    """Effects by action and signal, compared with the logs."""

    chapter = "Effects of actions"

    @property
    def value(self) -> float | None:
        """Share of the effects in the logs that agree; None without one."""
        effects = advice.identified_rows(self.measured)
        return sum(effect.agreement == "agrees" for effect in effects) / len(effects) if effects else None

    def sentence(self) -> ReportFinding:
        """How many effects agree with the logs, and which could not be compared."""
        effects = advice.identified_rows(self.measured)
        words = [effect.agreement for effect in advice.effect_rows(self.measured)]
        dull = [row.action for row in self.measured.excitation if not row.enough]
        unknown = f" In these logs, effects of {listing(dull)} are NOT IDENTIFIABLE." if dull else ""
        if num_open := words.count("not resolved"):
            unknown = f" {plural(num_open, 'effect')} {'is' if num_open == 1 else 'are'} not resolved.{unknown}"
        if not effects:
            none = set(words) == {"none"}
            text = (
                "The logs show no effect that matters."
                if none
                else "No effect in the logs can be compared with the world."
            )
            return ReportFinding(text + unknown, "unclear")
        wrong = sum(effect.agreement == "opposite" for effect in effects)
        sign = f"; {wrong} {'has' if wrong == 1 else 'have'} the opposite sign" if wrong else ""
        tone: Tone = "bad" if wrong else "good" if self.value == 1 and not dull else "unclear"
        return ReportFinding(f"{advice.share_that_agrees(effects)}{sign}.{unknown}", tone)

    def figure(self) -> Sequence[PagePart]:
        """A chart over the lags, the largest effect, and the agreement with the logs."""
        groups = sorted(advice.effect_pairs(self.measured), key=_relative_size, reverse=True)
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


def _relative_size(group: Sequence[Effect]) -> float:
    """The largest effect divided by the standard deviation of the signal."""
    return max(advice.effect_size(effect) / (effect.spread or 1.0) for effect in group)


def _effect_row(group: Sequence[Effect], measured: Measured) -> list[str | PagePart]:
    """The lag that the pair counts by, and the steps at which the effect is not identifiable."""
    worst = advice.worst_effect(group)
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


class TwinScores(_OfAudit):
    """Scores of the tests against twins."""

    chapter = "Tests against twins"

    @property
    def value(self) -> Estimate | None:
        """The score with the smallest lower end; None without scores."""
        scores = [cell.score for test in self.measured.twins for cell in test.grade.cells if cell.score is not None]
        return min(scores, key=lambda score: score.low, default=None)

    def sentence(self) -> ReportFinding:
        """The verdict of each test."""
        verdicts = [f"{test.name} ({test.title}): {test.verdict.value}" for test in self.measured.twins]
        kinds = {test.verdict for test in self.measured.twins}
        tone: Tone = "bad" if Verdict.FAIL in kinds else "good" if kinds == {Verdict.PASS} else "unclear"
        return ReportFinding(f"{'; '.join(verdicts)}.", tone)

    def figure(self) -> Sequence[PagePart]:
        """The score of each signal, with notes on cells without a score and on unmet conditions."""
        rows, notes = [], []
        for test in self.measured.twins:
            for cell in test.grade.cells:
                name, score = f"{test.name} {label(cell.name)}", cell.score
                if score is None:
                    notes.append(f"{name}: {cell.note}.")
                    continue
                style = "world" if score.low > 0.5 else "floor" if score.high > 0 else "missed"
                rows.append(Dot.of(name, score, number(score.value, 2), style))
            unmet = [condition for condition in test.grade.conditions if not condition.met]
            notes += [f"{test.name}: {condition.name}: {condition.found}." for condition in unmet]
        low = min([0.0, *(max(-1.0, row.low) for row in rows)])
        title = "Score: 0 is the best trivial baseline, 1 the ground truth"
        chart = IntervalChart(title=title, rows=rows, ticks=nice_ticks(low, 1.0, 5), zero=True)
        return [*([chart] if rows else []), *map(Note, notes)]


class TrustedHorizon(_OfAudit):
    """How far each signal can be trusted."""

    chapter = "Errors and baselines"

    @property
    def value(self) -> float:
        """The longest trusted horizon of a signal, steps."""
        return max((row.steps for row in self.measured.trusted), default=0)

    def sentence(self) -> ReportFinding:
        """Which signals can be trusted, how far, and compared with what."""
        good = advice.trusted_signals(self.measured)
        if not good:
            return ReportFinding("No signal can be trusted.", "bad")
        bad = [row.signal for row in self.measured.trusted if not row.steps]
        shortest, names = min(row.steps for row in good), [row.signal for row in good]
        ahead = span(shortest, self.measured.diagnostics.step_s)
        text = f"Predictions of {listing(names)} can be trusted for at least {ahead}."
        ways = list(dict.fromkeys(advice.baselines_beaten(self.measured, row).rstrip(",") for row in good))
        if bad or len(ways) == 1:
            text += f" Predictions of {listing(bad)} cannot." if bad else f" They are {ways[0]}."
        return ReportFinding(text, "unclear" if bad or shortest < self.measured.diagnostics.horizon else "good")

    def figure(self) -> Sequence[PagePart | None]:
        """The table of the signals."""
        trust = TrustedHorizons(trusted=self.measured.trusted, deviation={})
        return [signal_table(self.measured.diagnostics, trust), Note(_TRUSTED)]


class JointBands(_OfAudit):
    """Coverage of whole trajectories on one window per episode, with exact probabilities."""

    chapter = "Prediction bands"

    @property
    def value(self) -> Rate:
        """The lowest coverage of a signal."""
        return min((band.inside for band in self.measured.coverage), key=lambda inside: inside.value)

    def sentence(self) -> ReportFinding:
        """Which bands are significantly too narrow."""
        narrow = [band.signal for band in self.measured.coverage if band.verdict == "narrow"]
        if narrow:
            return ReportFinding(f"The bands of {listing(narrow)} are too narrow.", "bad")
        return ReportFinding("No band is significantly too narrow with this number of episodes.", "good")

    def figure(self) -> Sequence[PagePart]:
        """The counts and their probabilities."""
        rows: list[list[str | PagePart]] = []
        for band in self.measured.coverage:
            count = f"{band.inside.successes} of {band.inside.trials}"
            chances = number(band.too_few, 2), number(band.too_many, 2)
            rows.append([band.signal, round_percent(band.level), count, *chances, verdict(*_COVERAGE[band.verdict])])
        head = ["signal", "nominal", "inside", "P(this or fewer)", "P(this or more)", "result"]
        caption = (
            "Trajectories inside the band, one per episode, and the probability of this count under nominal coverage"
        )
        return [Table(caption, head, rows)]


class ActionExcitation(_OfAudit):
    """Excitation of each action."""

    chapter = "Evidence in the logs"

    @property
    def value(self) -> Estimate | None:
        """The lowest excitation of an action."""
        return min((row.left for row in self.measured.excitation), key=lambda left: left.value, default=None)

    def sentence(self) -> ReportFinding:
        """Which actions vary too little."""
        dull = [row.action for row in self.measured.excitation if not row.enough]
        excited = "Every action has enough excitation to identify its effects."
        text = f"Excitation of {listing(dull)} is too low to identify effects." if dull else excited
        if self.measured.randomised is not None:
            text += f" {percent(self.measured.randomised)} of the steps are flagged as randomised."
        return ReportFinding(text, "bad" if dull else "good")

    def figure(self) -> Sequence[PagePart]:
        """The excitation of each action."""
        rows = [
            Dot.of(
                row.action,
                row.left,
                percent(row.left.value),
                "world" if row.enough else "missed",
                target=MIN_EXCITATION,
            )
            for row in self.measured.excitation
        ]
        details = (
            f"Vertical tick: {round_percent(MIN_EXCITATION)}; below it, effects are not identifiable. They also need "
            f"{plural(MIN_CHANGES, 'change')} of the action. An action that is held is measured where it changes."
        )
        return [
            share_chart("Share of each action, or of its changes, that the history does not predict", rows),
            Note(details),
        ]


class ErrorPlacebo(_OfAudit):
    """Correlation of errors with the next actions."""

    chapter = "Evidence in the logs"

    @property
    def value(self) -> Estimate:
        """The largest correlation."""
        return max((row.value for row in self.measured.placebo), key=lambda value: abs(value.value))

    def sentence(self) -> ReportFinding:
        """Whether errors predict actions."""
        if (count := self.measured.placebo[0].num_episodes) < MIN_EPISODES:
            return ReportFinding(f"The placebo test needs {MIN_EPISODES} episodes; there are {count}.", "unclear")
        if actions := listing(advice.confounded_actions(self.measured)):
            text = f"Errors predict {actions}: a controller with a memory or an unlogged cause affects both."
            return ReportFinding(text, "bad")
        return ReportFinding("Errors do not predict the next action.", "good")

    def figure(self) -> Sequence[PagePart]:
        """The largest correlations."""
        rows = []
        for row in sorted(self.measured.placebo, key=lambda row: -abs(row.value.value))[:MAX_PLACEBOS]:
            name, style = f"{row.signal}, {row.action}", "missed" if row.found else "world"
            rows.append(Dot.of(name, row.value, number(row.value.value, 2), style, target=0.0))
        ends = max(0.2, *(max(abs(row.low), abs(row.high)) for row in rows))
        title = "Correlation of the last error with the next action, given the last observation and action"
        chart = IntervalChart(title=title, rows=rows, ticks=zero_ticks([-ends], [ends]), zero=True)
        largest = max(abs(row.raw.value) for row in self.measured.placebo)
        details = (
            "Placebo test: an action cannot cause an earlier error. The part of the action that the last observation "
            f"and action explain is removed first; without this, correlations reach {number(largest, 2)}. A "
            f"correlation counts if it is at least {MIN_CORRELATION} and significant after correction for all pairs. "
            "The test does not detect a hidden cause that is independent at every step."
        )
        return [chart, Note(details)]
