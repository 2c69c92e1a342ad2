"""Policies for recording, found by name, class or function."""

from __future__ import annotations

import copy
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


def policy_maker(policy: Policy | type[Policy] | Act | str | None, env: AnyEnv) -> Callable[[], Policy]:
    """A function that returns the policy of the next episode: a new explorer of a lab, else always the same object.

    Args:
        policy: "explorer" (of a lab), "random", a function of observation and generator, a policy, a class of
            policies, or "module:name" of one of these. None for the explorer of a lab, else random.
        env: the environment.

    Raises:
        InputError: there is no such policy.
        UnknownNameError: the module has no such name.
    """
    lab = env.unwrapped if isinstance(env.unwrapped, Lab) else None
    if lab is not None and policy in (None, "explorer"):
        return lab.explorer
    chosen: Any = imported("policy", policy) if isinstance(policy, str) and ":" in policy else policy
    made = RandomPolicy(env.action_space) if policy in (None, "random") else chosen
    if isinstance(made, type):
        made = made()
    if not isinstance(made, Policy) and callable(made):
        made = FunctionPolicy(made)
    if not isinstance(made, Policy):
        names = "'random'" if lab is None else "'random' or 'explorer'"
        raise InputError(
            f"policy is {policy!r}. Use {names}, a subclass of worldline.labs.base.Policy, a function of observation "
            "and generator, or module:name of one of these."
        )
    return lambda: made
