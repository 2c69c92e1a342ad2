"""Gymnasium spaces as named signals, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.errors import UnsupportedError
from worldline.labs.lab import Lab

Array = NDArray[np.generic]
AnyEnv = gymnasium.Env[Any, Any]
AnySpace = gymnasium.Space[Any]


def schema_of(environment: AnyEnv) -> Schema:
    """The signals of an environment: a lab's own schema, else what its spaces say.

    A `Dict` space gives a signal for each key, any other space one signal called "observation" or "action". A `Box`
    of uint8 with rows and columns is an image, any other `Box` a vector (laid out flat), `Discrete` is discrete.
    Units are "?", and bounds that are not finite in every component are left out.

    Raises:
        UnsupportedError: a space is none of these.
    """
    if isinstance(environment.unwrapped, Lab):
        return environment.unwrapped.schema
    parts = [(Role.OBSERVATION, environment.observation_space), (Role.ACTION, environment.action_space)]
    signals = [_signal(name, role, leaf) for role, space in parts for name, leaf in _leaves(space, role).items()]
    return Schema(signals=tuple(signals))


def to_signals(value: Any, space: AnySpace, role: Role) -> dict[str, Array]:
    """Copies of what an environment showed or took, by the names and in the dtypes of `schema_of`.

    Args:
        value: an element of `space`.
        space: of the environment's observations or actions.
        role: observation or action.
    """
    values = value if isinstance(space, spaces.Dict) else {role.value: value}
    return {
        name: _to_array(values[name], leaf, _signal(name, role, leaf)) for name, leaf in _leaves(space, role).items()
    }


def from_signals(arrays: Mapping[str, Array | np.generic], space: AnySpace, role: Role) -> Any:
    """The element of `space` that `arrays` describes; undoes `to_signals`.

    Args:
        arrays: one value of each signal, by the names of `schema_of`.
        space: of the environment's observations or actions.
        role: observation or action.
    """
    values = {name: _from_array(np.asarray(arrays[name]), leaf) for name, leaf in _leaves(space, role).items()}
    return values if isinstance(space, spaces.Dict) else values[role.value]


def _leaves(space: AnySpace, role: Role) -> Mapping[str, AnySpace]:
    return space.spaces if isinstance(space, spaces.Dict) else {role.value: space}


def _signal(name: str, role: Role, space: AnySpace) -> Signal:
    if isinstance(space, spaces.Discrete):
        return Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=int(space.n))
    if not isinstance(space, spaces.Box):
        raise UnsupportedError(
            f"{role} {name!r} is a {type(space).__name__}; signals are made of Box, Discrete, and a Dict of these. "
            "Wrap the environment, for example in gymnasium.wrappers.FlattenObservation."
        )
    if space.dtype == np.uint8 and len(space.shape) in (2, 3):
        return Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*space.shape, 1)[:3])
    low, high = space.low.astype(float).reshape(-1), space.high.astype(float).reshape(-1)
    return Signal(
        name=name,
        role=role,
        kind=Kind.VECTOR,
        shape=(low.size,),
        unit="?",
        low=tuple(low.tolist()) if np.isfinite(low).all() else None,
        high=tuple(high.tolist()) if np.isfinite(high).all() else None,
    )


def _to_array(value: Any, space: AnySpace, signal: Signal) -> Array:
    start = space.start if isinstance(space, spaces.Discrete) else 0
    return np.array(value - start if start else value, signal.dtype).reshape(signal.shape)


def _from_array(value: Array, space: AnySpace) -> Any:
    if isinstance(space, spaces.Discrete):
        return np.int64(value) + space.start
    return value.astype(space.dtype).reshape(space.shape)
