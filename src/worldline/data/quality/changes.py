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
from itertools import compress, pairwise
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.stats import rankdata

from worldline.data.checks import Finding, FindingKind, Place, Severity
from worldline.data.quality.false_alarms import LEVEL, LogTest, part_of
from worldline.data.quality.segments import Segment, component_names, names_of
from worldline.data.quality.transition_model import LAGS, ComponentName, TransitionModel
from worldline.schema import Role, Schema
from worldline.stats import Floats

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


class _Figure(NamedTuple):
    """What a column of the figures is about: number of the component (None for an input), and words with {} a unit."""

    component: int | None
    words: str = ""


def changes(tables: Sequence[Segment], names: Sequence[ComponentName], schema: Schema) -> LogTest:
    """Signals that change from a date on, with a finding for each signal, about its clearest figure.

    The statistic [K] is the largest standardised rank sum of each figure over all dates.

    Args:
        tables: of the log, by episode.
        names: of their components.
        schema: of the log.
    """
    pieces = _pieces(tables)
    if len(pieces) < MIN_PIECES:
        return LogTest(np.empty(0), np.inf, lambda _: [])
    figures, values = _all_figures(pieces, names, schema)
    varies = np.ptp(values, axis=0) > 1e-9 * np.abs(values).max(0)
    figures, values = list(compress(figures, varies)), values[:, varies]
    ranks = rankdata(values, axis=0)
    ranks = (ranks - ranks.mean(0)) / ranks.std(0)
    size, dates = _largest_rank_sums(ranks)

    def sentences(places: Int[np.ndarray, "k 1"]) -> list[Finding]:
        changed = sorted(places[:, 0].tolist(), key=lambda at: -size[at])
        # Dates at which an input changes: a signal that changes there, too, may only follow it.
        operated = [dates[at] for at in changed if figures[at].component is None]
        findings: dict[str, Finding] = {}
        for at in changed:
            component, date = figures[at].component, int(dates[at])
            if component is None or names[component].signal in findings:
                continue
            signal, words = schema[names[component].signal], figures[at].words
            unit = "" if "{}" not in words or signal.unit in ("1", "?") else f" {signal.unit}"
            before, after = (float(np.median(part)) for part in (values[:date, at], values[date:, at]))
            is_operated = any(abs(date - other) <= NEAR * len(pieces) for other in operated)
            episode = pieces[date].number
            findings[signal.name] = Finding(
                problem=f"{part_of(signal, names[component].index)} changes from about episode {episode} on: the "
                f"{words.format('')} of one linear model of the log goes from {before:.3g} to {after:.3g}{unit}",
                fix=_ANOTHER_OPERATION if is_operated else _CHANGED,
                severity=Severity.NOTE if is_operated else Severity.WARNING,
                episode=episode,
                signal=signal.name,
                kind=FindingKind.CHANGED,
                places=(Place(episode=episode),),
            )
        return list(findings.values())[:MAX_LISTED]

    return LogTest(size, _limit(ranks, size), sentences)


def _all_figures(
    pieces: Sequence[Segment], names: Sequence[ComponentName], schema: Schema
) -> tuple[list[_Figure], Floats]:
    """The figures [E, K] of the pieces, and what each is about."""
    # One law for all pieces, and one for deviations from the level of each piece: levels may differ by episode.
    pooled, within = TransitionModel(pieces), TransitionModel(pieces, within=True)
    residuals, own = [pooled.residual(piece) for piece in pieces], [within.residual(piece) for piece in pieces]
    means = np.stack([part.mean(0) for part in own]) * pooled.spread
    sizes = np.stack([np.sqrt(np.square(part).mean(0)) for part in residuals]) * pooled.spread
    # Scores: products of features and residuals, whose mean is zero at the fit if one law holds.
    products = []
    for piece, first, second in zip(map(pooled.latest, pieces), residuals, own, strict=True):
        both = ((piece, first / pooled.noise), (piece - piece.mean(0), (second - second.mean(0)) / within.noise))
        products.append([x.T @ np.clip(error, -MAX_RESIDUAL, MAX_RESIDUAL) / len(x) for x, error in both])
    # Level, spread and speed of the inputs of each piece show another operation.
    inputs = [np.concatenate([piece.actions, piece.inputs], 1) for piece in pieces]
    operation = [[np.median(part, axis=0), part.std(0), np.diff(part, axis=0).std(0)] for part in inputs]
    columns, actions = (component_names(schema, role) for role in (Role.EXOGENOUS, Role.ACTION))
    labels = [names_of(schema[name.signal])[name.index] for name in names]
    features = [*labels, *columns, "the duration of the step", *actions]
    scores = [f"mean product of the error and {feature}" for feature in features]
    words = ["mean error{}", "size of the errors{}", *scores, *scores]
    table = np.concatenate([means[:, None], sizes[:, None], *np.moveaxis(np.array(products), 1, 0)], 1)
    tables = [part.reshape(len(pieces), -1) for part in (table, np.array(operation))]
    figures = [_Figure(number, text) for text in words for number in range(len(names))]
    return figures + [_Figure(None)] * tables[1].shape[1], np.concatenate(tables, 1)


def _limit(ranks: Floats, size: Floats) -> float:
    """What the largest statistic of permuted pieces exceeds with `LEVEL`; infinite if no statistic does."""
    draw, null = np.random.default_rng(0), list[float]()
    for _ in range(NUM_PERMUTATIONS if len(size) else 0):
        null.append(MARGIN * float(_largest_rank_sums(ranks[draw.permutation(len(ranks))])[0].max()))
        if sum(value >= size.max() for value in null) > LEVEL * NUM_PERMUTATIONS:
            return np.inf  # certainly not significant
    return float(np.quantile(null, 1 - LEVEL)) if null else np.inf


def _pieces(tables: Sequence[Segment]) -> list[Segment]:
    """The tables, cut into about `NUM_PIECES` if they are fewer."""
    # Many short pieces give the dates at which a change can be found, but each must be long enough for its figures.
    steps = sum(len(table.actions) for table in tables)
    size = max(MIN_STEPS, steps // NUM_PIECES) if len(tables) < NUM_PIECES else steps
    pieces = []
    for table in tables:
        edges = np.linspace(0, len(table.actions), max(1, len(table.actions) // size) + 1).astype(int).tolist()
        pieces += [table.between(*ends) for ends in pairwise(edges)]
    return [piece for piece in pieces if len(piece.actions) > 2 * LAGS]


def _largest_rank_sums(ranks: Floats) -> tuple[Floats, Int[np.ndarray, "K"]]:
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
    step = np.where(before, total / date, total / (date - count))
    drift = line * ((line * ranks).mean(0) / (line**2).mean())
    spread = np.minimum(_long_run(ranks - step), _long_run(ranks - drift))
    return sizes.max(0) / np.sqrt(np.maximum(spread, 1.0)), date


def _long_run(values: Floats) -> Floats:
    """The long-run variance of each column [K] of values [E, K] over its variance (Bartlett kernel)."""
    count, variance = len(values), np.square(values).mean(0) + 1e-9
    reach = round(BANDWIDTH * count ** (1 / 3))
    lags = [(1 - lag / (reach + 1)) * (values[lag:] * values[:-lag]).sum(0) / count for lag in range(1, reach + 1)]
    return np.asarray(1 + 2 * np.sum(lags, axis=0) / variance)
