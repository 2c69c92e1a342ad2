"""Records episodes of an environment into a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError, UnknownNameError
from worldline.labs.base import Policy
from worldline.labs.spaces import AnyEnv, SpaceLayout
from worldline.progress import OnProgress, tell
from worldline.registry import load, names
from worldline.schema import Role, Schema
from worldline.workflows.policies import Act, policy_maker
from worldline.workflows.recorder import EpisodeRecord, recorded_schema

AHEAD = 4
"""Episodes per process that are recorded before the first of them is stored; bounds memory."""


def record(
    environment: str | AnyEnv | Callable[[], AnyEnv],
    out: Path | str,
    *,
    policy: Policy | type[Policy] | Act | str | None = None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    num_processes: int = 1,
    schema: Schema | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> Store:
    """Records episodes of an environment into a new store, in the order of their numbers, with their reset seeds.

    An episode depends only on `seed` and its number: not on other episodes or `num_processes`.

    Args:
        environment: name of a lab, Gymnasium id, function that makes an environment, or an environment (not closed).
        out: a new folder.
        policy: "explorer" (of a lab), "random", a function of observation and generator, a policy or a class of
            policies, or "module:name" of one of these. Default: the explorer of a lab, else random.
        num_episodes: at least 1.
        max_steps: an episode is truncated after this number of steps, at least 1.
        seed: of all resets and policies.
        num_processes: processes that record, each with one environment and one policy. Several pay off for
            steps above one millisecond.
        schema: default is the environment's with its reward (the schema of a lab has none); other signals are not
            stored.
        env_kwargs: settings of an environment that is given by name.
        progress: called after each stored episode.

    Raises:
        InputError: a number is not positive, `out` exists, there is no such policy, or `num_processes` or
            `env_kwargs` do not fit the environment.
        UnknownNameError: there is no lab or Gymnasium environment of this name.
        UnsupportedError: a space of the environment cannot be converted to signals.
        DataError: an observation does not fit the schema.
    """
    for name, number in {"num_episodes": num_episodes, "max_steps": max_steps, "num_processes": num_processes}.items():
        if number < 1:
            raise InputError(f"{name} is {number}, expected at least 1.")
    make_one = _factory(environment, env_kwargs or {}, copies=num_processes > 1)
    first = make_one()
    try:
        schema = schema or recorded_schema(first)
        runner = _EpisodeRunner(first, policy, schema, max_steps, seed)
        chosen = policy if isinstance(policy, str) else "the default" if policy is None else "given in Python"
        notes = {
            "environment": environment if isinstance(environment, str) else type(first.unwrapped).__name__,
            "policy": chosen,
            "seed": str(seed),
        }
        if left_out := SpaceLayout(first.observation_space, Role.OBSERVATION).left_out:
            notes["left_out"] = f"{', '.join(left_out)}: left out, because no signal holds a text."
        store = Store.create(out, schema, notes=notes)
        episodes: Iterator[Episode] = map(runner.run, range(num_episodes))
        if num_processes > 1:
            episodes = _in_processes(num_processes, num_episodes, make_one, policy, schema, max_steps, seed)
        try:
            for number, episode in enumerate(episodes):
                store.append(episode, {"number": number})
                tell(progress, "record", number + 1, num_episodes)
        finally:
            if not len(store):
                shutil.rmtree(store.path)  # a failed run can be repeated with the same folder
    finally:
        if first is not environment:
            first.close()
    return store


class _EpisodeRunner:
    """Records single episodes of an environment.

    Args:
        environment: it is reset for each episode.
        policy: see `record`.
        schema: signals to store.
        max_steps: of an episode.
        seed: of all episodes.
    """

    def __init__(
        self,
        environment: AnyEnv,
        policy: Policy | type[Policy] | Act | str | None,
        schema: Schema,
        max_steps: int,
        seed: int,
    ) -> None:
        self._environment, self._next_policy = environment, policy_maker(policy, environment)
        self._rows, self._max_steps, self._seed = EpisodeRecord(environment, schema), max_steps, seed

    def run(self, number: int) -> Episode:
        """The episode of this number."""
        generator = np.random.default_rng([self._seed, number])
        reset_seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        rows = self._rows
        rows.begin(self._environment.reset(seed=reset_seed)[0], reset_seed)
        policy = self._next_policy()
        policy.reset(generator)
        while True:
            # Policy and environment get the values that are stored, after rounding to the stored dtype.
            row = rows.read_action(policy.act(rows.last_observation, generator))
            observation, reward, terminated, truncated, _ = self._environment.step(rows.executed(row))
            rows.add(row, reward, observation)
            if terminated or truncated or rows.num_steps >= self._max_steps:
                return rows.episode(terminated=bool(terminated), truncated=bool(truncated))


_runner: _EpisodeRunner
"""Of a recording process."""


def _start(make_one: Callable[[], AnyEnv], *settings: Any) -> None:
    """Prepares a recording process."""
    global _runner
    environment = make_one()
    Finalize(None, environment.close, exitpriority=1)
    _runner = _EpisodeRunner(environment, *settings)


def _run(number: int) -> Episode:
    return _runner.run(number)


def _in_processes(num_processes: int, num_episodes: int, *settings: Any) -> Iterator[Episode]:
    """The episodes in order, recorded by several processes."""
    with ProcessPoolExecutor(num_processes, initializer=_start, initargs=settings) as pool:
        ahead = AHEAD * num_processes
        for first in range(0, num_episodes, ahead):
            yield from pool.map(_run, range(first, min(first + ahead, num_episodes)))


def make(name: str, env_kwargs: Mapping[str, Any] | None = None) -> AnyEnv:
    """The lab or Gymnasium environment of this name.

    Args:
        name: of the lab, or a Gymnasium id.
        env_kwargs: its settings.

    Raises:
        UnknownNameError: there is no such environment.
        InputError: the settings are invalid.
    """
    settings = dict(env_kwargs or {})
    try:
        if name in names("lab"):
            lab: AnyEnv = load("lab", name)(**settings)
            return lab
        return gymnasium.make(name, **settings)
    except gymnasium.error.Error as error:
        if name.rpartition(":")[2] in gymnasium.registry:
            raise  # it exists, but something else failed, such as a missing package
        raise UnknownNameError("environment", name, [*names("lab"), *gymnasium.registry]) from error
    except TypeError as error:
        if not settings:
            raise
        raise InputError(f"{name} cannot be made with {settings}: {error}. Correct its settings.") from error


def _factory(
    environment: str | AnyEnv | Callable[[], AnyEnv], env_kwargs: Mapping[str, Any], *, copies: bool
) -> Callable[[], AnyEnv]:
    """A function that makes an environment, or returns the given one."""
    if isinstance(environment, str):
        return partial(make, environment, env_kwargs)
    if env_kwargs:
        raise InputError(f"env_kwargs are {dict(env_kwargs)}. They belong to an environment's name. Leave them out.")
    if not isinstance(environment, gymnasium.Env):
        return environment
    if copies:
        problem = f"{environment} is one environment, but num_processes requires copies"
        raise InputError(f"{problem}. Give its name, or a function that makes one.")
    return lambda: environment
