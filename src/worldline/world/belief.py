"""The belief of a world, from which it predicts and plans without encoding the past again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import EngineBelief
from worldline.episode import Arrays, History
from worldline.world.ood import StepErrors


@dataclass(frozen=True, kw_only=True, eq=False)
class WorldBelief:
    """The belief of W worlds after a history; made by `LocalWorld.encode` and `LocalWorld.update`.

    Args:
        single: whether the history had no W axis, so results have none either.
        belief: of the engine.
        trust: p-value [W] of the history; NaN without a calibration.
        values: per signal its last known value, as in `Rollout.present`.
        num_tested: [W], number of observations at the end of the history that trust tests.
        errors: one-step errors of the last steps; None if there are none.
        p_value: of the last step, as in `Surprise.steps`; None if it is not evidence.
        num_observed: number of observations since the history began.
        excess: [W, C], of the last observations, at most `Card.context`, over the logged range; see `history_excess`.
    """

    single: bool
    belief: EngineBelief
    trust: NDArray[np.floating]
    values: Arrays
    num_tested: NDArray[np.integer]
    errors: StepErrors | None
    p_value: float | None
    num_observed: int
    excess: NDArray[np.floating]

    @property
    def num_worlds(self) -> int:
        """W."""
        return len(self.trust)

    @property
    def leading(self) -> tuple[int, ...]:
        """The leading axes of arguments and results: () or (W,)."""
        return () if self.single else (self.num_worlds,)

    @property
    def shown_trust(self) -> float | NDArray[np.floating]:
        """The trust as in results."""
        return float(self.trust[0]) if self.single else self.trust


def values_of(history: History) -> Arrays:
    """The last known values of W worlds, as in `Rollout.present`."""
    values = dict[str, NDArray[np.generic]]()
    for name, value in {**history.observations, **history.actions, **history.exogenous}.items():
        if not value.shape[1]:
            continue
        seen = history.observed[name][:, -1] if name in history.observed else np.ones(len(value), bool)
        if seen.all():
            values[name] = value[:, -1]
        elif np.issubdtype(value.dtype, np.floating):
            values[name] = np.where(seen[:, None], value[:, -1], np.nan)
    return values
