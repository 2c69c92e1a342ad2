"""What the results of a world show: one signal over steps or candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldline.schema import Kind, Signal


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultSeries:
    """One signal of a result.

    Args:
        signal: gives name, unit and components.
        values: [rows, *shape].
        others: further curves by name, such as "low", "high" and "logged", each [rows, *shape].
        samples: sampled paths [S, rows, *shape]; None for none.
        first: step of the first row.
        drawn: as a line through moments, as values that hold during a step, or as points.
        heading: of the group of signals in a plot.
        logarithmic: whether a plot has a logarithmic axis, for p-values.
    """

    signal: Signal
    values: NDArray[np.generic]
    others: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    samples: NDArray[np.generic] | None = None
    first: int = 0
    drawn: Literal["line", "held", "points"] = "line"
    heading: str = ""
    logarithmic: bool = False

    @property
    def names(self) -> list[str]:
        """A name for each component, as columns of a log have it: `speed`, or `position.x` and `position.y`."""
        signal = self.signal
        if signal.size == 1 or signal.kind is Kind.DISCRETE:
            return [signal.name]
        return [f"{signal.name}.{part}" for part in signal.components or range(signal.size)]


def columns(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values [rows, *shape] as a table [rows, components]."""
    return values.reshape(len(values), math.prod(values.shape[1:]))
