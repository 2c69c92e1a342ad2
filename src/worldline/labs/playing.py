"""Episodes of a lab: by its explorer, or under given actions. The same seed has the same hidden causes and noise.

What a lab hides (`Hides`) is logged as not observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, Episode
from worldline.errors import InputError, UnknownNameError
from worldline.labs.abilities import Hides
from worldline.labs.base import Lab


def explore(lab: Lab, seed: int, num_steps: int) -> Episode:
    """An episode of the lab's explorer, whose own draws come from `seed` as well.

    Args:
        lab: reset by this.
        seed: at least 0.
        num_steps: T, at least 1; fewer where the lab ends the episode.

    Raises:
        InputError: it is less.
    """
    if num_steps < 1:
        raise InputError(f"num_steps is {num_steps}. An episode has at least 1 step.")
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
        options: of `reset`, in the place of what the seed draws. The seed alone then does not lead here, and the
            episode goes without.

    Raises:
        UnknownNameError: the lab does not know an action.
        InputError: one is missing or does not fit, or they are not as long as each other.
    """
    num_steps = _num_steps(lab, actions)
    seen = [lab.reset(seed=seed, options=dict(options or {}))[0]]
    for step in range(num_steps):
        seen.append(lab.step({name: value[step] for name, value in actions.items()})[0])
    return _episode(lab, seen, actions, None if options else seed)


def stacked(episodes: list[Episode]) -> Episode:
    """Episodes of one length as arrays [E, ...], for batches of scenes; the seed is lost."""
    names = list(dict.fromkeys(name for one in episodes for name in one.observed))
    return Episode(
        observations={n: np.stack([one.observations[n] for one in episodes]) for n in episodes[0].observations},
        actions={n: np.stack([one.actions[n] for one in episodes]) for n in episodes[0].actions},
        exogenous={n: np.stack([one.exogenous[n] for one in episodes]) for n in episodes[0].exogenous},
        observed={name: np.stack([_mask(one, name) for one in episodes]) for name in names},
    )


def _num_steps(lab: Lab, actions: Arrays) -> int:
    """How long these actions are, checked."""
    known = [signal.name for signal in lab.schema.actions]
    for name in actions:
        if name not in known:
            raise UnknownNameError("action", name, known)
    if lacks := [name for name in known if name not in actions]:
        raise InputError(f"the actions lack {', '.join(map(repr, lacks))}. Give [T, *shape] of it too.")
    lengths = {name: len(value) if value.ndim else 0 for name, value in actions.items()}
    if len({*lengths.values()}) > 1:
        raise InputError(f"the actions have {lengths} steps. Give as many of each.")
    return next(iter(lengths.values()))


def _mask(episode: Episode, name: str) -> NDArray[np.bool_]:
    return np.asarray(episode.observed.get(name, np.ones(episode.num_steps + 1, bool)), dtype=bool)


def _episode(lab: Lab, seen: list[dict[str, Any]], actions: Arrays, seed: int | None) -> Episode:
    shown = {s.name: np.stack([np.asarray(one[s.name], s.dtype) for one in seen]) for s in lab.schema.observations}
    return Episode(observations=shown, actions=dict(actions), observed=seen_in(lab, seen), seed=seed)


def seen_in(lab: Any, observations: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.bool_]]:
    """Of each signal that the lab hides at times, at which of the observations it was seen; empty for other labs.

    Args:
        lab: or any other environment.
        observations: as it gave them.
    """
    if not isinstance(lab, Hides):
        return {}
    each = [lab.seen(one) for one in observations]
    return {name: np.array([bool(one[name]) for one in each]) for name in each[0]}
