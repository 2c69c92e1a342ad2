"""Conversion between Gymnasium spaces and named signals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, final

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldline.errors import InputError, UnsupportedError
from worldline.labs.base import Lab
from worldline.schema import Kind, Role, Schema, Signal

Array = NDArray[np.generic]
AnyEnv = gymnasium.Env[Any, Any]
AnySpace = gymnasium.Space[Any]


def schema_of(environment: AnyEnv) -> Schema:
    """Returns the schema of a lab, or a schema built from the spaces of another environment (see `SpaceLayout`).

    Units are "?". Bounds are left out unless all components have finite ones.

    Raises:
        UnsupportedError: a space cannot be converted without loss.
        ConfigError: two parts of the spaces would have the same name.
    """
    if isinstance(environment.unwrapped, Lab):
        return environment.unwrapped.schema
    observations = SpaceLayout(environment.observation_space, Role.OBSERVATION)
    actions = SpaceLayout(environment.action_space, Role.ACTION)
    return Schema(signals=(*observations.signals, *actions.signals))


def boxes(schema: Schema, role: Role) -> AnySpace:
    """Returns a `Dict` space with a bounded box for each vector and image of this role.

    Args:
        schema: of a lab.
        role: observation or action.
    """
    parts: dict[str, AnySpace] = {}
    for signal in schema.signals:
        if signal.role is role:
            ends = (0, 255) if signal.kind is Kind.IMAGE else (signal.low or -np.inf, signal.high or np.inf)
            low, high = (np.broadcast_to(np.array(end, signal.dtype), signal.shape) for end in ends)
            parts[signal.name] = spaces.Box(low, high, dtype=np.dtype(signal.dtype).type)
    return spaces.Dict(parts)


class SpaceLayout:
    """The mapping from a space to signals, computed once and used at every step.

    A `Box` of uint8 with rows and columns becomes an image. Any other `Box` becomes a flat vector, in float64 if
    float32 cannot represent it. `Discrete` becomes a discrete signal, and `MultiDiscrete` one per component. A
    `MultiBinary` observation becomes a vector. A `MultiBinary` action becomes discrete signals, because planners
    treat vectors as continuous.

    Parts of a `Dict` or a `Tuple` that hold text, such as the mission of MiniGrid, are left out.

    Parts of a `Dict` are named by their keys. Parts of a `Tuple` and components are named by their index. Dots
    separate the levels: "arm.joints.0". A space without a key is named "observation" or "action".

    Args:
        space: the environment's observation or action space.
        role: observation or action.

    Raises:
        UnsupportedError: a part of the space is of another type.
    """

    def __init__(self, space: AnySpace, role: Role) -> None:
        self._root = _node(space, role, ())
        self.signals = self._root.signals
        self.left_out = self._root.left_out
        if self.left_out and not self.signals:
            raise UnsupportedError(
                f"observation {self.left_out[0]!r} is a Text, which no signal holds, and there is no other "
                "observation. Add one with a wrapper of Gymnasium."
            )

    def read(self, value: Any) -> dict[str, Array]:
        """Returns copies of the parts of `value` by signal name.

        Raises:
            InputError: `value` is not an element of the space.
        """
        arrays: dict[str, Array] = {}
        self._root.read(value, arrays)
        return arrays

    def write(self, arrays: Mapping[str, Array | np.generic]) -> Any:
        """Returns the element of the space that `arrays` (one value per signal) describe; the inverse of `read`."""
        return self._root.write(arrays)


_Node: TypeAlias = "_Leaf | _Parts | _Text"
"""A space and its nested spaces. `left_out` names those of text; `read` adds the signals of a value to `arrays`."""


@final
class _Leaf:
    """A space that is a single signal."""

    left_out: tuple[str, ...] = ()

    def __init__(self, space: AnySpace, signal: Signal) -> None:
        self._space, self._signal, self.signals = space, signal, (signal,)
        self._start = int(space.start) if isinstance(space, spaces.Discrete) else 0

    def read(self, value: Any, arrays: dict[str, Array]) -> None:
        signal, original = self._signal, np.asarray(value)
        copy = np.empty(signal.shape, signal.dtype)
        exact = signal.kind is not Kind.VECTOR and original.dtype != copy.dtype
        if original.shape != self._space.shape or original.dtype.kind not in ("iub" if exact else "fiub"):
            raise self._wrong(original)
        np.copyto(copy, original.reshape(signal.shape), casting="unsafe")
        if exact and (copy != original.reshape(signal.shape)).any():
            raise self._wrong(original)
        value = np.asarray(copy - self._start) if self._start else copy
        if signal.num_values is not None and not 0 <= int(value) < signal.num_values:
            raise self._wrong(original)
        arrays[signal.name] = value

    def write(self, arrays: Mapping[str, Array | np.generic]) -> Any:
        value = np.asarray(arrays[self._signal.name])
        if isinstance(self._space, spaces.Discrete):
            return np.int64(value) + self._start
        return value.astype(self._space.dtype).reshape(self._space.shape)

    def _wrong(self, value: Array) -> InputError:
        return InputError(
            f"{self._signal.role} {self._signal.name!r} is {value.dtype} of shape {value.shape} "
            f"({np.array2string(value, threshold=8)}). Give an element of {self._space}."
        )


@final
class _Parts:
    """A `Dict`, a `Tuple`, or a `MultiDiscrete` or `MultiBinary` with one discrete signal per component."""

    def __init__(self, space: AnySpace, parts: Mapping[Any, _Node]) -> None:
        self._space, self._parts = space, parts
        self.signals: tuple[Signal, ...] = tuple(signal for part in parts.values() for signal in part.signals)
        self.left_out: tuple[str, ...] = tuple(name for part in parts.values() for name in part.left_out)

    def read(self, value: Any, arrays: dict[str, Array]) -> None:
        if isinstance(self._space, spaces.Dict):
            fits = isinstance(value, Mapping) and value.keys() >= self._parts.keys()
        elif isinstance(self._space, spaces.Tuple):
            fits = isinstance(value, tuple | list) and len(value) == len(self._parts)
        else:
            value = np.asarray(value)
            fits = value.shape == self._space.shape
        if not fits:
            raise InputError(f"the value is {value!r:.200}. Give an element of {self._space}.")
        for key, part in self._parts.items():
            part.read(value[key], arrays)

    def write(self, arrays: Mapping[str, Array | np.generic]) -> Any:
        values = {key: part.write(arrays) for key, part in self._parts.items()}
        if isinstance(self._space, spaces.Dict):
            return values
        if isinstance(self._space, spaces.Tuple):
            return tuple(values.values())
        return np.array([*values.values()]).astype(self._space.dtype).reshape(self._space.shape)


@final
class _Text:
    """A space of texts, which no signal holds. An empty text takes its place."""

    signals: tuple[Signal, ...] = ()

    def __init__(self, name: str) -> None:
        self.left_out: tuple[str, ...] = (name,)

    def read(self, value: Any, arrays: dict[str, Array]) -> None:
        """Adds nothing."""

    def write(self, arrays: Mapping[str, Array | np.generic]) -> Any:
        return ""


def _node(space: AnySpace, role: Role, path: tuple[str, ...]) -> _Node:
    named = path or (role.value,)
    if isinstance(space, spaces.Dict):  # top-level keys need no role in front
        names = {key: str(key).replace("/", ".") for key in space.spaces}  # signal names cannot have slashes
        return _Parts(space, {k: _node(part, role, (*path, names[k])) for k, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return _Parts(space, {i: _node(part, role, (*named, str(i))) for i, part in enumerate(space.spaces)})
    if isinstance(space, spaces.Text) and path and role is Role.OBSERVATION:
        return _Text(".".join(named))
    if isinstance(space, spaces.MultiDiscrete):
        counts, starts = space.nvec, space.start
    elif isinstance(space, spaces.MultiBinary) and role is Role.ACTION:
        counts, starts = np.full(space.shape, 2), np.zeros(space.shape, np.int64)
    else:
        return _leaf(".".join(named), role, space)
    components = {}
    for place in np.ndindex(counts.shape):
        choice = spaces.Discrete(int(counts[place]), start=int(starts[place]))
        components[place] = _leaf(".".join((*named, *map(str, place))), role, choice)
    return _Parts(space, components)


def _leaf(name: str, role: Role, space: AnySpace) -> _Leaf:
    if isinstance(space, spaces.Discrete):
        signal = Signal(name=name, role=role, kind=Kind.DISCRETE, shape=(), num_values=int(space.n))
    elif isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        signal = Signal(name=name, role=role, kind=Kind.VECTOR, shape=(size,), low=(0.0,) * size, high=(1.0,) * size)
    elif isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3):
        signal = Signal(name=name, role=role, kind=Kind.IMAGE, shape=(*space.shape, 1)[:3])
    elif isinstance(space, spaces.Box):
        low, high = space.low.astype(float).reshape(-1), space.high.astype(float).reshape(-1)
        signal = Signal(
            name=name,
            role=role,
            kind=Kind.VECTOR,
            shape=(low.size,),
            unit="?",
            low=tuple(low.tolist()) if np.isfinite(low).all() else None,
            high=tuple(high.tolist()) if np.isfinite(high).all() else None,
            precision="float32" if np.can_cast(space.dtype, np.float32) else "float64",
        )
    else:
        raise UnsupportedError(
            f"{role} {name!r} is a {type(space).__name__}. Supported are Box, Discrete, MultiDiscrete and MultiBinary, "
            "and Dict and Tuple of these. Wrap the environment, for example in "
            "gymnasium.wrappers.FlattenObservation."
        )
    return _Leaf(space, signal)
