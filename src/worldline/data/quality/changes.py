"""Signals that change from a date on, such as a sensor that was replaced: a test whether one law holds in all steps.

One linear model of a step is fitted to all steps, and one to deviations from the means of each piece of the log. If one
law holds, these figures of a piece do not depend on its date: the mean residual of the second model, the size of the
residuals, and the products of residuals and features, whose sums are zero at the fit. The statistic is the largest
standardised rank sum over all dates and figures. Each rank sum is divided by its long-run standard deviation, because
neighbouring pieces may correlate. Its null distribution follows from permutations of the pieces.

A change at a date at which an action or an exogenous signal changes too is a note: another operation changes both.

Source: Zeileis and Hornik 2007, "Generalized M-fluctuation tests for parameter instability", section 3; Romano and
Tirlea 2022, "Permutation testing for dependence in time series", section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from worldline.data.checks import Finding, FindingKind, Place, Severity
from worldline.data.quality.anomalies import part_of
from worldline.data.quality.false_alarms import LEVEL
from worldline.data.quality.segments import component_names
from worldline.data.quality.transition_model import LAGS, ComponentName, StepTable, TransitionModel
from worldline.schema import Role, Schema

Floats = NDArray[np.floating]

MIN_PIECES: Final = 20
"""Smallest number of pieces in which changes are sought."""
NUM_PIECES, MIN_STEPS = 40, 25
"""Fewer episodes are cut into so many pieces, of at least so many steps."""
MIN_SIDE: Final = 0.08
"""Smallest share of the pieces before and after a date."""
BANDWIDTH: Final = 1.6
"""Reach of the kernel of long-run variances, in cube roots of the number of pieces."""
NUM_PERMUTATIONS: Final = 600
MARGIN: Final = 1.07
"""Factor of the limit, because permutations miss correlations that reach further than the kernel."""
MAX_RESIDUAL: Final = 5.0
"""Residuals are clipped at this multiple of the usual one."""
NEAR: Final = 0.1
"""Distance of two dates that count as equal, as a share of the pieces."""
MAX_LISTED: Final = 5
_CHANGED: Final = "A sensor, a unit, a sign or a column may have changed. Convert the values, or leave one part out."
_ANOTHER_OPERATION: Final = "Inputs change at about this date, too: another operation may explain it."


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure of each piece.

    Args:
        component: number of the component that it is about; None for an input.
        text: what it is.
        unit: of the values; empty if they have none.
        values: [E].
    """

    component: int | None
    text: str = ""
    unit: str = ""
    values: Floats


def changes(tables: Sequence[StepTable], names: Sequence[ComponentName], schema: Schema) -> list[Finding]:
    """Warnings about signals that change from a date on.

    Args:
        tables: of the log, by episode.
        names: of their components.
        schema: of the log.
    """
    pieces = _pieces(tables)
    if len(pieces) < MIN_PIECES:
        return []
    figures = [figure for figure in _figures(pieces, names, schema) if _varies(figure.values)]
    if not figures:
        return []
    size, date, least = _test(np.stack([figure.values for figure in figures], 1))
    # Dates at which an input changes: a signal that changes there, too, may only follow it.
    operated = [date[at] for at, figure in enumerate(figures) if figure.component is None and size[at] > least]
    findings: dict[str, Finding] = {}  # per signal, of its clearest figure
    for at in np.argsort(-size):
        component, first = figures[at].component, int(date[at])
        if size[at] <= least or component is None or names[component].signal in findings:
            continue
        is_operated = any(abs(first - other) <= NEAR * len(pieces) for other in operated)
        finding = _finding(figures[at], names[component], schema, pieces, first, is_operated=is_operated)
        findings[names[component].signal] = finding
    return list(findings.values())[:MAX_LISTED]


def _varies(values: Floats) -> bool:
    return bool(np.ptp(values) > 1e-9 * np.abs(values).max())


def _pieces(tables: Sequence[StepTable]) -> list[StepTable]:
    """The tables, cut into about `NUM_PIECES` if they are fewer."""
    # Many short pieces give the dates at which a change can be found, but each must be long enough for its figures.
    steps = sum(len(table.actions) for table in tables)
    size = max(MIN_STEPS, steps // NUM_PIECES) if len(tables) < NUM_PIECES else steps
    pieces = []
    for table in tables:
        count = max(1, len(table.actions) // size)
        ends = np.linspace(0, len(table.actions), count + 1).astype(int).tolist()
        pieces += [
            replace(
                table,
                start=table.start + first,
                states=table.states[first : stop + 1],
                known=table.known[first : stop + 1],
                actions=table.actions[first:stop],
                inputs=table.inputs[first:stop],
            )
            for first, stop in pairwise(ends)
        ]
    return [table for table in pieces if len(table.actions) > 2 * LAGS]


def _figures(pieces: Sequence[StepTable], names: Sequence[ComponentName], schema: Schema) -> list[_Figure]:
    """All figures of the pieces."""
    # One law for all pieces, and one for deviations from the level of each piece: levels may differ between episodes.
    pooled, within = TransitionModel(pieces), TransitionModel(pieces, within=True)
    residuals, own = [pooled.residual(piece) for piece in pieces], [within.residual(piece) for piece in pieces]
    means = np.stack([part.mean(0) for part in own]) * pooled.spread
    sizes = np.stack([np.sqrt(np.square(part).mean(0)) for part in residuals]) * pooled.spread
    # Scores: products of features and residuals, whose mean is zero at the fit if one law holds.
    products = []
    for piece, first, second in zip(map(pooled.latest, pieces), residuals, own, strict=True):
        both = ((piece, first / pooled.noise), (piece - piece.mean(0), (second - second.mean(0)) / within.noise))
        products.append([x.T @ np.clip(error, -MAX_RESIDUAL, MAX_RESIDUAL) / len(x) for x, error in both])
    table = np.array(products)  # [E, 2, features, C]
    inputs, actions = (component_names(schema, role) for role in (Role.EXOGENOUS, Role.ACTION))
    features = [*map(str, names), *inputs, "the duration of the step", *actions]
    # Per component: level and size of its residuals, and its scores. Then what the inputs of each piece do.
    figures = []
    for number, name in enumerate(names):
        unit = "" if schema[name.signal].unit in ("1", "?") else f" {schema[name.signal].unit}"
        figures += [
            _Figure(component=number, text=text, unit=unit, values=values[:, number])
            for text, values in (("mean error", means), ("size of the errors", sizes))
        ]
        figures += [
            _Figure(component=number, text=f"mean product of the error and {other}", values=values)
            for other, products in zip(features, table[..., number].T, strict=True)
            for values in products
        ]
    operation = np.stack([_operation(piece) for piece in pieces]).reshape(len(pieces), -1)
    return figures + [_Figure(component=None, values=values) for values in operation.T]


def _operation(piece: StepTable) -> Floats:
    """Level, spread and speed of the inputs of a piece, [3, m + e]."""
    inputs = np.concatenate([piece.actions, piece.inputs], 1)
    return np.stack([np.median(inputs, axis=0), inputs.std(0), np.diff(inputs, axis=0).std(0)])


def _test(values: Floats) -> tuple[Floats, NDArray[np.intp], float]:
    """The statistic and the date of each figure [K], and the limit that the largest one exceeds with `LEVEL`."""
    ranks = rankdata(values, axis=0)
    ranks = (ranks - ranks.mean(0)) / ranks.std(0)
    size, date = _largest_rank_sums(ranks)
    draw, null = np.random.default_rng(0), list[float]()
    for _ in range(NUM_PERMUTATIONS):
        null.append(float(_largest_rank_sums(ranks[draw.permutation(len(ranks))])[0].max()))
        if sum(MARGIN * statistic >= size.max() for statistic in null) > LEVEL * NUM_PERMUTATIONS:
            return size, date, np.inf  # certainly not significant
    return size, date, MARGIN * float(np.quantile(null, 1 - LEVEL))


def _largest_rank_sums(ranks: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The largest standardised rank sum over all dates of each column of standardised ranks [E, K], and its date."""
    # Rank sums before each date, in units of their standard deviation if the ranks were independent.
    count = len(ranks)
    side = max(4, int(MIN_SIDE * count))
    first = np.arange(side, count - side + 1)
    sums = np.cumsum(ranks, axis=0)[first - 1]
    sizes = np.abs(sums) * np.sqrt(count / (first * (count - first)))[:, None]
    best = sizes.argmax(0)
    date, total = first[best], sums[best, np.arange(len(best))]
    # The step or drift itself must not count as correlation, so it is subtracted before the long-run variance.
    before = np.arange(count)[:, None] < date
    line = np.linspace(-1, 1, count)[:, None]
    step, drift = (
        np.where(before, total / date, total / (date - count)),
        line * ((line * ranks).mean(0) / (line**2).mean()),
    )
    spread = np.minimum(_long_run(ranks - step), _long_run(ranks - drift))
    return sizes.max(0) / np.sqrt(np.maximum(spread, 1.0)), date


def _long_run(values: Floats) -> Floats:
    """The long-run variance of each column [K] of values [E, K] over its variance (Bartlett kernel)."""
    count, variance = len(values), np.square(values).mean(0) + 1e-9
    reach = round(BANDWIDTH * count ** (1 / 3))
    lags = [(1 - lag / (reach + 1)) * (values[lag:] * values[:-lag]).sum(0) / count for lag in range(1, reach + 1)]
    return np.asarray(1 + 2 * np.sum(lags, axis=0) / variance)


def _finding(
    figure: _Figure, name: ComponentName, schema: Schema, pieces: Sequence[StepTable], date: int, *, is_operated: bool
) -> Finding:
    """The finding about a component, with its clearest figure."""
    before, after = (float(np.median(part)) for part in (figure.values[:date], figure.values[date:]))
    episode = pieces[date].number
    return Finding(
        problem=f"{part_of(schema[name.signal], name.index)} changes from about episode {episode} on: "
        f"the {figure.text} of one linear model of the log goes from {before:.3g} to {after:.3g}{figure.unit}",
        fix=_ANOTHER_OPERATION if is_operated else _CHANGED,
        severity=Severity.NOTE if is_operated else Severity.WARNING,
        episode=episode,
        signal=name.signal,
        kind=FindingKind.CHANGED,
        places=(Place(episode=episode),),
    )
