"""Records episodes of an environment into a store."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from worldline.contracts.episode import Episode
from worldline.contracts.schema import Role, Schema
from worldline.data.store import Store
from worldline.errors import InputError, UnknownNameError
from worldline.labs.lab import Lab, Policy
from worldline.labs.spaces import AnyEnv, AnySpace, from_signals, schema_of, to_signals
from worldline.registry import load, names

Array = NDArray[np.generic]
Act = Callable[[Any, np.random.Generator], Any]
"""A policy without memory: takes an observation and a generator, gives an action."""


class RandomPolicy(Policy):
    """Draws from the action space, uniformly where it is bounded.

    Args:
        space: of the actions.
    """

    def __init__(self, space: AnySpace) -> None:
        self._space = copy.deepcopy(space)  # seeding it must not reach the environment's own

    def reset(self, generator: np.random.Generator) -> None:
        """Seeds the draws of the episode."""
        self._space.seed(int(generator.integers(2**31)))

    def act(self, observation: Any, generator: np.random.Generator) -> Any:  # noqa: ARG002 (a `Policy` takes them)
        """Any action, whatever the observation."""
        return self._space.sample()


class FunctionPolicy(Policy):
    """Asks a function for each action.

    Args:
        function: takes the observation and a generator.
    """

    def __init__(self, function: Act) -> None:
        self._function = function

    def reset(self, generator: np.random.Generator) -> None:
        """Nothing is kept from step to step."""

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        """What the function says."""
        return self._function(observation, generator)


def record(
    environment: str | AnyEnv,
    destination: Path | str,
    *,
    policy: Policy | Act | str | None = None,
    num_episodes: int,
    max_steps: int,
    seed: int,
    schema: Schema | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """A new store with episodes of an environment, each with the seed of its reset.

    Args:
        environment: the name of a lab, a Gymnasium id, or an environment (which is left open).
        destination: a new folder.
        policy: "explorer" (a lab's own), "random", a policy, or a function of observation and generator; default is
            the explorer of a lab and else random.
        num_episodes: at least 1.
        max_steps: an episode that has not ended by then is cut, at least 1.
        seed: of all resets and all policies' draws. An episode depends on it and on its own number only.
        schema: default is the environment's; signals that it does not name are not stored.
        progress: called with the number of episodes recorded and their total.

    Raises:
        InputError: a number is not positive, the destination exists, or the policy is not known.
        UnknownNameError: no lab and no Gymnasium environment has this name.
        UnsupportedError: a space of the environment cannot be made into signals.
        DataError: what the environment showed does not fit the schema.
    """
    for name, number in (("num_episodes", num_episodes), ("max_steps", max_steps)):
        if number < 1:
            raise InputError(f"{name} is {number}. It must be at least 1.")
    env = make(environment) if isinstance(environment, str) else environment
    try:
        actor = _policy(policy, env)
        store = Store.create(destination, schema or schema_of(env))
        for number in range(num_episodes):
            reset_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            generator = np.random.default_rng([seed, number])
            store.append(run_episode(env, actor, store.schema, max_steps, reset_seed, generator), {"number": number})
            if progress is not None:
                progress(number + 1, num_episodes)
    finally:
        if env is not environment:
            env.close()
    return store


def make(name: str) -> AnyEnv:
    """The lab or Gymnasium environment of this name, with its defaults.

    Raises:
        UnknownNameError: there is none.
    """
    if name in names("lab"):
        lab: AnyEnv = load("lab", name)()
        return lab
    try:
        return gymnasium.make(name)
    except gymnasium.error.Error as error:
        if name.rpartition(":")[2] in gymnasium.registry:
            raise  # it exists, and something else is wrong, such as a package that it needs
        raise UnknownNameError("environment", name, [*names("lab"), *gymnasium.registry]) from error


def run_episode(
    env: AnyEnv, policy: Policy, schema: Schema, max_steps: int, reset_seed: int, generator: np.random.Generator
) -> Episode:
    """One episode: T+1 observations, the first of them from the reset, and the T actions between them.

    Args:
        env: reset here.
        policy: reset here.
        schema: signals that it does not name are left out.
        max_steps: T is at most this.
        reset_seed: of the environment.
        generator: of the policy.
    """
    observation, _ = env.reset(seed=reset_seed)
    policy.reset(generator)
    seen = [to_signals(observation, env.observation_space, Role.OBSERVATION)]
    taken: list[dict[str, Array]] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(taken) < max_steps:
        taken.append(to_signals(policy.act(observation, generator), env.action_space, Role.ACTION))
        action = from_signals(taken[-1], env.action_space, Role.ACTION)  # what is executed is what is logged
        observation, _, terminated, truncated, _ = env.step(action)
        seen.append(to_signals(observation, env.observation_space, Role.OBSERVATION))
    wanted = {signal.name for signal in schema.signals}
    return Episode(
        observations=_stack(seen, wanted),
        actions=_stack(taken, wanted),
        terminated=bool(terminated),
        truncated=not terminated,
        seed=reset_seed,
    )


def _stack(rows: list[dict[str, Array]], wanted: set[str]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0] if name in wanted}


def _policy(policy: Policy | Act | str | None, env: AnyEnv) -> Policy:
    lab = env.unwrapped if isinstance(env.unwrapped, Lab) else None
    if isinstance(policy, Policy):
        return policy
    if policy == "random" or (policy is None and lab is None):
        return RandomPolicy(env.action_space)
    if lab is not None and (policy is None or policy == "explorer"):
        return lab.explorer()
    if isinstance(policy, str):
        known = "'random'" if lab is None else "'random' or 'explorer'"
        raise InputError(f"policy is {policy!r}. Use {known}, a policy, or a function of observation and generator.")
    assert policy is not None
    return FunctionPolicy(policy)
