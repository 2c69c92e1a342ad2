"""Logs of the lettuce greenhouse for benchmarks: random climates and crops under the weather of a year, three policies.

The recipe and the environment are in `examples/greenhouse_plant.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.progress import OnProgress, tell
from worldline.schema import Role

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from greenhouse_plant import (
    BLOCK_DAYS,
    EPISODE_DAYS,
    FIRST_DAY,
    MAX_CONTROLS,
    NUM_STEPS,
    PARTS,
    SCHEMA,
    Floats,
    Greenhouse,
    columns,
    interlocked,
    make_greenhouse,
    random_state,
)

NUM_BLOCKS: Final = 53
"""Number of blocks in the weather data, which end on 29 November. An episode lies within one block."""
MAX_HOLD: Final = 24
"""Largest number of steps without a change of a control: half a day."""


def record_greenhouse(
    destination: Path | str,
    *,
    num_episodes: int,
    seed: int,
    changed: Mapping[str, float] | None = None,
    progress: OnProgress | None = None,
) -> Store:
    """A new store with episodes of five days in steps of half an hour, spread evenly over the year's weather.

    Each episode uses one of three policies: a random walk of levels, random jumps, or a grower's rules with random
    setpoints and interventions. Episodes begin at any hour, with any climate, and with any crop from seedling to beyond
    harvest. Their source holds `start_day` (day of the year, 1.0 is 1 January, 0:00) and `policy`. They have no seed,
    because a reset of the environment does not reproduce them.

    Args:
        destination: a new folder.
        num_episodes: at least 1. The first 8 cover every part of `greenhouse_split` in the right proportion.
        seed: determines all draws. An episode depends on the seed and its number only.
        changed: as in `make_greenhouse`.
        progress: called after each recorded episode.

    Raises:
        MissingExtraError: lettuce-greenhouse-gym is not installed.
        InputError: `num_episodes` is not positive, or the destination exists.
    """
    if num_episodes < 1:
        raise InputError(f"num_episodes is {num_episodes}. It must be at least 1.")
    env = make_greenhouse(changed)
    store = Store.create(destination, SCHEMA)
    for number in range(num_episodes):
        generator = np.random.default_rng([seed, number])
        start_day = _start_day(seed, number) + generator.uniform(0, BLOCK_DAYS - EPISODE_DAYS)
        name, policy = list(_POLICIES.items())[int(generator.integers(len(_POLICIES)))]
        episode = _run(env, policy(env, generator), start_day, generator)
        store.append(episode, {"number": number, "start_day": start_day, "policy": name})
        tell(progress, "record", number + 1, num_episodes)
    return store


def _start_day(seed: int, number: int) -> float:
    """First day of an episode's block: parts in turn, and the blocks of a part in random order."""
    turn, part = divmod(number, len(PARTS))
    blocks = np.random.default_rng([seed, part, len(PARTS)]).permutation(np.arange(part, NUM_BLOCKS, len(PARTS)))
    return FIRST_DAY + BLOCK_DAYS * float(blocks[turn % len(blocks)])


def _run(
    env: Greenhouse, policy: Callable[[Floats], Floats], start_day: float, generator: np.random.Generator
) -> Episode:
    """An episode from a random state; `policy` maps the observation to physical controls [3]."""
    env.reset(seed=0, options={"start_day": start_day})
    raw = [env.restore(replace(env.snapshot(), x=random_state(generator)))]
    controls = []
    for _ in range(NUM_STEPS):
        requested = interlocked(np.clip(policy(raw[-1]), 0, MAX_CONTROLS), air_temperature=float(raw[-1][2]))
        raw.append(env.step(env.encode_control(requested))[0])
        controls.append(env.control)
    layout = dict(env.observation_layout)
    observations, weather = np.array(raw)[:, layout["observables"]], np.array(raw)[:-1, layout["weather"]]
    return Episode(
        observations=columns(observations, Role.OBSERVATION),
        actions=columns(np.array(controls), Role.ACTION),
        exogenous=columns(weather, Role.EXOGENOUS),  # the observation before step t holds the weather during step t
        truncated=True,
    )


class _Holds:
    """Draws how long each of the three controls is held before it may change."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator, self._left = generator, np.zeros(3, int)

    def expired(self) -> NDArray[np.bool_]:
        over = self._left <= 0
        self._left = np.where(over, self._generator.integers(1, MAX_HOLD + 1, 3), self._left) - 1
        return over


def _any_level(generator: np.random.Generator) -> Floats:
    """Random controls [3]: sometimes off or full, otherwise small values more often than large ones."""
    share = generator.random(3) ** np.array([2.0, 2.0, 1.0])  # vents and CO2 valve are mostly nearly closed
    ends = generator.random(3) < 0.2
    return np.asarray(np.where(ends, generator.integers(0, 2, 3), share) * MAX_CONTROLS)


def _wandering(_: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    level, holds = _any_level(generator), _Holds(generator)

    def act(_: Floats) -> Floats:
        nonlocal level
        step = level + generator.normal(0, 0.2, 3) * MAX_CONTROLS
        reflected = MAX_CONTROLS - np.abs(MAX_CONTROLS - np.abs(step))
        level = np.where(holds.expired(), reflected, level)
        return level

    return act


def _jumping(_: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    level, holds = _any_level(generator), _Holds(generator)

    def act(_: Floats) -> Floats:
        nonlocal level
        level = np.where(holds.expired(), _any_level(generator), level)
        return level

    return act


def _growing(env: Greenhouse, generator: np.random.Generator) -> Callable[[Floats], Floats]:
    from lettuce_greenhouse_gym.baselines.heuristic import GrowerHeuristic, GrowerRules

    draw = generator.uniform
    night = draw(6, 18)
    rules = GrowerRules(temp_day=night + draw(0, 8), temp_night=night, rh_max=draw(65, 95), co2_target=draw(400, 1500))
    grower = GrowerHeuristic(rules)
    grower.reset(env)
    holds, randomized, level = _Holds(generator), np.zeros(3, bool), np.zeros(3)

    def act(observation: Floats) -> Floats:
        nonlocal randomized, level
        change = holds.expired()
        randomized = np.where(change, generator.random(3) < 0.25, randomized)
        level = np.where(change, _any_level(generator), level)
        noise = generator.normal(0, 0.05, 3) * MAX_CONTROLS
        return np.where(randomized, level, grower.control(observation.astype(np.float32), env) + noise)

    return act


_POLICIES: Final[dict[str, Callable[[Any, np.random.Generator], Callable[[Floats], Floats]]]] = {
    "wandering": _wandering,
    "jumping": _jumping,
    "grower": _growing,
}
