"""Episodes of a lab: by its explorer, or under given actions. The same seed has the same hidden causes and noise.

A vector that a lab shows as NaN is one that it hides: it is logged as 0, and not observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.schema import Kind
from worldline.labs.lab import Lab


def explore(lab: Lab, seed: int, num_steps: int) -> Episode:
    """An episode of the lab's explorer, whose own draws come from `seed` as well.

    Args:
        lab: reset by this.
        seed: at least 0.
        num_steps: T, at least 1; fewer where the lab ends the episode.
    """
    policy, rng = lab.explorer(), np.random.default_rng([1, seed])
    observation = lab.reset(seed=seed)[0]
    policy.reset(rng)
    seen, done = [observation], []
    for _ in range(num_steps):
        done.append(policy.act(observation, rng))
        observation, _, terminated, truncated, _ = lab.step(done[-1])
        seen.append(observation)
        if terminated or truncated:
            break
    taken = {s.name: np.stack([np.asarray(action[s.name], s.dtype) for action in done]) for s in lab.schema.actions}
    return _episode(lab, seen, taken, seed)


def replay(lab: Lab, seed: int, actions: Arrays, options: Mapping[str, Any] | None = None) -> Episode:
    """The episode with this seed under these actions: a twin of any other with the seed.

    Args:
        lab: reset by this.
        seed: of its hidden causes, start and noise.
        actions: per action signal [T, *shape].
        options: of `reset`, in the place of what the seed draws.
    """
    seen = [lab.reset(seed=seed, options=dict(options or {}))[0]]
    for step in range(len(next(iter(actions.values())))):
        seen.append(lab.step({name: value[step] for name, value in actions.items()})[0])
    return _episode(lab, seen, actions, seed)


def stacked(episodes: list[Episode]) -> Episode:
    """Episodes of one length as arrays [E, ...], for batches of scenes; the seed is lost."""
    names = list(dict.fromkeys(name for one in episodes for name in one.observed))
    return Episode(
        observations={n: np.stack([one.observations[n] for one in episodes]) for n in episodes[0].observations},
        actions={n: np.stack([one.actions[n] for one in episodes]) for n in episodes[0].actions},
        exogenous={n: np.stack([one.exogenous[n] for one in episodes]) for n in episodes[0].exogenous},
        observed={name: np.stack([_mask(one, name) for one in episodes]) for name in names},
    )


def _mask(episode: Episode, name: str) -> NDArray[np.bool_]:
    return np.asarray(episode.observed.get(name, np.ones(episode.num_steps + 1, bool)), dtype=bool)


def _episode(lab: Lab, seen: list[dict[str, Any]], actions: Arrays, seed: int) -> Episode:
    shown = {s.name: np.stack([np.asarray(one[s.name], s.dtype) for one in seen]) for s in lab.schema.observations}
    vectors = [signal.name for signal in lab.schema.observations if signal.kind is Kind.VECTOR]
    seen_at = {name: np.isfinite(shown[name]).all(-1) for name in vectors}
    gaps = {name: mask for name, mask in seen_at.items() if not mask.all()}
    for name, mask in gaps.items():
        shown[name] = np.where(mask[:, None], shown[name], np.zeros((), shown[name].dtype))
    return Episode(observations=shown, actions=dict(actions), observed=gaps, seed=seed)
