"""Where the actions of an episode begin and cease to be shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.quality.transition_model import LAGS, StepTable, TransitionModel

Floats = NDArray[np.floating]

MIN_EVIDENCE: Final = 8.0
"""Surprise by which a step is certainly inside or outside the part."""


@dataclass(frozen=True, kw_only=True)
class ShiftedPart:
    """The steps of an episode with shifted actions, counted in the episode.

    Args:
        begin: the first of them lies in this range of steps, both included.
        end: the step after the last lies in this range.
    """

    begin: tuple[int, int]
    end: tuple[int, int]


def shifted_part(model: TransitionModel, one: StepTable, lag: int) -> ShiftedPart | None:
    """The part in which actions that are taken `lag` rows later explain the changes; None if none does certainly.

    Args:
        model: of the log.
        one: the table of an episode.
        lag: rows by which the actions of the part are logged too late.
    """
    gain = (model.surprise(one) - model.surprise(one, lag)).sum(1)
    sums = np.insert(np.cumsum(gain), 0, 0.0)
    lowest = np.minimum.accumulate(sums)
    stop = int((sums - lowest).argmax())
    start = int(sums[: stop + 1].argmin())
    if sums[stop] - sums[start] < 2 * MIN_EVIDENCE:
        return None
    starts = np.flatnonzero(sums[:stop] <= sums[start] + MIN_EVIDENCE)
    stops = start + 1 + np.flatnonzero(sums[start + 1 :] >= sums[stop] - MIN_EVIDENCE)
    first = one.start + LAGS - 1
    # Without evidence, the part reaches neither end of the episode: steps that are unclear are left out there, too.
    begin = (0 if starts[0] == 0 else first + int(starts[0]), first + int(starts[-1]) if starts[-1] else 0)
    return ShiftedPart(begin=begin, end=(first + int(stops[0]), first + int(stops[-1])))
