"""Measurements of the diagnostics of a world: skill, use of actions, and coverage of the bands."""

from __future__ import annotations

from abc import ABC
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from worldline.audit.diagnostics import Diagnostics, ErrorCurve, Gap
from worldline.audit.measurement import Measurement, ReportFinding, compare_errors
from worldline.formatting import (
    MAX_GROWTH,
    Number,
    between,
    clock,
    growth,
    label,
    listing,
    number,
    percent,
    plural,
    round_percent,
    span,
    with_unit,
)
from worldline.plots.charts import ChartLine, Dot, IntervalChart, LineChart, share_chart
from worldline.plots.parts import Group, Note, PagePart, Table
from worldline.plots.ticks import zero_ticks

NEGLIGIBLE: Final = 0.05
"""Growth of the error below which the world counts as not using its actions."""
CHANGED: Final = {"zeroed": "set to zero", "shuffled": "shuffled across episodes"}
"""Each change of the actions, in words."""


def error_measurements(measured: Diagnostics) -> list[Measurement]:
    """The measurements of these diagnostics, in the order of a page; without those that have no numbers."""
    parts: list[Measurement] = [Skill(measured)]
    parts += [ActionUse(measured)] if measured.gaps else []
    return [*parts, BandCoverage(measured)] if measured.bands else parts


@dataclass(frozen=True)
class _OfDiagnostics(Measurement, ABC):
    """A part of the diagnostics.

    Args:
        measured: the diagnostics.
    """

    measured: Diagnostics


class Skill(_OfDiagnostics):
    """Open-loop errors compared with those of the baselines."""

    chapter = "Errors and baselines"

    def sentence(self) -> ReportFinding:
        """In how many comparisons the error is smaller or larger at the last reported step."""
        if not self.measured.skills:
            return ReportFinding("No baseline has an error at every step, so no skill can be computed.", "unclear")
        counts = Counter(compare_errors(curve.skill.at(self.measured.horizons[-1])) for curve in self.measured.skills)
        better, worse, count = counts["better"], counts["worse"], counts.total()
        text = (
            f"After {span(self.measured.horizons[-1], self.measured.step_s)} its error is smaller than that of a "
            f"baseline in {better} of {plural(count, 'comparison')} by signal, and larger in {worse}."
        )
        return ReportFinding(text, "good" if better == count else "bad" if worse and not better else "unclear")

    def figure(self) -> Sequence[PagePart]:
        """Curves of each signal; the world on top with its interval."""
        details = Note("Open loop: no observation after the start. Shaded: 95\u00a0% interval over episodes.")
        charts = [self._chart(error) for error in self.measured.own]
        return [Group.gallery(charts), details] if charts else []

    def _chart(self, own: ErrorCurve) -> LineChart:
        measured, rmse = self.measured, own.rmse
        unit, unit_name = clock(measured.horizon, measured.step_s)
        x = [unit * (k + 1) for k in range(measured.horizon)]
        others = {label(name): curve.value for name, curve in measured.errors_of(own.signal).items() if name}
        lines = [ChartLine(label=name, style=f"other{k % 6}", x=x, y=others[name]) for k, name in enumerate(others)]
        lines.append(ChartLine(label="this world", style="world", x=x, y=rmse.value, low=rmse.low, high=rmse.high))
        last = "; ".join(f"{line.label} {number(line.y[-1])}" for line in reversed(lines))
        return LineChart(
            title=own.signal,
            alt=f"Error of {own.signal} over the horizon; after {span(measured.horizon, measured.step_s)}: {last}",
            x_label=f"{unit_name} ahead",
            y_label=with_unit("error (RMSE)", measured.units[own.signal]),
            lines=lines,
            zero=True,
        )


class ActionUse(_OfDiagnostics):
    """Growth of the error without the true actions."""

    chapter = "Use of actions"

    @property
    def _overall(self) -> list[Gap]:
        """The growth over all signals with each change of the actions, or that of each signal."""
        return [gap for gap in self.measured.gaps if gap.signal is None] or list(self.measured.gaps)

    def sentence(self) -> ReportFinding:
        """Whether the error depends on the actions; graded by the smaller growth."""
        weakest = min(self._overall, key=lambda gap: gap.increase.low)
        growth, done = weakest.increase, f"with actions {CHANGED[weakest.change]} its error"
        change = f"{percent(growth.value, signed=True)}, {between(growth)}"
        if growth.high < 0:
            return ReportFinding(f"The world uses its actions wrongly: {done} falls ({change}).", "bad")
        if growth.high < NEGLIGIBLE:
            how = "does not use" if growth.low <= 0 else "hardly uses"
            return ReportFinding(f"The world {how} its actions: {done} changes by {change}.", "bad")
        if growth.low <= 0:
            text = f"It is unclear whether the world uses its actions: {done} changes by {change}."
            return ReportFinding(text, "unclear")
        parts = [f"{_grown(gap.increase.value)} when they are {CHANGED[gap.change]}" for gap in self._overall]
        return ReportFinding(f"The world uses its actions: its error grows {listing(parts)}.", "good")

    def figure(self) -> Sequence[PagePart]:
        """The growth by signal and change of the actions; by change alone for a single signal."""
        gaps = self._overall if len({gap.signal for gap in self.measured.gaps}) == 2 else self.measured.gaps
        large = any(gap.increase.value >= MAX_GROWTH for gap in gaps)  # then the axis has factors
        rows = []
        for gap in gaps:
            name, style = f"{gap.signal or 'all signals'}, {gap.change}", "world" if gap.increase.low > 0 else "floor"
            dot = Dot.of(name, gap.increase, growth(gap.increase.value), style)
            rows.append(replace(dot, value=1 + dot.value, low=1 + dot.low, high=1 + dot.high) if large else dot)
        title = "Growth of the error without the true actions"
        show: Callable[[Number], str] = (lambda factor: f"×{number(factor)}") if large else growth
        ticks = zero_ticks([row.low for row in rows], [0.1, *(row.high for row in rows)])
        return [IntervalChart(title=title, rows=rows, ticks=ticks, show=show, zero=True)]


def _grown(share: float) -> str:
    """How much an error grows: "by 45 %" or "to 12 times its value"."""
    return f"by {percent(share)}" if share < MAX_GROWTH else f"to {number(1 + share, 2)} times its value"


class BandCoverage(_OfDiagnostics):
    """Nominal and measured coverage, and the width of the bands."""

    chapter = "Prediction bands"

    def sentence(self) -> ReportFinding:
        """Measured coverage of the band furthest from its level, among those that are too narrow, else too wide."""
        narrow = [band for band in self.measured.bands if band.coverage.high < band.level]
        wide = [band for band in self.measured.bands if band.coverage.low > band.level]
        worst = max(narrow or wide or self.measured.bands, key=lambda band: abs(band.coverage.value - band.level))
        how, rate = "too narrow" if narrow else "too wide" if wide else "calibrated", worst.coverage
        count = f"{number(rate.successes)} of {plural(rate.trials, 'true trajectory')} of {worst.signal}"
        share = f"{percent(rate.value)} ({between(rate)})"
        text = f"The bands are {how}: the {round_percent(worst.level)} band contains {count}, {share}."
        return ReportFinding(text, "bad" if narrow else "unclear" if wide else "good")

    def figure(self) -> Sequence[PagePart]:
        """The coverage and the width of the bands of each signal."""
        measured, dots, rows = self.measured, [], []
        steps, level = measured.horizons or (measured.horizon,), round_percent(measured.bands[0].level)
        for band in measured.bands:
            style = "world" if band.coverage.low <= band.level <= band.coverage.high else "missed"
            dots.append(Dot.of(band.signal, band.coverage, percent(band.coverage.value), style, target=band.level))
            widths = [number(band.width[step - 1]) for step in steps]
            title = with_unit(band.signal, measured.units[band.signal])
            rows.append([title, *widths, span(band.horizon, measured.step_s)])
        head = ["signal", *(f"after {span(step, measured.step_s)}" for step in steps), "informative up to"]
        details = "A band contains a trajectory if every step and component lies inside. Vertical tick: nominal."
        chart = share_chart(f"Trajectories inside the {level} band", dots)
        return [chart, Note(details), Table(f"Mean width of the {level} band", head, rows)]
