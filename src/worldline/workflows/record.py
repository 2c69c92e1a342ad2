"""Records episodes of an environment into a store."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from worldline.labs.spaces import AnyEnv
from worldline.registry import load, names
from worldline.schema import Schema
from worldline.workflows.policies import Act, policies_for
from worldline.workflows.recorder import EpisodeRecord, recorded_schema

Array = NDArray[np.generic]
_Step = tuple[Any, float, bool, bool]
"""What was shown, the reward, whether the episode was terminated and whether it was truncated."""


def record(
    environment: str | AnyEnv | Callable[[], AnyEnv],
    destination: Path | str,
    *,
    policy: Policy | type[Policy] | Act | str | None = None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    num_envs: int = 1,
    processes: bool = False,
    schema: Schema | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """A new store with episodes of an environment, in the order of their numbers, each with the seed of its reset.

    An episode depends on `seed` and on its own number only: neither on those before it nor on `num_envs`.

    Args:
        environment: the name of a lab, a Gymnasium id, a function that makes an environment, or an environment (which
            is left open).
        destination: a new folder.
        policy: "explorer" (a lab's own), "random", a function of observation and generator, a policy or a class of
            policies, or "module:name" of such a thing; default is the explorer of a lab and else random. Where
            several environments run, each has a copy of the policy.
        num_episodes: at least 1.
        max_steps: an episode that has not ended by then is cut, at least 1.
        seed: of all resets and all policies' draws.
        num_envs: environments that run side by side, at least 1.
        processes: whether each of them has a process of its own. Pays off where a step takes more than a millisecond.
        schema: default is the environment's, with its reward (a lab's own schema has none); signals that it does not
            name are not stored.
        env_kwargs: settings of an environment that is given by its name.
        progress: called with the number of episodes stored and their total.

    Raises:
        InputError: a number is not positive, the destination exists, the policy cannot be found or made, or
            `num_envs`, `processes` or `env_kwargs` do not fit the environment.
        UnknownNameError: no lab and no Gymnasium environment has this name.
        UnsupportedError: a space of the environment cannot be made into signals.
        DataError: what the environment showed does not fit the schema.
    """
    for name, number in (("num_episodes", num_episodes), ("max_steps", max_steps), ("num_envs", num_envs)):
        if number < 1:
            raise InputError(f"{name} is {number}. It must be at least 1.")
    make_one = _factory(environment, env_kwargs or {}, copies=num_envs > 1 or processes)
    with ExitStack() as stack:
        first = make_one()
        if first is not environment:
            stack.callback(first.close)
        actors = policies_for(policy, first, min(num_envs, num_episodes))
        schema = schema or recorded_schema(first)
        lanes = _AtOnce(make_one, len(actors)) if processes else _InTurn(first, make_one, len(actors))
        stack.callback(lanes.close)
        name = environment if isinstance(environment, str) else type(first.unwrapped).__name__
        chosen = policy if isinstance(policy, str) else "the default" if policy is None else "given in Python"
        notes = {"environment": name, "policy": chosen, "seed": str(seed)}
        store = Store.create(destination, schema, notes=notes)
        seats = [_Seat(actor, EpisodeRecord(first, schema)) for actor in actors]
        try:
            ready: dict[int, Episode] = {}  # those that ended before one with a lower number
            for number, episode in _run(lanes, seats, num_episodes, max_steps, seed):
                ready[number] = episode
                while len(store) in ready:
                    store.append(ready.pop(len(store)), {"number": len(store)})
                    if progress is not None:
                        progress(len(store), num_episodes)
        finally:
            if not len(store):
                shutil.rmtree(store.path)  # what failed at once can be tried again at the same place
    return store


def make(name: str, env_kwargs: Mapping[str, Any] | None = None) -> AnyEnv:
    """The lab or Gymnasium environment of this name.

    Args:
        name: of the lab, or a Gymnasium id.
        env_kwargs: its settings; default is its own.

    Raises:
        UnknownNameError: there is none.
        InputError: it does not take these settings.
    """
    given = dict(env_kwargs or {})
    try:
        if name in names("lab"):
            lab: AnyEnv = load("lab", name)(**given)
            return lab
        return gymnasium.make(name, **given)
    except gymnasium.error.Error as error:
        if name.rpartition(":")[2] in gymnasium.registry:
            raise  # it exists, and something else is wrong, such as a package that it needs
        raise UnknownNameError("environment", name, [*names("lab"), *gymnasium.registry]) from error
    except TypeError as error:
        if not given:
            raise
        raise InputError(f"{name} cannot be made with {given}: {error}. Correct its settings.") from error


class _Lanes(ABC):
    """Environments side by side that are reset when we say so.

    With Gymnasium's own ways of resetting, a step would ignore its action, or hide the last observation of an episode.
    """

    @abstractmethod
    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        """What each lane shows once those that `ended` and have a seed were reset; without one they rest."""

    @abstractmethod
    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        """A step of every lane that has an action; what is told of others means nothing."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environments that were made here."""


class _InTurn(_Lanes):
    """In this process: the environment that is there, and others like it."""

    def __init__(self, first: AnyEnv, make_one: Callable[[], AnyEnv], num_lanes: int) -> None:
        self._environments, self._made = [first], ExitStack()
        self._last: list[_Step] = [(None, 0.0, False, False)] * num_lanes
        with ExitStack() as made:
            for _ in range(num_lanes - 1):
                self._environments.append(one := make_one())
                made.callback(one.close)
                if (one.observation_space, one.action_space) != (first.observation_space, first.action_space):
                    raise InputError(f"{one} has other spaces than {first}. Make environments that are alike.")
            self._made = made.pop_all()

    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        del ended
        for lane, seed in enumerate(seeds):
            if seed is not None:
                self._last[lane] = (self._environments[lane].reset(seed=seed)[0], 0.0, False, False)
        return [shown for shown, *_ in self._last]

    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        for lane, action in enumerate(actions):
            if action is not None:
                shown, reward, terminated, truncated, _ = self._environments[lane].step(action)
                self._last[lane] = (shown, float(reward), bool(terminated), bool(truncated))
        return [*self._last]

    def close(self) -> None:
        self._made.close()


class _AtOnce(_Lanes):
    """Each in a process of its own.

    Passing a step between processes costs about 0.2 ms: Pendulum runs 7 times as fast in one process, a simulator of
    10 ms a step twice as fast in processes on two cores. So it is for the user to say.
    """

    def __init__(self, make_one: Callable[[], AnyEnv], num_lanes: int) -> None:
        self._vector: AsyncVectorEnv[Any, Any] = AsyncVectorEnv(
            [lambda: _Resting(make_one())] * num_lanes, autoreset_mode=AutoresetMode.DISABLED
        )

    def reset(self, seeds: Sequence[int | None], ended: Sequence[bool]) -> Sequence[Any]:
        batch, _ = self._vector.reset(seed=[*seeds], options={"reset_mask": np.array(ended)})
        return list(iterate(self._vector.observation_space, batch))

    def step(self, actions: Sequence[Any]) -> Sequence[_Step]:
        some = next(action for action in actions if action is not None)  # for those that rest
        space = self._vector.single_action_space
        empty: Any = create_empty_array(space, len(actions))
        given = concatenate(space, [some if action is None else action for action in actions], empty)
        batch, rewards, terminated, truncated, _ = self._vector.step(given)
        shown = iterate(self._vector.observation_space, batch)
        told = zip(shown, rewards.tolist(), terminated.tolist(), truncated.tolist(), strict=True)
        return [(one, float(reward), over, cut) for one, reward, over, cut in told]

    def close(self) -> None:
        self._vector.close()


class _Resting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment beside others. A reset without a seed lets it rest, until the next one with a seed.

    A vector environment steps all or none. Resting makes no steps up for those that have no episode left, and what
    the environment tells beyond the store is left out, because batching it can fail.
    """

    def __init__(self, env: AnyEnv) -> None:
        super().__init__(env)
        self._rests = True
        self._shown: Any = None

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 (Gymnasium's signature)
    ) -> tuple[Any, dict[str, Any]]:
        self._rests = seed is None
        if seed is not None:
            self._shown, _ = self.env.reset(seed=seed)
        return self._shown, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._rests:
            return self._shown, 0.0, False, False, {}
        self._shown, reward, terminated, truncated, _ = self.env.step(action)
        return self._shown, reward, terminated, truncated, {}


class _Seat:
    """Who acts in a lane, and what has happened there.

    Args:
        policy: reset for each episode.
        transcript: of the episode that is under way.
    """

    def __init__(self, policy: Policy, transcript: EpisodeRecord) -> None:
        self._policy, self._transcript = policy, transcript
        self._generator = np.random.default_rng(0)
        self._row: dict[str, Array] = {}
        self.number: int | None = None
        """Of the episode that is under way; None if there is none."""

    def begin(self, observation: Any, seed: int, reset_seed: int) -> None:
        assert self.number is not None
        self._generator = np.random.default_rng([seed, self.number])
        self._transcript.begin(observation, reset_seed)
        self._policy.reset(self._generator)

    def act(self) -> Any:
        """The action as it is stored, for the environment; the policy looks at what is stored too."""
        self._row = self._transcript.read_action(self._policy.act(self._transcript.shown, self._generator))
        return self._transcript.executed(self._row)

    def add(self, reward: float, observation: Any) -> int:
        """How many steps there are now."""
        self._transcript.add(self._row, reward, observation)
        return self._transcript.num_steps

    def episode(self, terminated: bool, truncated: bool) -> Episode:
        return self._transcript.episode(terminated=terminated, truncated=truncated)


def _run(
    lanes: _Lanes, seats: Sequence[_Seat], num_episodes: int, max_steps: int, seed: int
) -> Iterator[tuple[int, Episode]]:
    """Each episode with its number, as they end."""
    numbers = iter(range(num_episodes))
    ended = [True] * len(seats)
    while True:
        if any(ended):
            for seat, over in zip(seats, ended, strict=True):
                seat.number = next(numbers, None) if over else seat.number
            if all(seat.number is None for seat in seats):
                return
            _begin(lanes, seats, ended, seed)
        steps = lanes.step([None if seat.number is None else seat.act() for seat in seats])
        ended = [False] * len(seats)
        for lane, (seat, (observation, reward, terminated, truncated)) in enumerate(zip(seats, steps, strict=True)):
            if seat.number is not None:
                ended[lane] = seat.add(reward, observation) >= max_steps or terminated or truncated
                if ended[lane]:
                    yield seat.number, seat.episode(terminated, truncated)


def _begin(lanes: _Lanes, seats: Sequence[_Seat], ended: Sequence[bool], seed: int) -> None:
    """Resets every lane that `ended`, or puts it to rest where no episode is left."""
    seeds = [
        _reset_seed(seed, seat.number) if over and seat.number is not None else None
        for seat, over in zip(seats, ended, strict=True)
    ]
    for seat, observation, reset_seed in zip(seats, lanes.reset(seeds, ended), seeds, strict=True):
        if reset_seed is not None:
            seat.begin(observation, seed, reset_seed)


def _reset_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _factory(
    environment: str | AnyEnv | Callable[[], AnyEnv], env_kwargs: Mapping[str, Any], *, copies: bool
) -> Callable[[], AnyEnv]:
    """What makes an environment, or gives the one that is there already."""
    if isinstance(environment, str):
        return lambda: make(environment, env_kwargs)
    if env_kwargs:
        raise InputError(f"env_kwargs are {dict(env_kwargs)}. They belong to an environment's name: leave them out.")
    if not isinstance(environment, gymnasium.Env):
        return environment
    if copies:
        problem = f"{environment} is one environment, and num_envs or processes ask for others like it"
        raise InputError(f"{problem}. Give its name, or a function that makes one.")
    return lambda: environment
