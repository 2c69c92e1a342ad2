"""Readout accuracy of a learned world on real images. Signals that it cannot read are not graded.

The world's own readout is evaluated on held-out images, for the present only. No readout is fitted and no prediction
is used, so that perception errors do not affect the grades of the dynamics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from worldline.data import Store
from worldline.engines import LearnedEngine
from worldline.episode import Episode, History
from worldline.models import Belief
from worldline.schema import Signal
from worldline.workflows import Learned
from worldline_exam.scenes.pixels_only import without_vectors

MIN_R2: Final = 0.9
"""A signal with a smaller R^2 is unreadable."""
MAX_EPISODES: Final = 48
"""Limit on evaluated episodes."""
MOMENTS_PER_EPISODE: Final = 5
MIN_FRAMES: Final = 4
"""Smallest number of frames in the history: the smallest in any test. A single frame does not show velocities."""

Floats = NDArray[np.floating]


def readings(store: Store, learned: Learned, signals: Sequence[str]) -> dict[str, float]:
    """R^2 of each signal that the world reads from images of the present; see `read_from`.

    Args:
        store: logs with images and vectors.
        learned: training result on these logs; its held-out and calibration episodes are evaluated.
        signals: names of vector signals; may be empty.
    """
    numbers = (*learned.split.held_out, *learned.split.calibration)[:MAX_EPISODES] if signals else ()
    if not isinstance(learned.engine, LearnedEngine):
        return dict.fromkeys(signals, -np.inf)
    return read_from([store.episode(number) for number in numbers], learned.engine, signals)


def read_from(episodes: Sequence[Episode], engine: LearnedEngine, signals: Sequence[str]) -> dict[str, float]:
    """R^2 of each signal, 1 - squared error / squared deviation, averaged over its components that vary.

    Args:
        episodes: logged episodes with images and the signals.
        engine: engine whose readout of the present is evaluated after a few frames without vectors.
        signals: names of vector signals. One that the engine does not predict, or that is constant, gets -inf.
    """
    length = max(engine.describe().context, MIN_FRAMES)
    places = [
        (log, int(at))
        for log in episodes
        if log.num_steps >= length
        for at in np.unique(np.linspace(length - 1, log.num_steps, MOMENTS_PER_EPISODE).astype(int))
    ]
    predicted = set(engine.describe().predicts)
    if not places or not predicted.intersection(signals):
        return dict.fromkeys(signals, -np.inf)
    history = without_vectors(History.stack([log.history(at, length) for log, at in places]), engine.schema)
    belief = engine.observe(None, history, seed=0)
    assert isinstance(belief, Belief)  # the belief type of learned engines
    with torch.no_grad():
        read = {name: value.cpu().double().numpy() for name, value in engine.readout(belief.features().mean(1)).items()}
    share = {}
    for name in signals:
        rows = [n for n, (log, at) in enumerate(places) if name not in log.observed or log.observed[name][at]]
        truth = np.array([places[n][0].observations[name][places[n][1]] for n in rows], dtype=float)
        share[name] = explained(engine.schema[name], truth, read[name][rows]) if name in predicted and rows else -np.inf
    return share


def explained(signal: Signal, truth: Floats, read: Floats) -> float:
    """R^2 of `read` [n, *shape], averaged over the components that vary; -inf if none varies."""
    spread = ((truth - truth.mean(0)) ** 2).sum(0).ravel()
    error = (signal.difference(read, truth) ** 2).sum(0).ravel()
    varies = spread > 1e-12 * len(truth)
    return float((1 - error[varies] / spread[varies]).mean()) if varies.any() else -np.inf


def unread(reads: Mapping[str, float], signals: Sequence[str]) -> str:
    """Why a world of images is not queried about these signals; empty if it can read all.

    Args:
        reads: R^2 by signal, from `readings`.
        signals: signals that the test queries.
    """
    unreadable = [name for name in signals if not reads.get(name, -np.inf) >= MIN_R2]
    if not unreadable:
        return ""
    named = ", ".join(
        f"{name} {reads[name]:.2f}" if np.isfinite(reads.get(name, -np.inf)) else name for name in unreadable
    )
    return (
        f"the world cannot read these signals from real images (R^2 below {MIN_R2}): {named}. "
        "Use a model with memory of earlier frames, or train it longer."
    )
