"""Windows cut from held-out episodes, and forecasts of a world for them."""

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
"""Windows per call of a world; bounds memory and changes no figure."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """W windows of H observations and T future steps.

    Args:
        history: arrays [W, H, *shape].
        actions: per signal [W, T, *shape].
        exogenous: per signal [W, T, *shape].
        truth: per observation signal [W, T, *shape].
        known: per observation signal [W, T] bool; False for unobserved steps.
        episode: [W] episode of each window, from 0, sorted.
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
        episodes: complete episodes.
        context: H, at least 1.
        horizon: T, at least 1.
        per_episode: at least 1.

    Raises:
        InputError: fewer than two episodes are long enough, or a count is below 1.
    """
    if min(context, horizon, per_episode) < 1:
        raise InputError(
            f"context, horizon and per_episode must be at least 1, got {context}, {horizon} and {per_episode}."
        )
    long = [episode for episode in episodes if episode.num_steps >= context - 1 + horizon]
    if len(long) < 2:
        needed = context + horizon
        raise InputError(
            f"expected at least two episodes of {needed} observations, got {len(long)} of {len(episodes)}. "
            "Give longer episodes, or shorten context or horizon."
        )
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
    """Up to `count` evenly spread indices of the present, each after `context` observations and before `horizon` steps.

    Args:
        num_steps: steps of the episode, at least `context - 1 + horizon`.
        context: H, at least 1.
        horizon: T, at least 1.
        count: at least 1.
    """
    return sorted(set(np.linspace(context - 1, num_steps - horizon, count).round().astype(int).tolist()))


def _stack(parts: Sequence[Arrays]) -> dict[str, NDArray[np.generic]]:
    """Stacks the parts of each signal along a new first axis."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _masks(parts: Sequence[Arrays], length: int) -> dict[str, NDArray[np.generic]]:
    """Stacks the masks of each signal; a part without a mask counts as fully observed."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.stack([part.get(name, np.ones(length, np.bool_)) for part in parts]) for name in names}


def forecasts(world: World, cases: Cases, actions: Arrays, *, level: float) -> dict[str, Forecast]:
    """Forecasts of each predicted vector signal for all windows; the first axis is W.

    Args:
        world: world to query, in batches.
        cases: windows with histories and exogenous inputs.
        actions: per signal [W, T, *shape].
        level: level of the band.
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
    """Concatenates the batches; no band if any batch has none."""
    lows = [part.low for part in parts if part.low is not None]
    highs = [part.high for part in parts if part.high is not None]
    banded = len(lows) == len(highs) == len(parts)
    return Forecast(
        mean=np.concatenate([part.mean for part in parts]),
        low=np.concatenate(lows) if banded else None,
        high=np.concatenate(highs) if banded else None,
        horizon=np.concatenate([np.atleast_1d(part.horizon) for part in parts]),
    )
