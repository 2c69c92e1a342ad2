"""Changes of a log at a date, joined episodes and shifted actions: tests on residuals of a linear model of one step.

The model predicts the change in one step from the last observations and inputs, without the steps that it fits worst.

Joined episodes: at the seam nearly all observations jump at once. The size of a jump is a low quantile, over
components, of the residuals in units of their usual size. Jumps are compared with the largest ones in all parts of the
log.

Shifted actions: in each half of an episode, the model predicts with the actions of the row before and of the row after,
too. The mean decrease of the logarithm of the squared residual is compared with that of all halves of the log. It must
also be above 0.

Both null distributions come from the log itself (`NullDistribution`), so that events such as stops belong to them.

Changes are signals that change from a date on, such as a sensor that was replaced: a test whether one law holds in all
steps. One linear model of a step is fitted to all steps, and one to deviations from the means of each piece of the
log. If one law holds, these figures of a piece do not depend on its date: the mean residual of the second model, the
size of the residuals, and the products of residuals and features, whose sums are zero at the fit. The statistic is the
largest standardised rank sum over all dates and figures. Each rank sum is divided by its long-run standard deviation,
because neighbouring pieces may correlate. Its null distribution follows from permutations of the pieces.

A change at a date at which an action or an exogenous signal changes too is a note: another operation changes both.

Source: Zeileis and Hornik 2007, "Generalized M-fluctuation tests for parameter instability", section 3; Romano and
Tirlea 2022, "Permutation testing for dependence in time series", section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress, pairwise
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int
from scipy.ndimage import maximum_filter1d
from scipy.stats import rankdata

from worldline.data.checks import Finding, FindingKind, Place, Severity, warning
from worldline.data.quality.false_alarms import LEVEL, MAXIMA, MEANS, LogTest, part_of
from worldline.data.quality.segments import Segment, component_names, names_of
from worldline.data.quality.transition_model import LAGS, ComponentName, TransitionModel, step_tables
from worldline.formatting import first_of, plural
from worldline.schema import Role, Schema
from worldline.stats import Floats

PART: Final = 35
"""Steps of the parts of a log whose largest jumps are compared."""
STILL: Final = 0.25
"""Share of the components that need not jump at a seam."""
MIN_JUMP: Final = 0.3
"""Smallest mean jump at a seam, in standard deviations of the components. Other events may be smaller."""
MAX_WRONG: Final = 0.3
"""Expected number of places that are wrongly named as seams if there are seams."""
BLOCK, MIN_BLOCKS = 5, 4
"""Steps of a block, and blocks of a half."""
MIN_GAIN: Final = 0.2
"""Smallest mean decrease by shifted actions; smaller ones occur where actions hardly matter."""
MIN_CERTAINTY: Final = 1.5
"""Smallest ratio of the mean decrease by shifted actions to its standard error over blocks."""
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


def inconsistencies(tracks: Sequence[Segment], schema: Schema) -> tuple[Finding, ...]:
    """Signals that change from a date on, episodes that seem to be joined, and parts with shifted actions; warnings.

    Args:
        tracks: segments of one schema, at most one per episode.
        schema: of the log.
    """
    names, tables = step_tables(tracks, schema)
    if not names:
        return ()
    model = TransitionModel(tables)
    shifted = shifted_parts(tables, model).findings()
    # The effects of actions in the wrong row look like jumps.
    late = {place.episode for finding in shifted for place in finding.places}
    joined = joins([table for table in tables if table.number not in late], model).findings()
    return (*changes(tables, names, schema).findings(), *joined, *shifted)


def joins(tables: Sequence[Segment], model: TransitionModel) -> LogTest:
    """Rows in which nearly all observations jump at once.

    The statistic [steps] is the size of the jump of each step; 0 if it is no seam.

    Args:
        tables: of the log, by episode.
        model: of the log.
    """
    maxima, jumps, steps = list[float](), list[Floats](), list[tuple[Segment, int]]()
    # The jump of a step is one that nearly all components exceed. The largest of each part give the limit.
    for table in tables:
        residual = np.abs(model.residual(table))
        at = int(STILL * (residual.shape[1] - 1))
        size = np.partition(residual / model.noise, at, axis=1)[:, at]
        maxima += [float(part.max()) for part in np.array_split(size, max(1, len(size) // PART))]
        # A seam is the largest jump among its neighbours, whose predictions use the same rows.
        size = np.where(residual.mean(1) >= MIN_JUMP, size, 0.0)
        jumps.append(np.where(size == maximum_filter1d(size, 2 * LAGS + 1), size, 0.0))
        steps += [(table, table.start + LAGS + step) for step in range(len(size))]
    largest = np.array(maxima)
    # Infinite without a seam; else so low that hardly one of the named seams is expected to be none.
    has_seams = np.isfinite(MAXIMA.limit(largest))
    limit = MAXIMA.exceeded_by(MAX_WRONG / len(largest), largest) if has_seams else np.inf

    def sentences(places: Int[np.ndarray, "k 1"]) -> Iterator[Finding]:
        seams = [Place(episode=steps[at][0].number, start=steps[at][1]) for at in places[:, 0]]
        episodes = list(dict.fromkeys(str(seam.episode) for seam in seams))
        rows = "" if len(seams) == len(episodes) else f", in {len(seams)} rows"
        where = f"{plural(len(episodes), 'episode')} ({first_of(episodes)}){rows}"
        yield warning(
            problem=f"all observations jump at once in {where}",
            fix="Two recordings may have been joined, or rows are missing. Split them there.",
            episode=seams[0].episode,
            step=seams[0].start,
            kind=FindingKind.JOINED,
            places=tuple(seams),
        )

    return LogTest(np.concatenate([[], *jumps]), limit, sentences)


def shifted_parts(tables: Sequence[Segment], model: TransitionModel) -> LogTest:
    """Halves of episodes in which the actions fit better one row earlier or later.

    The statistic [halves] is the mean decrease of the squared residuals' logarithm by each shift in each half. The
    limit is the larger of what the log itself explains and what matters.

    Args:
        tables: of the log, by episode.
        model: of the log.
    """
    gains, halves = list[float](), list[tuple[bool, int, Place]]()
    for table in tables:
        fit = {shift: model.surprise(table, shift).sum(1) for shift in (0, -1, 1)}
        for shift in (-1, 1):
            parts = np.array_split(fit[0] - fit[shift], 2)
            for half, first in zip(parts, (0, len(parts[0])), strict=True):
                if len(half) >= MIN_BLOCKS * BLOCK:
                    place = Place(episode=table.number, start=table.start + LAGS - 1 + first)
                    gains.append(float(half.mean()))
                    halves.append((_is_steady(half), shift, place))

    def sentences(places: Int[np.ndarray, "k 1"]) -> Iterator[Finding]:
        steady = [at for at in places[:, 0] if halves[at][0]]
        ranked = [halves[at][1:] for at in sorted(steady, key=gains.__getitem__)]
        if not ranked:
            return
        best, (shift, clearest) = {place.episode: place for _, place in ranked}, ranked[-1]
        parts = tuple(best[episode] for episode in sorted(best))
        where = f"in {plural(len(parts), 'episode')} ({first_of([str(place.episode) for place in parts])})"
        yield warning(
            problem=f"the actions of a part fit better if taken one row {'later' if shift > 0 else 'earlier'}, "
            f"{where}; the clearest is episode {clearest.episode}",
            fix="Actions may be shifted there. Compare their times with the original, or leave these episodes out.",
            episode=clearest.episode,
            step=clearest.start,
            kind=FindingKind.SHIFTED,
            places=parts,
        )

    return LogTest(np.array(gains), max(MIN_GAIN, MEANS.limit(np.array(gains))), sentences)


def _is_steady(gain: Floats) -> bool:
    """Whether the mean gain of the steps of a half is certain over its blocks."""
    blocks = np.array([part.mean() for part in np.array_split(gain, len(gain) // BLOCK)])
    return bool(blocks.mean() > MIN_CERTAINTY * blocks.std(ddof=1) / np.sqrt(len(blocks)))


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
