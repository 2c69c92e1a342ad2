"""How well a learned world reads signals from real pictures: what it cannot read is not graded, whatever it foretells.

The world's own readout is measured, on pictures that neither the model nor the readout was fitted on. Nothing is fitted
here, and no prediction is looked at: a bad grade for dynamics must not come from bad eyes, nor a good one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worldline.data import Store
from worldline.engines import LearnedEngine
from worldline.episode import Arrays, Episode, History
from worldline.models import Belief
from worldline.schema import Signal
from worldline.workflows import Learned
from worldline_exam.scenes.pixels_only import without_vectors

READABLE: Final = 0.9
"""R^2 below which a signal is unreadable."""
NUM_EPISODES: Final = 48
"""That are looked at, at most."""
NUM_MOMENTS: Final = 5
"""Of each."""
MIN_SHOWN: Final = 4
"""Frames up to the moment that is read, the fewest that a test shows; one alone shows no speed."""

Floats = NDArray[np.floating]


def readings(store: Store, learned: Learned, signals: Sequence[str]) -> dict[str, float]:
    """Of each signal the R^2 of what the world takes it to be now, from pictures alone; see `read_from`.

    Args:
        store: of the logs, which hold pictures and vectors.
        learned: from them. Its episodes that were held out and those for calibration are looked at.
        signals: vector signals; none costs nothing.
    """
    numbers = (*learned.split.held_out, *learned.split.calibration)[:NUM_EPISODES] if signals else ()
    return read_from([store.episode(number) for number in numbers], learned.engine, signals)


def read_from(episodes: Sequence[Episode], engine: LearnedEngine, signals: Sequence[str]) -> dict[str, float]:
    """Per signal 1 - squared error / squared deviation, the mean over its components that vary.

    Args:
        episodes: real ones, with pictures and with the signals.
        engine: that is asked what it takes the present to be, having seen a few frames and no vector.
        signals: vector signals. One that the engine does not tell, or that never varies, gets minus infinity.
    """
    length = max(engine.describe().context, MIN_SHOWN)
    places = [
        (one, int(at))
        for one in episodes
        if one.num_steps >= length
        for at in np.unique(np.linspace(length - 1, one.num_steps, NUM_MOMENTS).astype(int))
    ]
    told = set(engine.describe().predicts)
    if not places or not told.intersection(signals):
        return dict.fromkeys(signals, -np.inf)
    windows = [one.history(at, length) for one, at in places]
    history = without_vectors(
        History(
            observations=_together([one.observations for one in windows]),
            actions=_together([one.actions for one in windows]),
            exogenous=_together([one.exogenous for one in windows]),
            observed=_observed(windows, length),
        ),
        engine.schema,
    )
    belief = engine.observe(None, history, seed=0)
    assert isinstance(belief, Belief)  # what a learned engine gives
    with torch.no_grad():
        read = {name: value.double().numpy() for name, value in engine.readout(belief.features().mean(1)).items()}
    found = {}
    for name in signals:
        rows = [n for n, (one, at) in enumerate(places) if name not in one.observed or one.observed[name][at]]
        truth = np.array([places[n][0].observations[name][places[n][1]] for n in rows], dtype=float)
        found[name] = explained(engine.schema[name], truth, read[name][rows]) if name in told and rows else -np.inf
    return found


def explained(signal: Signal, truth: Floats, read: Floats) -> float:
    """R^2, the mean over the components [n, *shape] that vary; minus infinity where none does."""
    spread = ((truth - truth.mean(0)) ** 2).sum(0).ravel()
    error = (signal.difference(read, truth) ** 2).sum(0).ravel()
    varies = spread > 1e-12 * len(truth)
    return float((1 - error[varies] / spread[varies]).mean()) if varies.any() else -np.inf


def unread(reads: Mapping[str, float], signals: Sequence[str]) -> str:
    """Why a world of pictures is not to be asked about these signals; empty where it is.

    Args:
        reads: see `readings`.
        signals: that are asked about.
    """
    lacking = [name for name in signals if not reads.get(name, -np.inf) >= READABLE]
    if not lacking:
        return ""
    said = ", ".join(f"{name} {reads[name]:.2f}" if np.isfinite(reads.get(name, -np.inf)) else name for name in lacking)
    return (
        f"from real pictures the world does not read {said}: an R^2 of {READABLE} is due in each. "
        "Give it memory of earlier frames, or train it longer."
    )


def _together(parts: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    return {name: np.stack([one[name] for one in parts]) for name in parts[0]}


def _observed(windows: Sequence[History], length: int) -> dict[str, NDArray[np.generic]]:
    names = {name for one in windows for name in one.observed}
    every = np.ones(length, bool)
    return {name: np.stack([one.observed.get(name, every) for one in windows]) for name in names}
