"""Policies that record logs, found by whatever the user calls them."""

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


class _Anew(Policy):
    """Makes a policy for each episode, so that nothing of the one before can stay."""

    def __init__(self, make: Callable[[], Policy]) -> None:
        self._make = make
        self._policy = make()

    def reset(self, generator: np.random.Generator) -> None:
        self._policy = self._make()
        self._policy.reset(generator)

    def act(self, observation: Any, generator: np.random.Generator) -> Any:
        return self._policy.act(observation, generator)


def policies_for(policy: Policy | type[Policy] | Act | str | None, env: AnyEnv, number: int) -> list[Policy]:
    """As many policies of one kind as there are environments to run side by side.

    Args:
        policy: "explorer" (a lab's own), "random", a function of observation and generator, a policy (copied), a class
            of policies, or "module:name" of such a thing; None for the explorer of a lab and else random.
        env: what they will act in.
        number: how many, at least 1.

    Raises:
        InputError: there is no such policy, or it cannot be made or copied.
        UnknownNameError: the module does not have the name.
    """
    lab = env.unwrapped if isinstance(env.unwrapped, Lab) else None
    if policy == "random" or (policy is None and lab is None):
        return [RandomPolicy(env.action_space) for _ in range(number)]
    if lab is not None and (policy is None or policy == "explorer"):
        return [_Anew(lab.explorer) for _ in range(number)]
    if not isinstance(policy, str):
        return _several(policy, repr(policy), number)
    if ":" in policy:
        return _several(imported("policy", policy), repr(policy), number)
    known = "'random'" if lab is None else "'random' or 'explorer'"
    raise InputError(f"policy is {policy!r}. Use {known}, or module:name of a policy or of a function.")


def _several(found: Any, words: str, number: int) -> list[Policy]:
    if isinstance(found, type):
        if not issubclass(found, Policy):
            raise InputError(f"policy {words} is a class, but not of worldline.labs.base.Policy. Inherit from it.")
        return [_instance(found, words) for _ in range(number)]
    if isinstance(found, Policy):
        return [found, *(_copy(found, words) for _ in range(number - 1))]
    if not callable(found):
        raise InputError(f"policy {words} is a {type(found).__name__}. Give a policy or a function.")
    if not _takes_two(found):
        given = f"{words}{inspect.signature(found)}"
        raise InputError(f"policy {given} cannot be called with an observation and a generator. Let it take these two.")
    return [FunctionPolicy(found) for _ in range(number)]


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
        raise InputError(f"{problem}. Give its class, or run one environment at a time.") from error


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # built-in functions do not always say what they take
        return True
    return True
