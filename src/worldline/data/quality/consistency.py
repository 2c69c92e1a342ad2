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

from collections.abc import Sequence
from operator import itemgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.checks import Finding, FindingKind, Place, warning
from worldline.data.quality.changes import changes
from worldline.data.quality.false_alarms import MAXIMA, MEANS
from worldline.data.quality.segments import Segment
from worldline.data.quality.transition_model import LAGS, StepTable, TransitionModel, step_tables
from worldline.formatting import first_of, plural
from worldline.schema import Schema

Floats = NDArray[np.floating]

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
    shifted = _shifted_actions(tables, model)
    # The effects of actions in the wrong row look like jumps.
    late = {place.episode for finding in shifted for place in finding.places}
    joined = _joins([finding for finding in tables if finding.number not in late], model)
    return (*changes(tables, names, schema), *joined, *shifted)


def _joins(tables: Sequence[StepTable], model: TransitionModel) -> list[Finding]:
    """A warning if nearly all observations jump at once in some rows."""
    # The jump of a step is one that nearly all components exceed. The largest of each part give the null distribution.
    sizes, largest = list[Floats](), list[float]()
    for table in tables:
        residual = np.abs(model.residual(table))
        at = int(STILL * (residual.shape[1] - 1))
        size = np.partition(residual / model.noise, at, axis=1)[:, at]
        largest += [float(part.max()) for part in np.array_split(size, max(1, len(size) // PART))]
        sizes.append(np.where(residual.mean(1) >= MIN_JUMP, size, 0.0))
    if not np.isfinite(MAXIMA.limit(np.array(largest))):
        return []
    # There are seams. More of them are named as long as hardly one of these places is expected to be none.
    least = MAXIMA.exceeded_by(MAX_WRONG / len(largest), np.array(largest))
    places = [
        Place(episode=table.number, start=table.start + LAGS + step)
        for table, size in zip(tables, sizes, strict=True)
        for step in _peaks(size, least)
    ]
    if not places:
        return []
    episodes = dict.fromkeys(str(place.episode) for place in places)
    rows = "" if len(places) == len(episodes) else f", in {len(places)} rows"
    return [
        warning(
            problem=f"all observations jump at once in {plural(len(episodes), 'episode')} "
            f"({first_of(list(episodes))}){rows}",
            fix="Two recordings may have been joined, or rows are missing. Split them there.",
            episode=places[0].episode,
            step=places[0].start,
            kind=FindingKind.JOINED,
            places=tuple(places),
        )
    ]


def _peaks(size: Floats, least: float) -> list[int]:
    """The steps above a limit that are the largest among their neighbours, whose predictions use the same rows."""
    steps = np.flatnonzero(size > least)
    return [int(at) for at in steps if size[at] == size[max(0, at - LAGS) : at + LAGS + 1].max()]


def _shifted_actions(tables: Sequence[StepTable], model: TransitionModel) -> list[Finding]:
    """A warning about the episodes in a half of which the actions fit better one row earlier or later."""
    # The gain of each half and shift; `better` holds those whose gain is steady over blocks of steps.
    gains, better = list[float](), list[tuple[float, int, Place]]()
    for table in tables:
        fit = {shift: model.surprise(table, shift).sum(1) for shift in (0, -1, 1)}
        for shift in (-1, 1):
            halves = np.array_split(fit[0] - fit[shift], 2)
            for half, first in zip(halves, (0, len(halves[0])), strict=True):
                if len(half) < MIN_BLOCKS * BLOCK:
                    continue
                blocks = np.array([part.mean() for part in np.array_split(half, len(half) // BLOCK)])
                gains.append(float(half.mean()))
                if blocks.mean() > MIN_CERTAINTY * blocks.std(ddof=1) / np.sqrt(len(blocks)):
                    better.append((gains[-1], shift, Place(episode=table.number, start=table.start + LAGS - 1 + first)))
    # A gain counts if it is larger than those that the log itself explains.
    least = max(MIN_GAIN, MEANS.limit(np.array(gains)))
    # The better half and shift of each episode.
    best = {half[2].episode: half for half in sorted(better, key=itemgetter(0)) if half[0] > least}
    if not best:
        return []
    _, shift, clearest = max(best.values(), key=itemgetter(0))
    places = tuple(best[episode][2] for episode in sorted(best))
    where = f"in {plural(len(best), 'episode')} ({first_of([str(place.episode) for place in places])})"
    return [
        warning(
            problem=f"the actions of a part fit better if taken one row {'later' if shift > 0 else 'earlier'}, "
            f"{where}; the clearest is episode {clearest.episode}",
            fix="Actions may be shifted there. Compare their times with the original, or leave these episodes out.",
            episode=clearest.episode,
            step=clearest.start,
            kind=FindingKind.SHIFTED,
            places=places,
        )
    ]
