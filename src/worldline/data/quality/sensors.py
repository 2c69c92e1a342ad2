"""Tests for outliers and stuck sensors: the extremes of each episode are compared with those of the other episodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Int

from worldline.data.checks import Finding, FindingKind, Place, warning
from worldline.data.quality.false_alarms import LEVEL, MAXIMA, MIN_VALUES, RUNS, LogTest, few
from worldline.data.quality.log_figures import LogFigures
from worldline.schema import Kind
from worldline.stats import Floats

OUTLIER_RANGES: Final = 10.0
"""Distance of an outlier from the range of 99 % of the values, in units of that range."""
MIN_ROWS: Final = 100
"""Smallest number of values from which the usual range follows."""
MIN_CHANGES: Final = 0.2
"""Smallest usual share of steps in which a sensor changes that may be stuck."""
MAX_CONSTANT_STEPS: Final = 20
"""Largest number of steps for which a sensor that is not stuck may always be constant."""
MAX_COINCIDENCE: Final = 3.0
"""Largest ratio of the stuck values that are equal to those that would be equal by chance."""
MAX_RELATIVE_DIFFERENCE: Final = 1e-3
"""Largest difference of two equal values, as a share of the range."""


class Outliers(LogTest):
    """Values far outside the range of 99 % of the values, unless other episodes have values as far outside.

    Args:
        log: its figures.
    """

    def __init__(self, log: LogFigures) -> None:
        self._log, self._figures = log, log.table
        rows, vector = log.rows, [column.signal.kind is Kind.VECTOR for column in log.columns]
        usable = np.array(vector, bool) & (np.isfinite(rows).sum(0) >= MIN_ROWS)
        self._usual = np.full((2, len(usable)), np.nan)
        self._usual[:, usable] = np.nanquantile(rows[:, usable], (0.005, 0.995), axis=0) if usable.any() else 0.0
        self._usual[:, self._usual[0] >= self._usual[1]] = np.nan
        # How far the extremes of each episode lie outside of the usual range, in units of it.
        low, high = self._usual[:, :, None]
        self._above, self._below = (
            (self._figures["high"] - high) / (high - low),
            (low - self._figures["low"]) / (high - low),
        )

    def statistic(self) -> Floats:
        """The logarithm of the distance of the most distant value, [C, E]; NaN if there is no usual range."""
        # The logarithm allows for heavy tails.
        distance = np.asarray(np.log1p(np.maximum(np.maximum(self._above, self._below), 0)), np.float64)
        distance[self._figures["num_rows"] == 0] = np.nan
        return distance

    def limit(self, statistic: Floats) -> Floats:
        """The larger of the limit from the other episodes and of a fixed distance, [C, 1]."""
        known = [distance[np.isfinite(distance)] for distance in statistic]
        limits = [MAXIMA.limit(distance) if len(distance) >= MIN_VALUES else 0.0 for distance in known]
        return np.asarray(np.maximum(np.array(limits), np.log1p(OUTLIER_RANGES))[:, None])

    def sentences(self, places: Int[np.ndarray, "k 2"]) -> list[Finding]:
        """A warning for each column and episode."""
        findings = []
        for at, index in places.tolist():
            column, (low, high), figures = self._log.columns[at], self._usual[:, at], self._figures[at, index]
            end = "high" if self._above[at, index] > self._below[at, index] else "low"
            problem = f"{column.subject} is {figures[end]:g}, but 99 % of the values lie in {low:.4g} to {high:.4g}"
            fix = "Repair the value, mark it as missing, or leave the episode out."
            place = {"episode": self._log.episodes[index], "step": int(figures[f"{end}_at"])}
            findings.append(warning(problem=problem, fix=fix, signal=column.signal.name, **place))
        return few(findings)


class StuckSensors(LogTest):
    """Sensors that usually change in nearly every step, but are constant for an extreme number of steps.

    Args:
        log: its figures.
    """

    def __init__(self, log: LogFigures) -> None:
        self._log, self._figures, self._rows = log, log.table, log.rows
        self._limits = np.array([self._longest_usual_run(at) for at in range(len(log.columns))])

    def statistic(self) -> Floats:
        """The longest constant run of each episode, [C, E], in rows."""
        return self._figures["run"].astype(np.float64)

    def limit(self, statistic: Floats) -> Floats:
        """The longest run that chance or the log explains, [C, 1]; infinite if a column is no sensor that changes."""
        del statistic
        return self._limits[:, None]

    def _longest_usual_run(self, at: int) -> float:
        figures = self._figures[at][self._figures[at]["num_rows"] > 0]
        steps, run = figures["num_rows"] - 1, figures["run"]
        # The longest run of each episode may be the fault. The others show the usual share of constant steps.
        num_others = steps - (run - 1)
        shares = (figures["changes"] * steps)[num_others > 0] / num_others[num_others > 0]
        if not self._log.columns[at].is_sensor or not len(shares) or np.median(shares) <= MIN_CHANGES:
            return np.inf
        same = ((1 - figures["changes"]) * steps - (run - 1)).sum()
        stays = (same + 1) / (num_others.sum() + 2)
        by_chance = np.log(LEVEL / steps.sum()) / np.log(stays)
        usual, tested = np.log(figures["next_run"][run <= steps]), np.log(run)
        by_others = RUNS.limit(usual, tested) if len(usual) >= MIN_VALUES else 0.0
        return float(max(MAX_CONSTANT_STEPS, by_chance, np.exp(by_others)))

    def sentences(self, places: Int[np.ndarray, "k 2"]) -> list[Finding]:
        """A warning for each column and episode in which others change and the constant value is no stop."""
        moves, findings = self._figures["changes"] > 0, []
        for at, index in places.tolist():
            if self._is_stop(at, index) or not np.delete(moves[:, index], at).any():
                continue
            column, figures, episode = self._log.columns[at], self._figures[at, index], self._log.episodes[index]
            start, stop = int(figures["run_from"]), int(figures["run_to"]) + 1
            value = f"{column.subject} is exactly {figures['run_value']:g}"
            findings.append(
                warning(
                    problem=f"{value} for {figures['run']} steps while others change",
                    fix="The sensor was stuck or slower than the log: mark these steps as missing.",
                    episode=episode,
                    signal=column.signal.name,
                    step=start,
                    kind=FindingKind.STUCK,
                    places=(Place(episode=episode, start=start, stop=stop, component=column.component),),
                )
            )
        return few(findings)

    def _is_stop(self, at: int, index: int) -> bool:
        """Whether the constant value is an end of the range, or a place of rest, which long runs have in common."""
        figures, rows = self._figures[at][self._figures[at]["num_rows"] > 0], self._rows[:, at]
        value, low, high = self._figures[at, index]["run_value"], figures["low"].min(), figures["high"].max()
        near = MAX_RELATIVE_DIFFERENCE * (high - low)
        is_long = figures["run"] > self._limits[at]
        rested = (is_long & (np.abs(figures["run_value"] - value) <= near)).sum() - 1
        share = (np.abs(rows - value) <= near).mean() if len(rows) else 0.0
        return bool(value - low <= near or high - value <= near or rested > MAX_COINCIDENCE * share * is_long.sum())
