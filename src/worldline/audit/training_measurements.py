"""Measurements of a training: losses, latent collapse, readouts, and the choice of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.audit.measurement import Measurement, ReportFinding, verdict
from worldline.formatting import duration, label, listing, number, plural, quantity, span
from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.parts import Group, Note, PagePart, Table
from worldline.stats import Estimate, Floats, r_squared

WELL_READ: Final = 0.9
POORLY_READ: Final = 0.5
NEARLY_ALL: Final = 0.999
"""R² above which no further digit is shown."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A figure over training.

    Args:
        name: name such as "prediction".
        steps: optimiser steps, increasing.
        values: one per step.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    def line(self, style: str) -> ChartLine:
        """The figure as a curve."""
        return ChartLine(label=label(self.name), style=style, x=self.steps, y=self.values)


@dataclass(frozen=True, kw_only=True)
class Learning(Measurement):
    """Training and validation losses.

    Args:
        terms: unweighted terms of the training loss.
        validation: total loss on validation episodes; None if not measured.
        learn_s: seconds of training, heads included; None if unknown.
    """

    chapter = "Training, latents and readouts"

    terms: tuple[Series, ...]
    validation: Series | None
    learn_s: float | None

    @property
    def value(self) -> float:
        """The last validation loss; without one, the first term of the training loss."""
        return (self.validation or self.terms[0]).values[-1]

    def sentence(self) -> ReportFinding:
        """Whether the validation loss fell and stayed low."""
        time = "" if self.learn_s is None else f" Training took {duration(self.learn_s)}."
        series = self.validation or self.terms[0]
        name = "validation loss" if self.validation is not None else f"{label(series.name)} loss"
        start, end, steps = series.values[0], series.values[-1], plural(series.steps[-1], "step")
        if not np.isfinite(end):
            return ReportFinding(f"The {name} is not finite after {steps}: training diverged.", "bad")
        if not end < start:
            text = f"The {name} did not fall: it went from {number(start)} to {number(end)} over {steps}.{time}"
            return ReportFinding(text, "bad")
        best = int(np.nanargmin(series.values))
        if end > 1.2 * series.values[best]:
            lowest = f"{number(series.values[best])} by step {number(series.steps[best])}"
            text = f"The {name} fell from {number(start)} to {lowest}, then rose again to {number(end)}."
            return ReportFinding(text, "unclear")
        times = f", {number(start / end, 2)} times lower" if end > 0 and start / end >= 2 else ""
        text = f"The {name} fell from {number(start)} to {number(end)}{times}, over {steps}.{time}"
        return ReportFinding(text, "good" if self.validation is not None else "plain")

    def figure(self) -> Sequence[PagePart]:
        """Losses over training steps."""
        terms = [term.line(f"other{k % 6}") for k, term in enumerate(self.terms)]
        charts = [_loss_chart("Training loss, by term (unweighted)", terms)] if terms else []
        if self.validation is not None:
            charts.append(_loss_chart("Validation loss", [self.validation.line("world")]))
        return [Group.gallery(charts)]


def _loss_chart(title: str, lines: Sequence[ChartLine]) -> LineChart:
    """Losses, on a logarithmic axis if all are positive."""
    positive = all(y > 0 for line in lines for y in line.y)
    alt = "; ".join(f"{line.label} from {number(line.y[0])} to {number(line.y[-1])}" for line in lines)
    scale = "loss, logarithmic" if positive else "loss"
    return LineChart(title=title, alt=f"{title}: {alt}", x_label="step", y_label=scale, lines=lines, log=positive)


@dataclass(frozen=True, kw_only=True)
class Vital:
    """A measure of latent collapse; larger is better.

    Args:
        series: values over training, such as "effective rank".
        threshold: value below which the collapse guard stops training; None without a guard.
        most: largest possible value, such as the latent size; None if unbounded.
    """

    series: Series
    threshold: float | None
    most: float | None

    def chart(self) -> LineChart:
        """The measure over training steps, with its threshold and its largest value."""
        title, values = label(self.series.name), self.series.values
        bounds = {"guard threshold": self.threshold, "maximum": self.most}
        levels = [(name, height) for name, height in bounds.items() if height is not None]
        alt = f"{title}: from {number(values[0])} to {number(values[-1])}"
        alt += "".join(f"; {name} {number(height)}" for name, height in levels)
        lines = [self.series.line("world")]
        return LineChart(title=title, alt=alt, x_label="step", y_label=title, lines=lines, levels=levels)


@dataclass(frozen=True, kw_only=True)
class LatentHealth(Measurement):
    """Measures of latent collapse over training.

    Args:
        vitals: such as effective rank, standard deviation, straightness.
    """

    chapter = "Training, latents and readouts"

    vitals: tuple[Vital, ...]

    @property
    def value(self) -> float:
        """The last value of the first measure."""
        return self.vitals[0].series.values[-1]

    def sentence(self) -> ReportFinding:
        """Whether every measure stayed above its threshold."""
        guarded = [(vital.series, vital.threshold) for vital in self.vitals if vital.threshold is not None]
        fallen = [
            f"{series.name} fell to {number(series.values[-1])}, below {number(limit)}"
            for series, limit in guarded
            if not series.values[-1] >= limit
        ]
        if fallen:
            return ReportFinding(f"The latent collapsed: {listing(fallen)}.", "bad")
        ends = [
            f"{vital.series.name} ended at {number(vital.series.values[-1])}"
            + ("" if vital.most is None else f" of {number(vital.most)}")
            for vital in self.vitals
        ]
        if guarded:
            return ReportFinding(f"The latent did not collapse: {listing(ends)}.", "good")
        return ReportFinding(f"Without a collapse guard: {listing(ends)}.", "plain")

    def figure(self) -> Sequence[PagePart]:
        """Each measure over training steps."""
        return [Group.gallery([vital.chart() for vital in self.vitals])]


@dataclass(frozen=True, kw_only=True)
class ReadoutRow:
    """Quality of the readout of one signal from the latent, on held-out episodes.

    Args:
        signal: name of the signal.
        unit: its unit.
        r2: explained share of the variance; None for a constant signal.
        rmse: root mean square error, in its unit.
    """

    signal: str
    unit: str
    r2: Estimate | None
    rmse: float


@dataclass(frozen=True, kw_only=True)
class ReadoutQuality(Measurement):
    """Quality of all readouts.

    Args:
        rows: one per signal.
    """

    chapter = "Training, latents and readouts"

    rows: tuple[ReadoutRow, ...]

    @property
    def _varying(self) -> list[tuple[ReadoutRow, Estimate]]:
        """The signals that vary, the worst first."""
        rows = [(row, row.r2) for row in self.rows if row.r2 is not None]
        return sorted(rows, key=lambda pair: pair[1].value)

    @property
    def value(self) -> Estimate | None:
        """R² of the worst readout."""
        return self._varying[0][1] if self._varying else None

    def sentence(self) -> ReportFinding:
        """Quality of the worst readout."""
        if not self._varying:
            return ReportFinding("No signal varies on the held-out episodes, so readouts cannot be graded.", "plain")
        worst, r2 = self._varying[0]
        name, error, explained = worst.signal, quantity(worst.rmse, worst.unit), f"R² {_explained(r2.value)}"
        if r2.low <= NEARLY_ALL:
            explained += f", {_explained(r2.low)} to {_explained(r2.high)}"
        if r2.low >= WELL_READ:
            which = name if len(self._varying) == 1 else f"Every signal, including {name},"
            return ReportFinding(f"{which} can be read from the latent to within {error} ({explained}).", "good")
        if r2.high < POORLY_READ:
            return ReportFinding(f"{name} cannot be read from the latent ({explained}).", "bad")
        text = f"{name} can be read from the latent only roughly, to within {error} ({explained})."
        return ReportFinding(text, "unclear")

    def figure(self) -> Sequence[PagePart]:
        """R² and error of the readout of each signal that varies."""
        rows = [
            [
                row.signal,
                _explained(r2.value),
                "" if r2.low > NEARLY_ALL else f"{_explained(r2.low)} to {_explained(r2.high)}",
                quantity(row.rmse, row.unit),
            ]
            for row, r2 in self._varying
        ]
        caption = "Readouts from the latent of a single step, on held-out episodes"
        return [Table(caption, ["signal", "R²", "95\u00a0% interval", "error (RMSE)"], rows)] if rows else []


def _explained(r2: float) -> str:
    """An R² with three digits, or "above 0.999"."""
    return f"above {NEARLY_ALL}" if r2 > NEARLY_ALL else number(r2)


def readout_row(
    signal: str, unit: str, truth: Floats, read: Floats, episode: NDArray[np.integer], *, seed: int
) -> ReadoutRow:
    """Quality of the readout `read` of the ground truth `truth`.

    Args:
        signal: name of the signal.
        unit: its unit.
        truth: [n, components], held out.
        read: [n, components], read out from latents.
        episode: [n], episode of each row, from 0.
        seed: seed of the bootstrap over episodes.
    """
    truth, read = truth.astype(float), read.astype(float)
    error = float(np.sqrt(((truth - read) ** 2).mean()))
    return ReadoutRow(signal=signal, unit=unit, r2=r_squared(truth, read, episode, seed=seed), rmse=error)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate of a choice between models.

    Args:
        name: of the recipe.
        errors: at each compared step, mean over the signals of the root mean square error / standard deviation.
        relative: to the errors of the reference, mean over the steps; below 1 is better.
        learn_s: seconds of the trial.
    """

    name: str
    errors: tuple[float, ...]
    relative: Estimate
    learn_s: float

    def cells(self) -> list[str]:
        """The figures of the model, without its name."""
        ratio = self.relative
        interval = f"{number(ratio.value)} ({number(ratio.low)} to {number(ratio.high)})"
        return [*map(number, self.errors), interval, f"{self.learn_s:.0f} s"]


@dataclass(frozen=True, kw_only=True)
class Choice(Measurement):
    """A choice between models, by block cross-validation if the reference is the linear one.

    Args:
        chosen: name of the recipe.
        reason: completes "... was chosen: ".
        steps: compared steps ahead.
        step_s: seconds per step; None if unknown.
        num_episodes: compared episodes; no fit that predicts one has seen it.
        trials: the candidates in the order of trial.
        failed: per candidate that could not be tried, the reason.
        reference: name of the recipe that the errors are relative to.
        compared: what the errors are of.
        goals: whether the last error of a trial is that of the order of predicted distances.
    """

    chapter = "Choice of the model"

    chosen: str
    reason: str
    steps: tuple[int, ...]
    step_s: float | None
    num_episodes: int
    trials: tuple[Trial, ...]
    failed: Mapping[str, str]
    reference: str = "linear"
    compared: Literal["vectors", "images"] = "vectors"
    goals: bool = False

    @property
    def value(self) -> Estimate | None:
        """The error of the chosen model relative to the reference; None if it was not compared."""
        return next((trial.relative for trial in self.trials if trial.name == self.chosen), None)

    def sentence(self) -> ReportFinding:
        """What won."""
        return ReportFinding(f"The model {self.chosen} was chosen: {self.reason}.", "plain")

    def figure(self) -> Sequence[PagePart]:
        """The compared models with their errors in the order of trial."""
        caption = (
            f"{self.compared_figures.capitalize()}. The ratio to {self.reference} is a mean over the columns, in which "
            "an excess of over 10 % counts twice; below 1 is better."
        )
        if self.reference == "linear":
            caption += " The linear baselines of other tables are plain regressions on the last observations."
        rows: list[list[str | PagePart]] = [
            [verdict("good" if trial.name == self.chosen else "soft", trial.name), *trial.cells()]
            for trial in self.trials
        ]
        tables = [Table(caption, self.head, rows, style="number")] if rows else []
        return [*tables, *map(Note, self.failures)]

    @property
    def head(self) -> list[str]:
        """The titles of the columns: model, each compared step, order of goals, ratio, time."""
        steps = (span(step, self.step_s) for step in self.steps)
        return ["model", *steps, *(["goals"] if self.goals else []), f"ratio to {self.reference}", "time"]

    @property
    def compared_figures(self) -> str:
        """What the figures of a trial are, and of which episodes."""
        episodes = plural(self.num_episodes, "episode")
        if self.reference == "linear":
            return f"error / standard deviation on {episodes}, cross-validated"
        what = "" if self.compared == "vectors" else " of the colours of 4 x 4 patches"
        order = "; goals: 1 - rank correlation of predicted distances with logged steps" if self.goals else ""
        return f"error / standard deviation{what} on {episodes} of the validation part{order}"

    @property
    def failures(self) -> list[str]:
        """A sentence for each model that failed."""
        return [f"{name} failed: {reason}" for name, reason in self.failed.items()]
