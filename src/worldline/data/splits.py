"""Which episodes are for what. Whole episodes, so that no step is in two parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldline.errors import DataError

SHARE = 0.1
"""Of the episodes, for each part but the training; at least one episode."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Episode numbers, each in one part, ascending.

    Args:
        train: to fit models and heads.
        validation: to watch learning and to choose settings.
        calibration: to calibrate intervals and trust; never used to fit or choose.
        held_out: for the figures that are reported; used once.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]
    held_out: tuple[int, ...]


def split(num_episodes: int, seed: int) -> Split:
    """A random split: a tenth each (at least one) for validation, calibration and held out, the rest to train.

    Args:
        num_episodes: at least 4.
        seed: of the draw.

    Raises:
        DataError: there are fewer than 4 episodes.
    """
    if num_episodes < 4:
        problem = f"{num_episodes} episodes cannot be split into training, validation, calibration and held-out parts"
        raise DataError(problem, fix="Log at least 4 episodes; some 50 give figures that mean something.")
    shuffled = np.random.default_rng(seed).permutation(num_episodes)
    size = max(1, round(SHARE * num_episodes))
    validation, calibration, held_out, train = np.split(shuffled, [size, 2 * size, 3 * size])
    return Split(
        train=tuple(sorted(train.tolist())),
        validation=tuple(sorted(validation.tolist())),
        calibration=tuple(sorted(calibration.tolist())),
        held_out=tuple(sorted(held_out.tolist())),
    )
