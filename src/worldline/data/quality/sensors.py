"""Tests for outliers and stuck sensors: the extremes of each episode are compared with those of the other episodes."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

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


def outliers(log: LogFigures) -> LogTest:
    """Values far outside the range of 99 % of the values, unless other episodes have values as far outside.

    The statistic [C, E] is the logarithm of the distance of the most distant value; it allows for heavy tails. The
    limit is the larger of a fixed distance and of that from the other episodes.
    """
    figures, rows = log.table, log.rows
    usable = np.array([column.signal.kind is Kind.VECTOR for column in log.columns], bool)
    usable &= np.isfinite(rows).sum(0) >= MIN_ROWS
    usual = np.full((2, len(usable)), np.nan)
    if usable.any():
        usual[:, usable] = np.nanquantile(rows[:, usable], (0.005, 0.995), axis=0)
    usual[:, usual[0] >= usual[1]] = np.nan
    # How far the extremes of each episode lie outside of the usual range, in units of it.
    low, high = usual[:, :, None]
    above, below = (figures["high"] - high) / (high - low), (low - figures["low"]) / (high - low)
    distance = np.asarray(np.log1p(np.maximum(np.maximum(above, below), 0)), np.float64)
    distance[figures["num_rows"] == 0] = np.nan
    known = [part[np.isfinite(part)] for part in distance]
    limits = np.array([MAXIMA.limit(part) if len(part) >= MIN_VALUES else 0.0 for part in known])

    def sentences(places: Int[np.ndarray, "k 2"]) -> list[Finding]:
        findings = []
        for at, index in places.tolist():
            column, end = log.columns[at], "high" if above[at, index] > below[at, index] else "low"
            values = f"99 % of the values lie in {usual[0, at]:.4g} to {usual[1, at]:.4g}"
            findings.append(
                warning(
                    problem=f"{column.subject} is {figures[at, index][end]:g}, but {values}",
                    fix="Repair the value, mark it as missing, or leave the episode out.",
                    signal=column.signal.name,
                    episode=log.episodes[index],
                    step=int(figures[at, index][f"{end}_at"]),
                )
            )
        return few(findings)

    return LogTest(distance, np.maximum(limits, np.log1p(OUTLIER_RANGES))[:, None], sentences)


def stuck_sensors(log: LogFigures) -> LogTest:
    """Sensors that usually change in nearly every step, but are constant for an extreme number of steps.

    The statistic [C, E] is the longest constant run of each episode, in rows.
    """
    figures, rows = log.table, log.rows
    limits = [
        _longest_usual_run(part[part["num_rows"] > 0]) if column.is_sensor else np.inf
        for column, part in zip(log.columns, figures, strict=True)
    ]

    def sentences(places: Int[np.ndarray, "k 2"]) -> list[Finding]:
        moves, findings = figures["changes"] > 0, []
        for at, index in places.tolist():
            # Others change, and the constant value is no stop.
            column, part, episode = log.columns[at], figures[at, index], log.episodes[index]
            known = figures[at][figures[at]["num_rows"] > 0]
            if _is_stop(part["run_value"], known, rows[:, at], limits[at]) or not np.delete(moves[:, index], at).any():
                continue
            start, stop = int(part["run_from"]), int(part["run_to"]) + 1
            findings.append(
                warning(
                    problem=f"{column.subject} is exactly {part['run_value']:g} for {part['run']} steps while others "
                    "change",
                    fix="The sensor was stuck or slower than the log: mark these steps as missing.",
                    episode=episode,
                    signal=column.signal.name,
                    step=start,
                    kind=FindingKind.STUCK,
                    places=(Place(episode=episode, start=start, stop=stop, component=column.component),),
                )
            )
        return few(findings)

    return LogTest(figures["run"].astype(np.float64), np.array(limits)[:, None], sentences)


def _longest_usual_run(figures: NDArray[np.void]) -> float:
    """The longest run that chance or the log explains; infinite if the sensor seldom changes."""
    steps, run = figures["num_rows"] - 1, figures["run"]
    # The longest run of each episode may be the fault. The others show the usual share of constant steps.
    num_others = steps - (run - 1)
    shares = (figures["changes"] * steps)[num_others > 0] / num_others[num_others > 0]
    if not len(shares) or np.median(shares) <= MIN_CHANGES:
        return np.inf
    same = ((1 - figures["changes"]) * steps - (run - 1)).sum()
    stays = (same + 1) / (num_others.sum() + 2)
    by_chance = np.log(LEVEL / steps.sum()) / np.log(stays)
    usual, tested = np.log(figures["next_run"][run <= steps]), np.log(run)
    by_others = RUNS.limit(usual, tested) if len(usual) >= MIN_VALUES else 0.0
    return float(max(MAX_CONSTANT_STEPS, by_chance, np.exp(by_others)))


def _is_stop(value: float, figures: NDArray[np.void], rows: Floats, limit: float) -> bool:
    """Whether the constant value is an end of the range, or a place of rest, which long runs have in common."""
    low, high, is_long = figures["low"].min(), figures["high"].max(), figures["run"] > limit
    near = MAX_RELATIVE_DIFFERENCE * (high - low)
    rested = (is_long & (np.abs(figures["run_value"] - value) <= near)).sum() - 1
    share = (np.abs(rows - value) <= near).mean() if len(rows) else 0.0
    return bool(value - low <= near or high - value <= near or rested > MAX_COINCIDENCE * share * is_long.sum())
