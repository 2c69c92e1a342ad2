"""Measurements of a training: losses, latent collapse, and the choice of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from worldline.audit.measurement import Measurement, ReportFinding, verdict
from worldline.formatting import label, number, plural, span, with_interval
from worldline.plots.charts import ChartLine, LineChart
from worldline.plots.parts import Group, Note, PagePart, Table
from worldline.stats import Estimate


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
    """Losses and the health of the latents during training.

    Args:
        terms: unweighted terms of the training loss.
        validation: total loss on validation episodes; None if not measured.
        health: measures of latent collapse, such as "effective rank"; larger is better.
    """

    chapter = "Training and latents"

    terms: tuple[Series, ...]
    validation: Series | None
    health: tuple[Series, ...] = ()

    def sentence(self) -> ReportFinding:
        """Whether the validation loss fell and stayed low."""
        series = self.validation or self.terms[0]
        name = "validation loss" if self.validation is not None else f"{label(series.name)} loss"
        start, end, steps = series.values[0], series.values[-1], plural(series.steps[-1], "step")
        if not np.isfinite(end):
            return ReportFinding(f"The {name} is not finite after {steps}: training diverged.", "bad")
        if not end < start:
            text = f"The {name} did not fall: it went from {number(start)} to {number(end)} over {steps}."
            return ReportFinding(text, "bad")
        best = int(np.nanargmin(series.values))
        if end > 1.2 * series.values[best]:
            lowest = f"{number(series.values[best])} by step {number(series.steps[best])}"
            text = f"The {name} fell from {number(start)} to {lowest}, then rose again to {number(end)}."
            return ReportFinding(text, "unclear")
        times = f", {number(start / end, 2)} times lower" if end > 0 and start / end >= 2 else ""
        text = f"The {name} fell from {number(start)} to {number(end)}{times}, over {steps}."
        return ReportFinding(text, "good" if self.validation is not None else "plain")

    def figure(self) -> Sequence[PagePart]:
        """Losses and measures of the latents over training steps."""
        terms = [term.line(f"other{k % 6}") for k, term in enumerate(self.terms)]
        charts = [_chart("Training loss, by term (unweighted)", "loss", terms)] if terms else []
        if self.validation is not None:
            charts.append(_chart("Validation loss", "loss", [self.validation.line("world")]))
        charts += [_chart(label(series.name), label(series.name), [series.line("world")]) for series in self.health]
        return [Group.gallery(charts)]


def _chart(title: str, quantity: str, lines: Sequence[ChartLine]) -> LineChart:
    """Figures over training steps; losses on a logarithmic axis if all are positive."""
    log = quantity == "loss" and all(y > 0 for line in lines for y in line.y)
    alt = "; ".join(f"{line.label} from {number(line.y[0])} to {number(line.y[-1])}" for line in lines)
    y_label = f"{quantity}, logarithmic" if log else quantity
    return LineChart(title=title, alt=f"{title}: {alt}", x_label="step", y_label=y_label, lines=lines, log=log)


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
        return [*map(number, self.errors), with_interval(self.relative), f"{self.learn_s:.0f} s"]


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
        rows = list[list[str | PagePart]]()
        for trial in self.trials:
            rows.append([verdict("good" if trial.name == self.chosen else "soft", trial.name), *trial.cells()])
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
