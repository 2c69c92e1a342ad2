"""Records episodes of an environment into a store, with a policy that is found by name, class or function."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.control.controllers import Controller, load_controller
from worldline.control.imagination import loop_of
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import InputError, UnknownNameError
from worldline.labs.base import Lab, Policy
from worldline.labs.spaces import AnyEnv, AnySpace, SpaceLayout
from worldline.progress import OnProgress, tell
from worldline.registry import imported, load, names
from worldline.schema import Role, Schema
from worldline.workers import Workers, is_alone, run_in_order
from worldline.workflows.recorder import EpisodeRecord, recorded_schema

MAX_PARTS: Final = 64
"""Tasks of a recording by several workers."""
MAX_HISTORY: Final = 32
"""Observations that a controller sees, at most."""

Act = Callable[[Any, np.random.Generator], Any]
"""A policy without memory: maps an observation and a generator to an action."""


def record(
    environment: str | AnyEnv | Callable[[], AnyEnv],
    out: Path | str,
    *,
    policy: Policy | type[Policy] | Controller | Act | str | None = None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    schema: Schema | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    workers: Workers = 1,
    progress: OnProgress | None = None,
) -> Store:
    """Records episodes of an environment into a new store, in the order of their numbers, with their reset seeds.

    An episode depends only on `seed` and its number, not on other episodes.

    Args:
        environment: name of a lab, Gymnasium id, function that makes an environment, or an environment (not closed).
        out: a new folder.
        policy: "explorer" (of a lab) or "random"; the TOML file of a controller; or a function of observation and
            generator, a policy, a class of policies or a controller. "module:name" names one of these. Default: the
            explorer of a lab, else random.
        num_episodes: at least 1.
        max_steps: an episode is truncated after this number of steps, at least 1.
        seed: of all resets and policies.
        schema: default is the environment's with its reward (the schema of a lab has none); other signals are not
            stored.
        env_kwargs: settings of an environment that is given by name.
        workers: as in `worldline.workers.Workers`; several need a name or a function.
        progress: called after each stored episode.

    Raises:
        InputError: a number is not positive, `out` exists, there is no such policy, or `env_kwargs`
            do not fit the environment.
        UnknownNameError: there is no lab or Gymnasium environment of this name.
        UnsupportedError: a space of the environment cannot be converted to signals.
        DataError: an observation does not fit the schema.
    """
    for name, number in {"num_episodes": num_episodes, "max_steps": max_steps}.items():
        if number < 1:
            raise InputError(f"{name} is {number}, expected at least 1.")
    env = _made(environment, env_kwargs or {})
    try:
        schema = schema or recorded_schema(env)
        name = environment if isinstance(environment, str) else type(env.unwrapped).__name__
        notes = {"environment": name, "policy": _said(policy), "seed": str(seed), **_left_out(env)}
        store = Store.create(out, schema, notes=notes)
        try:
            settings, made = (policy, schema, max_steps, seed), (environment, env_kwargs or {})
            for number, episode in enumerate(_all_episodes(env, made, settings, num_episodes, workers)):
                store.append(episode, {"number": number})
                tell(progress, "record", number + 1, num_episodes)
        finally:
            if not len(store):
                shutil.rmtree(store.path)  # a failed run can be repeated with the same folder
    finally:
        if env is not environment:
            env.close()
    return store


def _said(policy: object) -> str:
    """A policy in the notes of a store."""
    if isinstance(policy, Controller):
        return f"controller {policy.card.name}"
    return policy if isinstance(policy, str) else "the default" if policy is None else "given in Python"


def _left_out(env: AnyEnv) -> dict[str, str]:
    """A note about texts among the observations."""
    left_out = SpaceLayout(env.observation_space, Role.OBSERVATION).left_out
    return {"left_out": f"{', '.join(left_out)}: left out, because no signal holds a text."} if left_out else {}


def _all_episodes(
    env: AnyEnv, made: tuple[Any, Any], settings: Any, num_episodes: int, workers: Workers
) -> Iterator[Episode]:
    """The episodes in their order, recorded in this environment, or by workers in others that are made like it."""
    if is_alone(workers):
        return _episodes(env, np.arange(num_episodes), *settings)
    if isinstance(made[0], gymnasium.Env):
        raise InputError(f"workers is {workers}, and the environment is open here. Give its name or a function.")
    parts = np.array_split(np.arange(num_episodes), min(num_episodes, MAX_PARTS))
    tasks = {f"episode {part[0]}": (*made, part, *settings) for part in parts}
    return chain.from_iterable(run_in_order(_recorded, tasks, workers, "record"))


def _recorded(environment: str | Callable[[], AnyEnv], env_kwargs: Mapping[str, Any], *settings: Any) -> list[Episode]:
    """The episodes that a worker records, with its own environment."""
    with closing(_made(environment, env_kwargs)) as env:
        return list(_episodes(env, *settings))


def _episodes(
    env: AnyEnv, numbers: NDArray[np.int64], policy: Any, schema: Schema, max_steps: int, seed: int
) -> Iterator[Episode]:
    """The episodes with these numbers."""
    next_policy, rows = policy_maker(policy, env), EpisodeRecord(env, schema)
    for number in numbers.tolist():
        yield _episode(env, next_policy(), rows, max_steps, [seed, number])


def _episode(env: AnyEnv, policy: Policy, rows: EpisodeRecord, max_steps: int, seed: list[int]) -> Episode:
    """One episode, from the seeds of the recording and of the episode."""
    generator = np.random.default_rng(seed)
    reset_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    rows.begin(env.reset(seed=reset_seed)[0], reset_seed)
    policy.reset(generator)
    while True:
        # Policy and environment get the values that are stored, after rounding to the stored dtype.
        row = rows.read_action(policy.act(rows.last_observation, generator))
        observation, reward, terminated, truncated, _ = env.step(rows.executed(row))
        rows.add(row, reward, observation)
        if terminated or truncated or rows.num_steps >= max_steps:
            return rows.episode(terminated=bool(terminated), truncated=bool(truncated))


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


def _made(environment: str | AnyEnv | Callable[[], AnyEnv], env_kwargs: Mapping[str, Any]) -> AnyEnv:
    """The environment of a recording: made by name or by a function, or the given one."""
    if isinstance(environment, str):
        return make(environment, env_kwargs)
    if env_kwargs:
        raise InputError(f"env_kwargs are {dict(env_kwargs)}. They belong to an environment's name. Leave them out.")
    return environment if isinstance(environment, gymnasium.Env) else environment()


class RandomPolicy(Policy):
    """Samples the action space, uniformly if it is bounded.

    Args:
        space: the action space.
    """

    def __init__(self, space: AnySpace) -> None:
        self._space = copy.deepcopy(space)  # seeding must not affect the environment's space

    def reset(self, generator: np.random.Generator) -> None:
        """Seeds the draws of the episode."""
        self._space.seed(int(generator.integers(2**31)))

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """A random action."""
        return self._space.sample()


class FunctionPolicy(Policy):
    """Calls a function for each action.

    Args:
        function: maps an observation and a generator to an action.
    """

    def __init__(self, function: Act) -> None:
        self._function = function

    def reset(self, generator: np.random.Generator) -> None:
        """Nothing is kept from step to step."""

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The action of the function."""
        return self._function(observation, generator)


class ControllerPolicy(Policy):
    """Lets a controller act in an environment.

    Args:
        controller: chooses the actions.
        env: its spaces define the signals.
    """

    def __init__(self, controller: Controller, env: AnyEnv) -> None:
        schema = recorded_schema(env)
        self._seen, self._taken = (
            SpaceLayout(space, role)
            for space, role in ((env.observation_space, Role.OBSERVATION), (env.action_space, Role.ACTION))
        )
        self._loop = loop_of(controller, schema, MAX_HISTORY)

    def reset(self, generator: np.random.Generator) -> None:
        """Starts a run of the controller."""
        self._loop.reset({})

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """The action of the controller."""
        row = {name: value[None] for name, value in self._seen.read(observation).items()}
        return self._taken.write({name: value[0] for name, value in self._loop.act(row).items()})


def policy_maker(policy: Policy | type[Policy] | Controller | Act | str | None, env: AnyEnv) -> Callable[[], Policy]:
    """A function that returns the policy of the next episode: a new explorer of a lab, else always the same object.

    Args:
        policy: "explorer" (of a lab) or "random"; the TOML file of a controller; or a function of observation and
            generator, a policy, a class of policies or a controller. "module:name" names one of these. None for the
            explorer of a lab, else random.
        env: the environment.

    Raises:
        InputError: there is no such policy.
        UnknownNameError: the module has no such name.
    """
    lab = env.unwrapped if isinstance(env.unwrapped, Lab) else None
    if lab is not None and policy in (None, "explorer"):
        return lab.explorer
    chosen: Any = policy
    if isinstance(policy, str) and policy.endswith(".toml"):
        chosen = load_controller(policy, recorded_schema(env))
    elif isinstance(policy, str) and ":" in policy:
        chosen = imported("policy", policy)
    made = RandomPolicy(env.action_space) if policy in (None, "random") else chosen
    if isinstance(made, type):
        made = made()
    if isinstance(made, Controller):
        made = ControllerPolicy(made, env)
    if not isinstance(made, Policy) and callable(made):
        made = FunctionPolicy(made)
    if not isinstance(made, Policy):
        names = "'random'" if lab is None else "'random' or 'explorer'"
        raise InputError(
            f"policy is {policy!r}. Use {names}, a subclass of worldline.labs.base.Policy, a function of observation "
            "and generator, or module:name of one of these."
        )
    return lambda: made
