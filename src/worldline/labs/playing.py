"""Runs of labs: with the explorer or with given actions. A seed fixes hidden causes and noise.

Signals that a lab hides (`Hides`) are masked as not observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode, History
from worldline.labs.base import Hides, Lab
from worldline.schema import Signal


def explore(lab: Lab, seed: int, num_steps: int) -> Episode:
    """Runs the lab's explorer for one episode; `seed` also seeds the explorer.

    Args:
        lab: the lab; this function resets it.
        seed: at least 0.
        num_steps: T, at least 1; the episode is shorter if the lab ends it.
    """
    policy, rng = lab.explorer(), np.random.default_rng([1, seed])
    observation = lab.reset(seed=seed)[0]
    policy.reset(rng)
    observations, actions = [observation], []
    for _ in range(num_steps):
        actions.append(policy.act(observation, rng))
        observation, _, terminated, truncated, _ = lab.step(actions[-1])
        observations.append(observation)
        if terminated or truncated:
            break
    return _episode(lab, observations, _stack(lab.schema.actions, actions), seed)


def replay(lab: Lab, seed: int, actions: Arrays, options: Mapping[str, Any] | None = None) -> Episode:
    """Runs the lab with this seed and these actions: the twin of every other episode with the same seed.

    Args:
        lab: the lab; this function resets it.
        seed: of hidden causes, initial state and noise.
        actions: per action signal [T, *shape].
        options: of `reset`; they replace draws of the seed. The episode then stores no seed, because the seed alone
            does not reproduce it.

    Raises:
        UnknownNameError: the lab has no action of this name.
        InputError: an action is missing or does not fit.
        ValueError: the actions have different lengths.
    """
    observations = [lab.reset(seed=seed, options=dict(options or {}))[0]]
    for step in zip(*actions.values(), strict=True):
        observations.append(lab.step(dict(zip(actions, step, strict=True)))[0])
    return _episode(lab, observations, actions, None if options else seed)


def stacked(episodes: list[Episode]) -> Episode:
    """Stacks episodes of equal length into arrays [E, ...]; the seeds are dropped."""
    joined = History.stack([episode.history() for episode in episodes])
    return Episode(
        observations=joined.observations, actions=joined.actions, exogenous=joined.exogenous, observed=joined.observed
    )


def _stack(signals: Sequence[Signal], steps: Sequence[Mapping[str, Any]]) -> Arrays:
    return {s.name: np.stack([np.asarray(step[s.name], s.dtype) for step in steps]) for s in signals}


def _episode(lab: Lab, observations: Sequence[Mapping[str, Any]], actions: Arrays, seed: int | None) -> Episode:
    return Episode(
        observations=_stack(lab.schema.observations, observations),
        actions=dict(actions),
        observed=seen_in(lab, observations),
        seed=seed,
    )


def seen_in(lab: Any, observations: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.bool_]]:
    """Returns an observation mask for each signal that the lab can hide; empty for other environments.

    Args:
        lab: a lab or any other environment.
        observations: as `reset` and `step` returned them.
    """
    if not isinstance(lab, Hides):
        return {}
    masks = [lab.seen(observation) for observation in observations]
    return {name: np.array([bool(mask[name]) for mask in masks]) for name in masks[0]}
