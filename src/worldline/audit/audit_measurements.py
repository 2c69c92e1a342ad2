"""Measurements of an audit that need several of its numbers, such as the trusted horizon and the prediction bands."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Final

from worldline.audit.diagnostics import LEVELS
from worldline.audit.effect_measurement import ActionEffects, ignored_actions
from worldline.audit.errors import ActionUse, Skill
from worldline.audit.excitation import MIN_CORRELATION, MIN_EPISODES, MIN_EXCITATION
from worldline.audit.forecast_measurements import TrustedHorizons
from worldline.audit.grades import Verdict
from worldline.audit.measured import Excitation, JointCoverage, Measured, Trusted, TwinTest
from worldline.audit.measurement import AuditMeasurement, ReportFinding, compare_errors, verdict
from worldline.audit.measures import GATE
from worldline.audit.signal_table import signal_table
from worldline.audit.verdicts import weakest
from worldline.data.quality.regressions import MIN_CHANGES
from worldline.formatting import label, listing, number, percent, plural, round_percent, span
from worldline.plots.charts import Dot, IntervalChart, share_chart
from worldline.plots.parts import Note, PagePart, Table
from worldline.plots.ticks import nice_ticks, zero_ticks

MAX_COVERAGE_GAP: Final = 0.2
"""Largest shortfall of the measured coverage from the nominal one; below it a world is not deployed."""
MAX_PLACEBOS: Final = 12
LINEAR: Final = "linear"
_BASELINE_NAMES: Final = {"action_blind": "an action-blind model", LINEAR: "a linear model"}
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


def audit_measurements(measured: Measured) -> list[AuditMeasurement]:
    """All measurements of an audit, the most important first, without those that have no numbers."""
    return [
        *([measured.goals] if measured.goals else []),
        TrustedHorizon(measured),
        *([UseOfActions(measured)] if measured.diagnostics.gaps else []),
        *([ActionEffects(measured)] if measured.excitation else []),
        *([TwinScores(measured)] if measured.twins else []),
        JointBands(measured),
        *([ActionExcitation(measured)] if measured.excitation else []),
        *([ErrorPlacebo(measured)] if measured.placebo else []),
        measured.rank,
        measured.leak,
    ]


@dataclass(frozen=True)
class _OfAudit(AuditMeasurement, ABC):
    """A part of the measurements of an audit.

    Args:
        measured: all of them.
    """

    measured: Measured


class TrustedHorizon(_OfAudit):
    """How far each signal can be trusted."""

    chapter = "Errors and baselines"

    def findings(self) -> Sequence[ReportFinding]:
        """Signals that are not finite, that must not be used, the horizons of the others, and what these beat."""
        lost, step_s = self._not_finite(), self.measured.diagnostics.step_s
        trusted = [row for row in self.measured.trusted if row.signal not in lost]
        good, useless = [row for row in trusted if row.steps], [row for row in trusted if not row.steps]
        findings = [ReportFinding(f"Predictions of {listing(lost)} are not finite.", "bad", _RETRAIN)] if lost else []
        if not (good or lost):
            text = f"No signal can be trusted: {_end_reasons(useless)} from the first step."
            if not useless:
                text = "No predicted signal varies in these logs, so nothing could be graded."
            # Plans to logged goals are useful although a baseline predicts better.
            findings.append(ReportFinding(text, "unclear" if self.measured.reaches_goals else "bad"))
        for steps in sorted({row.steps for row in good if row.steps < row.of}):
            group = [row for row in good if row.steps == steps]
            names = listing([row.signal for row in group])
            text = f"Predict {names} for at most {span(steps, step_s)}: after that, {_end_reasons(group)}."
            findings.append(ReportFinding(text, "unclear"))
        if useless and good:
            names = listing([row.signal for row in useless])
            text = f"Do not use predictions of {names}: {_end_reasons(useless)} from the first step."
            findings.append(ReportFinding(text, "unclear"))
        return [*findings, *self._alone(good), *self._beaten(good), *self._behind()]

    def _not_finite(self) -> list[str]:
        """The signals whose prediction is not finite at a step at which the error of a baseline is known."""
        lost = []
        for signal in (error.signal for error in self.measured.diagnostics.own):
            errors = self.measured.diagnostics.errors_of(signal)
            values = [errors.pop("").value, *(theirs.value for theirs in errors.values())]
            if any(not isfinite(own) and any(map(isfinite, others)) for own, *others in zip(*values, strict=True)):
                lost.append(signal)
        return lost

    def _alone(self, good: Sequence[Trusted]) -> Iterable[ReportFinding]:
        """The signals with persistence as their only baseline."""
        fitted = {error.signal for error in self.measured.diagnostics.errors if error.world == LINEAR}
        if alone := [row.signal for row in good if row.signal not in fitted]:
            text = "were compared with persistence only: the logs have too few complete rows to fit a linear model"
            yield ReportFinding(f"Predictions of {listing(alone)} {text}.", "unclear")

    def _beaten(self, good: Sequence[Trusted]) -> Iterable[ReportFinding]:
        """What the signals with the longest trusted horizon are better than."""
        longest: dict[str, list[str]] = {}
        steps = max((row.steps for row in self.measured.trusted), default=0)
        for row in good:
            if row.steps == steps:
                longest.setdefault(_baselines_beaten(self.measured, row), []).append(row.signal)
        for how, names in longest.items():
            ahead = span(steps, self.measured.diagnostics.step_s)
            yield ReportFinding(f"It predicts {listing(names)} {how} at every step up to {ahead}.", "good")

    def _behind(self) -> Iterable[ReportFinding]:
        """The signals that a linear model predicts better at a step."""
        linear = [curve for curve in self.measured.diagnostics.skills if curve.against == LINEAR]
        if behind := listing([curve.signal for curve in linear if any(high < -GATE for high in curve.skill.high)]):
            text = f"a linear model predicts {behind} better."
            more = f"More training episodes, or a longer training: {text}"
            yield ReportFinding(f"At some step {text}", "plain", more)

    def figure(self) -> Sequence[PagePart | None]:
        """The table of the signals, and the errors over the horizon."""
        trust = TrustedHorizons(trusted=self.measured.trusted, deviation={})
        table = signal_table(self.measured.diagnostics, trust)
        return [table, Note(_TRUSTED), *Skill(self.measured.diagnostics).figure()]


_RETRAIN: Final = "Another training, with another seed or a smaller learning rate: predictions are not finite."


def _baselines_beaten(measured: Measured, horizon: Trusted) -> str:
    """The baselines that the world beats, equals, or is not worse than, up to the trusted horizon, in words."""
    curves = measured.diagnostics.skills_of(horizon.signal)
    groups: dict[str, list[str]] = {"better than": [], "as well as": [], "no worse than": []}
    for name in filter(None, measured.diagnostics.errors_of(horizon.signal)):
        skills = [curves[name].at(step) for step in range(1, horizon.steps + 1)] if name in curves else []
        outcomes = set(map(compare_errors, skills)) or {"unclear"}
        equal = "as well as" if outcomes <= {"better", "equivalent"} else "no worse than"
        groups["better than" if outcomes == {"better"} else equal].append(_BASELINE_NAMES.get(name, label(name)))
    parts = [f"{how} {listing(names)}" for how, names in groups.items() if names]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]},"


def _end_reasons(trusted: Iterable[Trusted]) -> str:
    """Why trusted horizons end: the linear model is better, or another baseline is as good."""
    reasons = {LINEAR: "a linear model is better"}
    names = dict.fromkeys(horizon.stops for horizon in trusted)
    return listing([reasons.get(name, f"{_BASELINE_NAMES.get(name, label(name))} is as good") for name in names])


class UseOfActions(_OfAudit):
    """Growth of the error with wrong actions."""

    chapter = "Use of actions"

    def findings(self) -> Sequence[ReportFinding]:
        """Whether the world uses its actions."""
        effects = [effect.world.value for effect in self.measured.effects]
        if not all(map(isfinite, [*effects, *(gap.increase.value for gap in self.measured.diagnostics.gaps)])):
            return [ReportFinding("Predictions are not finite under changed actions.", "bad", _RETRAIN)]
        if text := ignored_actions(self.measured):
            varied = listing([row.action for row in self.measured.excitation if row.enough])
            if self.measured.reaches_goals:
                return [ReportFinding(text, "unclear")]
            opposite = any(effect.agreement == "opposite" for effect in self.measured.effects)
            more = f"Training logs in which {varied} varies as in these logs: the world ignores its actions."
            return [ReportFinding(text, "bad", more if varied and not opposite else "")]
        finding = ActionUse(self.measured.diagnostics).sentence()
        return [finding if finding.verdict == "good" else replace(finding, verdict="plain")]

    def figure(self) -> Sequence[PagePart]:
        """The growth by signal."""
        return ActionUse(self.measured.diagnostics).figure()


class TwinScores(_OfAudit):
    """Scores of the tests against twins."""

    chapter = "Tests against twins"

    def findings(self) -> Sequence[ReportFinding]:
        """The verdict of each test."""
        return [_twin_finding(test) for test in self.measured.twins]

    def figure(self) -> Sequence[PagePart]:
        """The score of each signal, with notes on cells without a score and on unmet conditions."""
        rows, notes = [], []
        for test in self.measured.twins:
            for cell in test.grade.cells:
                name = f"{test.name} {label(cell.name)}"
                if cell.score is None:
                    notes.append(f"{name}: {cell.note}.")
                    continue
                style = "world" if cell.score.low > 0.5 else "floor" if cell.score.high > 0 else "missed"
                rows.append(Dot.of(name, cell.score, number(cell.score.value, 2), style))
            unmet = [condition for condition in test.grade.conditions if not condition.met]
            notes += [f"{test.name}: {condition.name}: {condition.found}." for condition in unmet]
        low = min([0.0, *(max(-1.0, row.low) for row in rows)])
        title = "Score: 0 is the best trivial baseline, 1 the ground truth"
        chart = IntervalChart(title=title, rows=rows, ticks=nice_ticks(low, 1.0, 5), zero=True)
        return [*([chart] if rows else []), *map(Note, notes)]


def _twin_finding(test: TwinTest) -> ReportFinding:
    """What the verdict of a test against twins means; only a failed C1 or T1 is a reason against deployment."""
    if test.verdict in (Verdict.PASS, Verdict.UNSUPPORTED, Verdict.ERROR):
        return ReportFinding(f"{test.name} ({test.title}): {test.verdict.value}.", "plain")
    if test.verdict is Verdict.FAIL and test.name in ("C1", "T1"):
        more = "Training logs in which each action is random in 10\u00a0% of steps: the world fails C1."
        text = f"It fails the twin test {test.name} ({test.title})."
        return ReportFinding(text, "bad", more if test.name == "C1" else "")
    where = f", weakest in {cell.name}" if (cell := weakest(test.grade)) else ""
    text = f"Do not rely on the predicted {test.title}: the twin test {test.name} is {test.verdict.value}{where}."
    return ReportFinding(text, "unclear")


class JointBands(_OfAudit):
    """Coverage of whole trajectories on one window per episode, with exact probabilities."""

    chapter = "Prediction bands"

    def findings(self) -> Sequence[ReportFinding]:
        """Which bands are too narrow or too wide, and how many trajectories the others contain."""
        bands = self.measured.coverage
        if not bands:
            text = "It has no prediction bands: its uncertainty is unknown, and plans cannot use chance constraints."
            return [ReportFinding(text, "unclear")]
        findings = [finding for band in bands for finding in _band_findings(band)]
        if bands[0].level < LEVELS[-1]:
            text = f"Its bands are graded at the level {round_percent(bands[0].level)}: calibrate on more episodes for "
            findings.append(ReportFinding(f"{text}{round_percent(LEVELS[-1])}.", "unclear"))
        if valid := [band for band in bands if not _narrow(band)]:
            worst = min(valid, key=lambda band: band.inside.value)
            names = listing([band.signal for band in valid])
            text = (
                f"{'Its bands' if len(valid) == len(bands) else f'The bands of {names}'} are calibrated: the "
                f"{round_percent(worst.level)} band contains at least {worst.inside.successes} of "
                f"{plural(worst.inside.trials, 'trajectory')} of each signal."
            )
            findings.append(ReportFinding(text, "good"))
        return findings

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
        return [Table(caption, head, rows)] if rows else []


def _narrow(band: JointCoverage) -> bool:
    """Whether the measured coverage is significantly below the nominal one, for whatever reason."""
    return band.inside.high < band.level


def _band_findings(band: JointCoverage) -> Iterable[ReportFinding]:
    """Whether the band is too narrow or too wide."""
    count = f"{band.inside.successes} of {band.inside.trials} trajectories"
    holds = f"the {round_percent(band.level)} band contains {count}."
    if _narrow(band):
        chance = "" if band.verdict == "narrow" else " With few calibration episodes, this may be chance."
        text = f"Recalibrate the bands of {band.signal} before you rely on them: {holds}{chance}"
        far = band.inside.high < band.level - MAX_COVERAGE_GAP
        if far:
            text = f"The bands of {band.signal} are far too narrow: {holds}"
        more = f"New episodes, logged as in later use, to recalibrate the bands of {band.signal}."
        yield ReportFinding(text, "bad" if far else "unclear", more)
    elif band.verdict == "wide":
        text = f"The bands of {band.signal} are wider than necessary: {holds} Constraints may reject safe plans."
        yield ReportFinding(text, "unclear")


class ActionExcitation(_OfAudit):
    """Excitation of each action."""

    chapter = "Evidence in the logs"

    def findings(self) -> Sequence[ReportFinding]:
        """Which actions vary too little; only actions that are constant in the logs if twins confirm the effects."""
        constant = {action.name for action in self.measured.data.actions if action.least == action.greatest}
        dull = [row for row in self.measured.excitation if not row.enough]
        named = [row for row in dull if row.action in constant or not self.measured.causal]
        findings = [_excitation_finding(row) for row in named]
        if not dull:
            findings.append(ReportFinding("Every action has enough excitation to identify its effects.", "plain"))
        if self.measured.randomised is not None:
            text = f"{percent(self.measured.randomised)} of the steps are flagged as randomised."
            findings.append(ReportFinding(text, "plain"))
        return findings or [ReportFinding("Twins confirm effects that these logs do not identify.", "plain")]

    def figure(self) -> Sequence[PagePart]:
        """The excitation of each action."""
        rows = []
        for row in self.measured.excitation:
            style, text = "world" if row.enough else "missed", percent(row.left.value)
            rows.append(Dot.of(row.action, row.left, text, style, target=MIN_EXCITATION))
        details = (
            f"Vertical tick: {round_percent(MIN_EXCITATION)}; below it, effects are not identifiable. They also need "
            f"{plural(MIN_CHANGES, 'change')} of the action. An action that is held is measured where it changes."
        )
        title = "Share of each action, or of its changes, that the history does not predict"
        return [share_chart(title, rows), Note(details)]


def _excitation_finding(row: Excitation) -> ReportFinding:
    """The limit of an action whose effects are not identifiable."""
    if row.num_changes < MIN_CHANGES:
        times = "once" if row.num_changes == 1 else f"{row.num_changes} times"
        why, known = f": it changes only {times} in these logs, so", "it stays as in the logs"
        more = (
            f"More changes of {row.action}, to levels drawn at random: these logs have {row.num_changes}, and at least "
            f"{MIN_CHANGES} are needed."
        )
    else:
        left, known = number(row.left.value, 2), "actions are chosen as in the logs"
        why = f" (excitation {left}): the history explains nearly all of its variance, so"
        more = (
            f"Randomise {row.action} in 10\u00a0% of steps, and flag them in a signal 'randomised': its excitation is "
            f"{left} and must be at least {number(MIN_EXCITATION)}."
        )
    text = f"Do not plan with {row.action}{why} effects are NOT IDENTIFIABLE. Forecasts are valid while {known}."
    return ReportFinding(text, "unclear", more)


class ErrorPlacebo(_OfAudit):
    """Correlation of errors with the next actions."""

    chapter = "Evidence in the logs"

    def findings(self) -> Sequence[ReportFinding]:
        """Whether errors predict actions."""
        if (count := self.measured.placebo[0].num_episodes) < MIN_EPISODES:
            return [ReportFinding(f"The placebo test needs {MIN_EPISODES} episodes; there are {count}.", "plain")]
        actions = listing(sorted({row.action for row in self.measured.placebo if row.found}))
        if not actions:
            return [ReportFinding("Errors do not predict the next action.", "plain")]
        text = (
            f"Do not treat effects of {actions} as causal: errors of the world predict the next action, so an unlogged "
            "cause may drive both (NOT IDENTIFIABLE)."
        )
        more = (
            f"Log everything that determines {actions}, or randomise it in 10\u00a0% of steps and flag them in a "
            "signal 'randomised'. Check the clocks with `worldline check`."
        )
        return [ReportFinding(text, "plain" if self.measured.causal else "unclear", more)]

    def figure(self) -> Sequence[PagePart]:
        """The largest correlations."""
        rows = []
        for row in sorted(self.measured.placebo, key=lambda row: -abs(row.value.value))[:MAX_PLACEBOS]:
            name, style = f"{row.signal}, {row.action}", "missed" if row.found else "world"
            rows.append(Dot.of(name, row.value, number(row.value.value, 2), style, target=0.0))
        ends = max(0.2, *(max(abs(row.low), abs(row.high)) for row in rows))
        title = "Correlation of the last error with the next action, given the last observation and action"
        chart = IntervalChart(title=title, rows=rows, ticks=zero_ticks([-ends], [ends]), zero=True)
        details = (
            "Placebo test: an action cannot cause an earlier error. The part of the action that the last observation "
            f"and action explain is removed first. A correlation counts if it is at least {MIN_CORRELATION} and "
            "significant after correction for all pairs. "
            "The test does not detect a hidden cause that is independent at every step."
        )
        return [chart, Note(details)]
