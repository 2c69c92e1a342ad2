"""Changes of a log at a date, joined episodes and shifted actions: tests on residuals of a linear model of one step.

The model predicts the change in one step from the last observations and inputs, without the steps that it fits worst.

Joined episodes: at the seam nearly all observations jump at once. The size of a jump is a low quantile, over
components, of the residuals in units of their usual size. Jumps are compared with the largest ones in all parts of the
log.

Shifted actions: in each half of an episode, the model predicts with the actions of the row before and of the row after,
too. The mean decrease of the logarithm of the squared residual is compared with that of all halves of the log. It must
also be above 0.

Both null distributions come from the log itself (`NullDistribution`), so that events such as stops belong to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from jaxtyping import Int
from scipy.ndimage import maximum_filter1d

from worldline.data.checks import Finding, FindingKind, Place, warning
from worldline.data.quality.changes import changes
from worldline.data.quality.false_alarms import MAXIMA, MEANS, LogTest
from worldline.data.quality.segments import Segment
from worldline.data.quality.transition_model import LAGS, TransitionModel, step_tables
from worldline.formatting import first_of, plural
from worldline.schema import Schema
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
