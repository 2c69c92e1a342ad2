"""Policies for recording, found by name, class or function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from worldline.errors import InputError
from worldline.labs.base import Lab, Policy
from worldline.labs.spaces import AnyEnv, AnySpace
from worldline.registry import imported

Act = Callable[[Any, np.random.Generator], Any]
"""A policy without memory: maps an observation and a generator to an action."""


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


class _FreshPolicy(Policy):
    """Makes a new policy for each episode, so that no state is carried over."""

    def __init__(self, make: Callable[[], Policy]) -> None:
        self._make = make
        self._policy = make()

    def reset(self, generator: np.random.Generator) -> None:
        self._policy = self._make()
        self._policy.reset(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        return self._policy.act(observation, generator)


def policies_for(policy: Policy | type[Policy] | Act | str | None, env: AnyEnv, number: int) -> list[Policy]:
    """One policy for each of the parallel environments.

    Args:
        policy: "explorer" (of a lab), "random", a function of observation and generator, a policy (copied), a class
            of policies, or "module:name" of one of these. None for the explorer of a lab, else random.
        env: the environment.
        number: number of policies, at least 1.

    Raises:
        InputError: there is no such policy, or it cannot be made or copied.
        UnknownNameError: the module has no such name.
    """
    lab = env.unwrapped if isinstance(env.unwrapped, Lab) else None
    if policy == "random" or (policy is None and lab is None):
        return [RandomPolicy(env.action_space) for _ in range(number)]
    if lab is not None and (policy is None or policy == "explorer"):
        return [_FreshPolicy(lab.explorer) for _ in range(number)]
    if not isinstance(policy, str):
        return _several(policy, repr(policy), number)
    if ":" in policy:
        return _several(imported("policy", policy), repr(policy), number)
    known = "'random'" if lab is None else "'random' or 'explorer'"
    raise InputError(f"policy is {policy!r}. Use {known}, or module:name of a policy or a function.")


def _several(policy: Any, words: str, number: int) -> list[Policy]:
    if isinstance(policy, type):
        if not issubclass(policy, Policy):
            raise InputError(f"policy {words} is not a subclass of worldline.labs.base.Policy. Inherit from it.")
        return [_instance(policy, words) for _ in range(number)]
    if isinstance(policy, Policy):
        return [policy, *(_copy(policy, words) for _ in range(number - 1))]
    if not callable(policy):
        raise InputError(f"policy {words} is a {type(policy).__name__}. Give a policy or a function.")
    if not _takes_two(policy):
        function = f"{words}{inspect.signature(policy)}"
        raise InputError(
            f"policy {function} cannot be called with an observation and a generator. Change its parameters."
        )
    return [FunctionPolicy(policy) for _ in range(number)]


def _instance(kind: type[Policy], words: str) -> Policy:
    try:
        return kind()
    except TypeError as error:
        raise InputError(f"policy {words} cannot be made without arguments: {error}. Give them defaults.") from error


def _copy(policy: Policy, words: str) -> Policy:
    try:
        return copy.deepcopy(policy)
    except TypeError as error:
        problem = f"policy {words} cannot be copied for each environment: {error}"
        raise InputError(f"{problem}. Give its class, or use one environment.") from error


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True
