"""Sampled paths with a calibrated spread: predictions plus the residuals of whole calibration windows.

Source: Vovk, Petej, Nouretdinov, Manokhin, Gammerman 2020, "Computationally efficient versions of conformal predictive
distributions" (Neurocomputing 397), the split conformal system, with whole paths in the place of numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline.errors import UnsupportedError
from worldline.schema import Schema

Floats = NDArray[np.floating]

MAX_PATHS: Final = 512
"""Largest number of stored residual paths; bounds the size of a bundle."""


def residual_paths(error: Floats, known: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Residuals [P, T, *shape] of evenly spaced windows [W, T, *shape]; float32, because only draws need them.

    A value that is not `known` [W, T] is drawn from the windows that know this step; 0 if none does.
    """
    filled = error.astype(np.float32)
    for step, (values, there) in enumerate(zip(error.swapaxes(0, 1), known.T, strict=True)):
        if there.any():
            filled[~there, step] = rng.choice(values[there], (~there).sum())
    kept = np.linspace(0, len(filled) - 1, min(MAX_PATHS, len(filled))).round().astype(int)
    return np.asarray(filled[kept])


def sample_paths(
    residuals: Mapping[str, Floats], schema: Schema, means: Arrays, num_samples: int, *, horizon: int, seed: int
) -> dict[str, Floats]:
    """Paths [W, S, T, *shape] around predictions: each mean plus the residuals of one window.

    The errors of a path are correlated over steps, components and signals, as in the calibration data. The share of
    paths inside a band is its level, up to 1 / (K + 1) for K episodes. Windows are drawn without replacement, as long
    as there are enough. All W worlds share the draws.

    Args:
        residuals: per predicted vector signal [P, horizon, *shape], observed minus predicted; empty for none.
        schema: of the signals.
        means: per predicted vector signal [W, T, *shape].
        num_samples: S, at least 1.
        horizon: calibrated horizon.
        seed: of the draws.

    Raises:
        UnsupportedError: there are no residuals, or T exceeds `horizon`.
    """
    if not residuals:
        raise UnsupportedError(
            "sampled paths need the residuals of a calibration, and this one holds none. Calibrate or learn again."
        )
    num_paths, num_steps = len(next(iter(residuals.values()))), next(iter(means.values())).shape[1]
    if num_steps > horizon:
        raise UnsupportedError(
            f"sampled paths are calibrated up to {horizon} steps, got {num_steps}. Predict fewer steps, or calibrate "
            f"with horizon={num_steps}."
        )
    # Whole windows are drawn, for all signals together, so that errors stay correlated.
    rng, rounds = np.random.default_rng(seed), -(-num_samples // num_paths)
    rows = np.concatenate([rng.permutation(num_paths) for _ in range(rounds)])[:num_samples]
    return {
        name: schema[name].wrapped(mean[:, None].astype(np.float64) + residuals[name][rows, :num_steps])
        for name, mean in means.items()
    }
