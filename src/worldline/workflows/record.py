"""Records episodes of an environment into a store."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError, UnknownNameError
from worldline.labs.base import Policy
from worldline.labs.spaces import AnyEnv, SpaceLayout
from worldline.progress import OnProgress, tell
from worldline.registry import load, names
from worldline.schema import Role, Schema
from worldline.workflows.policies import Act, policies_for
from worldline.workflows.recorder import EpisodeRecord, recorded_schema

Array = NDArray[np.generic]
_Step = tuple[Any, float, bool, bool]
"""Observation, reward, terminated and truncated."""


def record(
    environment: str | AnyEnv | Callable[[], AnyEnv],
    out: Path | str,
    *,
    policy: Policy | type[Policy] | Act | str | None = None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    num_envs: int = 1,
    processes: bool = False,
    schema: Schema | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: OnProgress | None = None,
) -> Store:
    """Records episodes of an environment into a new store, in the order of their numbers, with their reset seeds.

    An episode depends only on `seed` and its number: not on other episodes or `num_envs`.

    Args:
        environment: name of a lab, Gymnasium id, function that makes an environment, or an environment (not closed).
        out: a new folder.
        policy: "explorer" (of a lab), "random", a function of observation and generator, a policy or a class of
            policies, or "module:name" of one of these. Default: the explorer of a lab, else random. Each of several
            environments has a copy of the policy.
        num_episodes: at least 1.
        max_steps: an episode is truncated after this number of steps, at least 1.
        seed: of all resets and policies.
        num_envs: parallel environments, at least 1.
        processes: whether each environment has its own process. Pays off for steps above one millisecond.
        schema: default is the environment's with its reward (the schema of a lab has none); other signals are not
            stored.
        env_kwargs: settings of an environment that is given by name.
        progress: called after each stored episode.

    Raises:
        InputError: a number is not positive, `out` exists, there is no such policy, or `num_envs`,
            `processes` or `env_kwargs` do not fit the environment.
        UnknownNameError: there is no lab or Gymnasium environment of this name.
        UnsupportedError: a space of the environment cannot be converted to signals.
        DataError: an observation does not fit the schema.
    """
    _check_positive(num_episodes=num_episodes, max_steps=max_steps, num_envs=num_envs)
    make_one = _factory(environment, env_kwargs or {}, copies=num_envs > 1 or processes)
    with ExitStack() as stack:
        first = make_one()
        if first is not environment:
            stack.callback(first.close)
        count, schema = min(num_envs, num_episodes), schema or recorded_schema(first)
        actors = policies_for(policy, first, count)
        lanes = _ProcessLanes(make_one, count, stack) if processes else _LocalLanes(first, make_one, count, stack)
        name = environment if isinstance(environment, str) else type(first.unwrapped).__name__
        chosen = policy if isinstance(policy, str) else "the default" if policy is None else "given in Python"
        notes = {"environment": name, "policy": chosen, "seed": str(seed)}
        if left_out := SpaceLayout(first.observation_space, Role.OBSERVATION).left_out:
            notes["left_out"] = f"{', '.join(left_out)}: left out, because no signal holds a text."
        store = Store.create(out, schema, notes=notes)
        runners = [_LaneRunner(actor, EpisodeRecord(first, schema)) for actor in actors]
        try:
            _store_in_order(store, _run(lanes, runners, num_episodes, max_steps, seed), num_episodes, progress)
        finally:
            if not len(store):
                shutil.rmtree(store.path)  # a failed run can be repeated with the same folder
    return store


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


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} is {number}, expected at least 1.")


class _Lanes(ABC):
    """Parallel environments with explicit resets.

    With the autoreset modes of Gymnasium, a step ignores its action or hides the last observation of an episode.
    """

    @abstractmethod
    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        """Resets the lanes that `ended` and have a seed, pauses those without a seed.

        Returns:
            Observations; those of other lanes are meaningless.
        """

    @abstractmethod
    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        """Steps every lane that has an action; results of other lanes are meaningless."""


class _LocalLanes(_Lanes):
    """Environments in this process: the given one, and others like it, which `stack` closes."""

    def __init__(self, first: AnyEnv, make_one: Callable[[], AnyEnv], num_lanes: int, stack: ExitStack) -> None:
        self._environments = [first]
        for _ in range(num_lanes - 1):
            self._environments.append(one := make_one())
            stack.callback(one.close)
            if (one.observation_space, one.action_space) != (first.observation_space, first.action_space):
                raise InputError(f"{one} has other spaces than {first}. Make environments with equal spaces.")

    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        del ended
        lanes = zip(self._environments, seeds, strict=True)
        return [None if seed is None else lane.reset(seed=seed)[0] for lane, seed in lanes]

    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        steps: list[_Step] = []
        for lane, action in zip(self._environments, actions, strict=True):
            result = (None, 0.0, False, False, {}) if action is None else lane.step(action)
            steps.append((result[0], float(result[1]), bool(result[2]), bool(result[3])))
        return steps


class _ProcessLanes(_Lanes):
    """Environments in one process each, which `stack` closes.

    A step between processes costs about 0.2 ms: Pendulum runs 7 times as fast in one process. A simulator with 10 ms
    per step runs twice as fast in processes on two cores. So the user chooses.
    """

    def __init__(self, make_one: Callable[[], AnyEnv], num_lanes: int, stack: ExitStack) -> None:
        self._vector: AsyncVectorEnv[Any, Any] = AsyncVectorEnv(
            [lambda: _PausableEnv(make_one())] * num_lanes, autoreset_mode=AutoresetMode.DISABLED
        )
        stack.callback(self._vector.close)

    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        batch, _ = self._vector.reset(seed=[*seeds], options={"reset_mask": np.array(ended)})
        return list(iterate(self._vector.observation_space, batch))

    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        some = next(action for action in actions if action is not None)  # placeholder for paused lanes
        space = self._vector.single_action_space
        empty: Any = create_empty_array(space, len(actions))
        joined = concatenate(space, [some if action is None else action for action in actions], empty)
        batch, rewards, terminated, truncated, _ = self._vector.step(joined)
        shown = iterate(self._vector.observation_space, batch)
        results = zip(shown, rewards.tolist(), terminated.tolist(), truncated.tolist(), strict=True)
        return [(one, float(reward), over, cut) for one, reward, over, cut in results]


class _PausableEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that a reset without a seed pauses, until the next reset with a seed.

    A vector environment steps all lanes or none. A paused lane makes no steps if no episode is left for it. The info
    dict is dropped, because batching it can fail.
    """

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self._paused = True
        self._observation: Any = None

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        self._paused = seed is None
        if seed is not None:
            self._observation, _ = self.env.reset(seed=seed)
        return self._observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._paused:
            return self._observation, 0.0, False, False, {}
        self._observation, reward, terminated, truncated, _ = self.env.step(action)
        return self._observation, reward, terminated, truncated, {}


class _LaneRunner:
    """Policy and current episode of a lane.

    Args:
        policy: reset for each episode.
        transcript: of the current episode.
    """

    def __init__(self, policy: Policy, transcript: EpisodeRecord) -> None:
        self._policy, self._transcript = policy, transcript
        self._generator = np.random.default_rng(0)
        self._row: dict[str, Array] = {}
        self.number: int | None = None
        """Of the current episode; None if there is none."""

    def begin(self, observation: Any, seed: int, reset_seed: int) -> None:
        assert self.number is not None
        self._generator = np.random.default_rng([seed, self.number])
        self._transcript.begin(observation, reset_seed)
        self._policy.reset(self._generator)

    def act(self) -> Any:
        """The next action after rounding to the stored dtype; the policy also sees stored observations."""
        self._row = self._transcript.read_action(self._policy.act(self._transcript.last_observation, self._generator))
        return self._transcript.executed(self._row)

    def add(self, step: _Step, max_steps: int) -> Episode | None:
        """Adds a step; the episode if it ended."""
        observation, reward, terminated, truncated = step
        self._transcript.add(self._row, reward, observation)
        if not (terminated or truncated or self._transcript.num_steps >= max_steps):
            return None
        return self._transcript.episode(terminated=terminated, truncated=truncated)


def _run(
    lanes: _Lanes, runners: Sequence[_LaneRunner], num_episodes: int, max_steps: int, seed: int
) -> Iterator[tuple[int, Episode]]:
    """Each episode with its number, in order of completion."""
    numbers = iter(range(num_episodes))
    ended = [True] * len(runners)
    while True:
        if any(ended):
            for runner, over in zip(runners, ended, strict=True):
                runner.number = next(numbers, None) if over else runner.number
            if all(runner.number is None for runner in runners):
                return
            _begin(lanes, runners, ended, seed)
        steps = lanes.step([None if runner.number is None else runner.act() for runner in runners])
        ended = [False] * len(runners)
        for lane, (runner, step) in enumerate(zip(runners, steps, strict=True)):
            if runner.number is not None and (episode := runner.add(step, max_steps)) is not None:
                ended[lane] = True
                yield runner.number, episode


def _store_in_order(
    store: Store, numbered: Iterable[tuple[int, Episode]], total: int, progress: OnProgress | None
) -> None:
    """Stores the episodes by number."""
    ready: dict[int, Episode] = {}  # ended before an episode with a lower number
    for number, episode in numbered:
        ready[number] = episode
        while len(store) in ready:
            store.append(ready.pop(len(store)), {"number": len(store)})
            tell(progress, "record", len(store), total)


def _begin(lanes: _Lanes, runners: Sequence[_LaneRunner], ended: Sequence[bool], seed: int) -> None:
    """Resets every lane that `ended`, or pauses it if no episode is left."""
    seeds = [
        _reset_seed(seed, runner.number) if over and runner.number is not None else None
        for runner, over in zip(runners, ended, strict=True)
    ]
    for runner, observation, reset_seed in zip(runners, lanes.reset(seeds, ended), seeds, strict=True):
        if reset_seed is not None:
            runner.begin(observation, seed, reset_seed)


def _reset_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _factory(
    environment: str | AnyEnv | Callable[[], AnyEnv], env_kwargs: Mapping[str, Any], *, copies: bool
) -> Callable[[], AnyEnv]:
    """A function that makes an environment, or returns the given one."""
    if isinstance(environment, str):
        return lambda: make(environment, env_kwargs)
    if env_kwargs:
        raise InputError(f"env_kwargs are {dict(env_kwargs)}. They belong to an environment's name. Leave them out.")
    if not isinstance(environment, gymnasium.Env):
        return environment
    if copies:
        problem = f"{environment} is one environment, but num_envs or processes require copies"
        raise InputError(f"{problem}. Give its name, or a function that makes one.")
    return lambda: environment
