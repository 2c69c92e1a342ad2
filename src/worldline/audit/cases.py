"""Windows cut from held-out episodes, and what a world says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History
from worldline.errors import InputError
from worldline.world.base import Forecast, World

BATCH: Final = 64
"""Windows asked of a world at once; bounds memory, changes no figure."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """W windows of H observations and T steps to come.

    Args:
        history: arrays [W, H, *shape].
        actions: per signal [W, T, *shape].
        exogenous: per signal [W, T, *shape].
        truth: per observation signal [W, T, *shape].
        known: per observation signal [W, T] bool; False where it was not observed.
        episode: [W], from 0.
    """

    history: History
    actions: Arrays
    exogenous: Arrays
    truth: Arrays
    known: Mapping[str, NDArray[np.bool_]]
    episode: NDArray[np.integer]


def cut(episodes: Sequence[Episode], *, context: int, horizon: int, per_episode: int) -> Cases:
    """Windows spread evenly over each episode that is long enough.

    Args:
        episodes: whole ones.
        context: H, at least 1.
        horizon: T, at least 1.
        per_episode: at least 1.

    Raises:
        InputError: fewer than two episodes are long enough, or a count is below 1.
    """
    if min(context, horizon, per_episode) < 1:
        raise InputError(f"context {context}, horizon {horizon}, per_episode {per_episode}: each must be at least 1.")
    long = [episode for episode in episodes if episode.num_steps >= context - 1 + horizon]
    if len(long) < 2:
        needed = context + horizon
        raise InputError(f"{len(long)} of {len(episodes)} episodes have {needed} observations; intervals need two.")
    places = [(e, at) for e, one in enumerate(long) for at in spread(one.num_steps, context, horizon, per_episode)]
    histories = [long[e].history(at, context) for e, at in places]
    futures = [(long[e], slice(at, at + horizon), slice(at + 1, at + 1 + horizon)) for e, at in places]
    truth = _stack([{k: v[after] for k, v in one.observations.items()} for one, _, after in futures])
    observed = _masks([{k: v[after] for k, v in one.observed.items()} for one, _, after in futures], horizon)
    return Cases(
        history=History(
            observations=_stack([h.observations for h in histories]),
            actions=_stack([h.actions for h in histories]),
            exogenous=_stack([h.exogenous for h in histories]),
            observed=_masks([h.observed for h in histories], context),
        ),
        actions=_stack([{k: v[during] for k, v in one.actions.items()} for one, during, _ in futures]),
        exogenous=_stack([{k: v[during] for k, v in one.exogenous.items()} for one, during, _ in futures]),
        truth=truth,
        known={k: observed.get(k, np.ones(v.shape[:2])).astype(bool) for k, v in truth.items()},
        episode=np.array([e for e, _ in places]),
    )


def spread(num_steps: int, context: int, horizon: int, count: int) -> list[int]:
    """Up to `count` indices of a present with `context` observations up to it and `horizon` steps to come.

    Args:
        num_steps: of the episode, at least `context - 1 + horizon`.
        context: H, at least 1.
        horizon: T, at least 1.
        count: at least 1; evenly spread over the episode.
    """
    return sorted(set(np.linspace(context - 1, num_steps - horizon, count).round().astype(int).tolist()))


def _stack(parts: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    """Per signal, the parts along a new first axis."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _masks(parts: Sequence[Arrays], length: int) -> dict[str, NDArray[np.generic]]:
    """Per signal that any part has a mask of, the masks along a new first axis; a part without one is all observed."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.stack([part.get(name, np.ones(length, np.bool_)) for part in parts]) for name in names}


def forecasts(world: World, cases: Cases, actions: Arrays, *, level: float) -> dict[str, Forecast]:
    """What `world` says of every window, per predicted vector signal; arrays lead with W.

    Args:
        world: asked in batches.
        cases: the histories and exogenous inputs.
        actions: per signal [W, T, *shape].
        level: of the joint band.
    """
    found: dict[str, list[Forecast]] = {}
    for first in range(0, len(cases.episode), BATCH):
        rows, past = slice(first, first + BATCH), cases.history
        history = History(
            observations={k: v[rows] for k, v in past.observations.items()},
            actions={k: v[rows] for k, v in past.actions.items()},
            exogenous={k: v[rows] for k, v in past.exogenous.items()},
            observed={k: v[rows] for k, v in past.observed.items()},
        )
        inputs = {k: v[rows] for k, v in actions.items()}
        exogenous = {k: v[rows] for k, v in cases.exogenous.items()} or None
        prediction = world.predict(history, inputs, exogenous=exogenous, level=level)
        for name, forecast in prediction.signals.items():
            if forecast.mean.ndim == 3:
                found.setdefault(name, []).append(forecast)
    return {name: joined(parts) for name, parts in found.items()}


def joined(parts: Sequence[Forecast]) -> Forecast:
    """The batches one after the other; no band where any of them has none."""
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    banded = len(lows) == len(highs) == len(parts)
    return Forecast(
        mean=np.concatenate([part.mean for part in parts]),
        low=np.concatenate(lows) if banded else None,
        high=np.concatenate(highs) if banded else None,
        horizon=np.concatenate([np.atleast_1d(part.horizon) for part in parts]),
    )
