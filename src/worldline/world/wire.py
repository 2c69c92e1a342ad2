"""The messages between processes: every verb of `World` and its answer, in msgpack.

A message is a map of a version number and one named body. Dataclasses are maps of their fields. Arrays are maps of
dtype, shape and raw little-endian bytes. Costs and constraints are named by class, from a closed table. Nothing is
pickled and nothing received is executed. Received data is untrusted: its structure is measured before it is built,
and each value is checked against the type of the contract.
"""

from __future__ import annotations

import math
import struct
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card
from worldline.episode import Arrays, Episode, History
from worldline.errors import (
    BundleError,
    CollapseError,
    ConfigError,
    DataError,
    InputError,
    MissingExtraError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    WorldlineError,
)
from worldline.planning.base import Chance, Constraint, Goal, PlanRequest
from worldline.planning.costs import (
    AtLeast,
    AtMost,
    Change,
    KeepApart,
    KeepClear,
    KeepOut,
    OODPenalty,
    Price,
    RequireInDistribution,
    Track,
    Within,
)
from worldline.world.base import Plan, Prediction, Scores, Surprise, WhatIf, World

try:
    import msgspec
except ModuleNotFoundError as error:
    raise MissingExtraError("msgspec", "client") from error

VERSION: Final = 1
"""Version of the messages. Increase it when an older side would misread one."""

CONTENT_TYPE: Final = "application/msgpack"

MAX_VALUES: Final = 200_000
"""Largest number of values in a message, to bound memory. An array of any size counts about ten."""

MAX_NESTED: Final = 32
"""Largest nesting depth of lists and maps."""

DTYPES: Final = ("float32", "float64", "uint8", "int64", "bool")
"""Allowed dtypes of arrays."""

RULES: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind
    for kind in (
        AtLeast,
        AtMost,
        Chance,
        Change,
        RequireInDistribution,
        KeepApart,
        KeepClear,
        KeepOut,
        Price,
        Track,
        OODPenalty,
        Within,
    )
}
"""The costs and constraints that can be sent."""

_ERRORS: Final[Mapping[type[WorldlineError], Any]] = {
    **dict.fromkeys(
        (WorldlineError, BundleError, CollapseError, ConfigError, InputError, UnavailableError, UnsupportedError),
        tuple[str],
    ),
    DataError: tuple[str, str, str | None, int | None, str | None, int | None],
    MissingExtraError: tuple[str, str],
    UnknownNameError: tuple[str, str, tuple[str, ...]],
}
"""Per error that can be sent, the types of its arguments."""

_MAX_AXES: Final = 16
_MAX_PRODUCT: Final = 2**40  # bounds the shape of an empty array, which its bytes do not

Answer = TypeVar("Answer")


class Call(ABC, Generic[Answer]):
    """A verb of `World` with its arguments."""

    verb: ClassVar[str]
    answer: ClassVar[Any]
    """The type of the answer."""

    @abstractmethod
    def ask(self, world: World) -> Answer:
        """Calls the verb on `world`."""


@dataclass(frozen=True, kw_only=True)
class DescribeCall(Call[Card]):
    """See `World.describe`."""

    verb: ClassVar[str] = "describe"
    answer: ClassVar[Any] = Card

    def ask(self, world: World) -> Card:
        """Calls the verb on `world`."""
        return world.describe()


@dataclass(frozen=True, kw_only=True)
class PredictCall(Call[Prediction]):
    """See `World.predict`."""

    history: History
    actions: Arrays
    exogenous: Arrays | None = None
    level: float = 0.9

    verb: ClassVar[str] = "predict"
    answer: ClassVar[Any] = Prediction

    def ask(self, world: World) -> Prediction:
        """Calls the verb on `world`."""
        return world.predict(self.history, self.actions, exogenous=self.exogenous, level=self.level)


@dataclass(frozen=True, kw_only=True)
class ScoreCall(Call[Scores]):
    """See `World.score`."""

    history: History
    actions: Arrays
    goal: Goal
    constraints: Sequence[Constraint] = ()
    exogenous: Arrays | None = None

    verb: ClassVar[str] = "score"
    answer: ClassVar[Any] = Scores

    def ask(self, world: World) -> Scores:
        """Calls the verb on `world`."""
        return world.score(self.history, self.actions, self.goal, self.constraints, exogenous=self.exogenous)


@dataclass(frozen=True, kw_only=True)
class PlanCall(Call[Plan]):
    """See `World.plan`."""

    history: History
    request: PlanRequest

    verb: ClassVar[str] = "plan"
    answer: ClassVar[Any] = Plan

    def ask(self, world: World) -> Plan:
        """Calls the verb on `world`."""
        return world.answer_plan(self.history, self.request)


@dataclass(frozen=True, kw_only=True)
class WhatIfCall(Call[WhatIf]):
    """See `World.what_if`."""

    episode: Episode
    at: int
    actions: Arrays

    verb: ClassVar[str] = "what_if"
    answer: ClassVar[Any] = WhatIf

    def ask(self, world: World) -> WhatIf:
        """Calls the verb on `world`."""
        return world.what_if(self.episode, self.at, self.actions)


@dataclass(frozen=True, kw_only=True)
class SurpriseCall(Call[Surprise]):
    """See `World.surprise`."""

    episode: Episode

    verb: ClassVar[str] = "surprise"
    answer: ClassVar[Any] = Surprise

    def ask(self, world: World) -> Surprise:
        """Calls the verb on `world`."""
        return world.surprise(self.episode)


CALLS: Final[Mapping[str, type[Call[Any]]]] = {
    call.verb: call for call in (DescribeCall, PredictCall, ScoreCall, PlanCall, WhatIfCall, SurpriseCall)
}
"""The class of the message per verb."""


def encode_call(call: Call[Any]) -> bytes:
    """The message for a call.

    Raises:
        UnsupportedError: a cost or constraint is not one of `RULES`.
        InputError: a value cannot be sent, such as an array of another dtype.
    """
    return _encode(call.verb, call)


def decode_call(verb: str, body: bytes) -> Call[Any]:
    """The call in a message.

    Args:
        verb: expected verb.
        body: the message.

    Raises:
        UnknownNameError: there is no such verb.
        InputError: the message has another version or verb, is damaged or too large, or a value has the wrong type.
    """
    if verb not in CALLS:
        raise UnknownNameError("verb", verb, CALLS)
    found, tree = _decode(body)
    if found != verb:
        raise InputError(f"expected a message for {verb!r}, got {found!r:.60}. Post it to its own verb.")
    call: Call[Any] = _unpack(CALLS[verb], tree, verb)
    return call


def encode_answer(answer: object) -> bytes:
    """The message for the result of a verb.

    Raises:
        InputError: a value cannot be sent.
    """
    return _encode("answer", answer)


def encode_error(error: WorldlineError) -> bytes:
    """The message for an error of a verb. An unknown subclass is sent as its nearest base in the tree of worldline."""
    kind = next(base for base in type(error).__mro__ if base in _ERRORS)
    arguments: tuple[object, ...] = (str(error),)
    if isinstance(error, DataError):
        file = None if error.file is None else str(error.file)
        arguments = error.problem, error.fix, file, error.episode, error.signal, error.step
    elif isinstance(error, MissingExtraError):
        arguments = error.package, error.extra
    elif isinstance(error, UnknownNameError):
        arguments = error.kind, error.name, error.known
    return _encode("error", {"class": kind.__name__, "arguments": arguments})


def decode_answer(call: Call[Answer], body: bytes) -> Answer | WorldlineError:
    """The result of a verb, or the error that it raised.

    Args:
        call: the call.
        body: the message.

    Raises:
        InputError: as in `decode_call`.
    """
    found, tree = _decode(body)
    if found == "error":
        return _unpack_error(tree)
    if found != "answer":
        raise InputError(f"expected an answer, got a message for {found!r:.60}.")
    answer: Answer = _unpack(call.answer, tree, call.verb)
    return answer


def _encode(name: str, value: object) -> bytes:
    tree = {"worldline": VERSION, name: _pack(value, name)}
    try:
        return msgspec.msgpack.encode(tree)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be sent: {error}. Use 64-bit integers and plain text.") from error


def _decode(body: bytes) -> tuple[str, Any]:
    """The name and the tree of the body in a message."""
    _measure(body)
    try:
        tree = msgspec.msgpack.decode(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the message is not msgpack: {error}. Fetch or send it again.") from error
    version = tree.get("worldline") if isinstance(tree, dict) else None
    if version is None:
        raise InputError("the message has no version number, so it is not from worldline. See worldline.world.wire.")
    if type(version) is not int or version != VERSION:
        raise InputError(
            f"expected message version {VERSION}, got {version!r:.40}. Install compatible releases of worldline "
            "on both sides."
        )
    names = [name for name in tree if name != "worldline"]
    if len(names) != 1 or not isinstance(names[0], str):
        raise InputError(f"expected one body, named by its verb, got {len(names)}.")
    return names[0], tree[names[0]]


def _pack(value: object, where: str) -> Any:
    """The value as maps, lists, text, bytes and numbers."""
    if isinstance(value, np.ndarray):
        return _pack_array(value, where)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: _pack(inner, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(inner, f"{where}[{number}]") for number, inner in enumerate(value)]
    rule = RULES.get(type(value).__name__)
    if callable(value) and type(value) is not rule:
        raise UnsupportedError(
            f"{where}: {value!r:.200} is code and cannot be sent to another process. Use the costs and "
            f"constraints of worldline.planning.costs, or Chance around one ({', '.join(RULES)}). Or open the world in "
            "this process."
        )
    if not is_dataclass(value) or isinstance(value, type):
        raise InputError(f"{where} is {value!r:.200}, which cannot be sent. Use arrays, numbers or text.")
    packed = {item.name: _pack(vars(value)[item.name], f"{where}.{item.name}") for item in fields(value)}
    return {"rule": type(value).__name__, **packed} if type(value) is rule else packed


def _pack_array(value: NDArray[Any], where: str) -> dict[str, Any]:
    kind = value.dtype
    if kind.name not in DTYPES:
        # Widening changes no value, and a world accepts the wider dtype.
        wider = np.dtype("float64" if kind.kind == "f" else "int64")
        if kind.kind not in "fiu" or not np.can_cast(kind, wider):
            raise InputError(f"{where} has dtype {kind}, which cannot be sent. Convert it to {', '.join(DTYPES)}.")
        kind = wider
    data = value.astype(kind.newbyteorder("<"), copy=False).tobytes()
    return {"dtype": kind.name, "shape": list(value.shape), "data": data}


def _unpack(hint: Any, tree: Any, where: str) -> Any:
    """The value of type `hint` in `tree`."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        hint = next((option for option in inner if _fits(option, tree)), hint)
        kind, inner = get_origin(hint) or hint, get_args(hint)
    if not _fits(hint, tree):
        got = f"{tree!r:.60}" if isinstance(tree, bool | int | float | str) else type(tree).__name__
        raise InputError(f"{where}: expected {_words(hint)}, got {got}.")
    if kind is np.ndarray:
        return _unpack_array(get_args(inner[1])[0], tree, where)
    if kind is Mapping:
        return {name: _unpack(inner[1], value, f"{where}.{name}") for name, value in _named(tree, where).items()}
    if kind is tuple and inner[-1] is not ...:
        return tuple(_unpack(hint, one, f"{where}[{n}]") for n, (hint, one) in enumerate(zip(inner, tree, strict=True)))
    if kind in (tuple, Sequence):
        return tuple(_unpack(inner[0], one, f"{where}[{number}]") for number, one in enumerate(tree))
    if kind is Callable:
        named = _named(tree, where)
        return _build(RULES[tree["rule"]], {name: one for name, one in named.items() if name != "rule"}, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return _build(kind, _named(tree, where), where)
    return kind(tree) if kind in (float, int, str) or _is_enum(kind) else tree


def _fits(hint: Any, tree: Any) -> bool:
    """Whether the outermost level of `tree` can have this type."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Callable:
        name = tree.get("rule") if isinstance(tree, dict) else None
        return isinstance(name, str) and name in RULES
    if kind is np.ndarray:
        return isinstance(tree, dict | bool | int | float)
    if kind is Mapping or is_dataclass(kind):
        return isinstance(tree, dict)
    if kind in (tuple, Sequence):
        fixed = kind is tuple and inner[-1] is not ...
        return isinstance(tree, list) and (not fixed or len(tree) == len(inner))
    if kind is Literal:
        return isinstance(tree, str) and tree in inner
    if _is_enum(kind):
        return isinstance(tree, str) and any(tree == member.value for member in kind)
    return type(tree) in (float, int) if kind is float else type(tree) is kind


def _build(kind: Any, named: Mapping[str, Any], where: str) -> Any:
    """The dataclass with these fields."""
    hints = _fields(kind)
    for name in named:
        if name not in hints:
            raise InputError(f"{where}: {UnknownNameError('field', name, hints)}")
    missing = [name for name, (_, needed) in hints.items() if needed and name not in named]
    if missing:
        raise InputError(f"{where}: {missing[0]!r} of {kind.__name__} is missing.")
    values = {name: _unpack(hints[name][0], one, f"{where}.{name}") for name, one in named.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:  # from __post_init__, such as ConfigError
        raise InputError(f"{where}: {error}") from error


@cache
def _fields(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """Per field of a dataclass its type, and whether it is required."""
    hints = get_type_hints(kind)
    return {
        item.name: (hints[item.name], item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    }


def _unpack_array(scalar: type[np.generic], tree: Any, where: str) -> NDArray[Any]:
    """The array, after its size was checked against its bytes."""
    if not isinstance(tree, dict):  # a NumPy scalar, such as an element of a discrete array
        tree = _pack_array(np.asarray(tree), where)
    name, shape, data = (tree.get(key) for key in ("dtype", "shape", "data"))
    if len(tree) != 3 or name not in DTYPES or not isinstance(shape, list) or not isinstance(data, bytes):
        raise InputError(f"{where}: expected an array, a map of dtype (one of {', '.join(DTYPES)}), shape and data.")
    if len(shape) > _MAX_AXES or any(type(axis) is not int or axis < 0 for axis in shape):
        raise InputError(f"{where}: expected a shape of at most {_MAX_AXES} sizes of at least 0, got {shape!r:.80}.")
    kind = np.dtype(name)
    num_bytes = math.prod(shape) * kind.itemsize
    if num_bytes != len(data) or math.prod(max(axis, 1) for axis in shape) > _MAX_PRODUCT:
        raise InputError(f"{where}: expected {num_bytes:.6g} bytes for {name}{shape!r:.80}, got {len(data)}.")
    if not np.issubdtype(kind, scalar):
        raise InputError(f"{where}: expected {scalar.__name__} values, got {name}.")
    if kind == np.bool_ and np.any(np.frombuffer(data, np.uint8) > 1):
        raise InputError(f"{where}: expected bool values as bytes 0 and 1, got others.")
    # A copy, because torch needs aligned and writable memory.
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape).astype(kind)


def _unpack_error(tree: Any) -> WorldlineError:
    kinds = {kind.__name__: kind for kind in _ERRORS}
    name = tree.get("class") if isinstance(tree, dict) else None
    if not isinstance(name, str) or name not in kinds or len(tree) != 2:
        raise InputError(f"the message holds an error that worldline does not define: {name!r:.60}.")
    kind = kinds[name]
    arguments = _unpack(_ERRORS[kind], tree.get("arguments"), name)
    if kind is DataError:
        problem, fix, file, episode, signal, step = arguments
        return DataError(problem, fix=fix, file=file, episode=episode, signal=signal, step=step)
    return kind(*arguments)


def _named(tree: Mapping[Any, Any], where: str) -> Mapping[str, Any]:
    for name in tree:
        if not isinstance(name, str):
            raise InputError(f"{where}: expected text as name, got {name!r:.60}.")
    return tree


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _words(hint: Any) -> str:
    """The name of this type in messages."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(option) for option in inner))
    if kind is Callable:
        return f"a cost or constraint ({', '.join(RULES)})"
    if kind is Literal or _is_enum(kind):
        return f"one of {', '.join(inner if kind is Literal else (member.value for member in kind))}"
    names: Mapping[Any, str] = {
        np.ndarray: "an array",
        Mapping: "a map by name",
        Sequence: "a list",
        tuple: "a list",
        types.NoneType: "nothing",
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
    }
    if kind is tuple and inner[-1] is not ...:
        return f"a list of {len(inner)}"
    return names.get(kind, str(getattr(kind, "__name__", kind)))


_SIZED: Final[Mapping[int, tuple[str, str]]] = {
    **{0xC4 + n: ("bytes", code) for n, code in enumerate("BHI")},
    **{0xD9 + n: ("bytes", code) for n, code in enumerate("BHI")},
    **{0xDC + n: ("list", code) for n, code in enumerate("HI")},
    **{0xDE + n: ("map", code) for n, code in enumerate("HI")},
}
"""First bytes of values with an explicit size: the kind of value, and the struct code of the size."""

_FIXED: Final[Mapping[int, int]] = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),
    **{0xCA: 4, 0xCB: 8},
    **{0xCC + n: 1 << n for n in range(4)},
    **{0xD0 + n: 1 << n for n in range(4)},
}
"""First bytes of nil, booleans and numbers: the number of bytes that follow."""


def _measure(body: bytes) -> None:
    """Walks over the message without building anything.

    Raises:
        InputError: it ends too early or too late, nests too deeply, has too many values, or has extension types.
    """
    left, at, num_values = [1], 0, 0  # left: remaining values at each level
    while left:
        if at + sum(left) > len(body):
            raise InputError(f"the message ends after {len(body)} bytes, before it is complete. Send it again.")
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        num_values += 1
        if num_values > MAX_VALUES:
            raise InputError(f"the message has more than {MAX_VALUES} values. Send long lists of numbers as arrays.")
        skipped, inside = _head(body, at)
        at += skipped
        if inside is not None:
            left.append(inside)
        if len(left) > MAX_NESTED:
            raise InputError(f"the message nests more than {MAX_NESTED} levels. No message of worldline does.")
    if at != len(body):
        raise InputError(f"the message has {len(body) - at} bytes after its end. Send one message.")


def _head(body: bytes, at: int) -> tuple[int, int | None]:
    """The number of bytes of the value at `at` without its items, and its number of items."""
    first = body[at]
    if first < 0x80 or first >= 0xE0:
        return 1, None
    if first < 0x90:
        return 1, 2 * (first & 0x0F)
    if first < 0xA0:
        return 1, first & 0x0F
    if first < 0xC0:
        return 1 + (first & 0x1F), None
    if first in _FIXED:
        return 1 + _FIXED[first], None
    if first not in _SIZED:
        raise InputError(f"the message holds the byte {first:#x} at {at}, a type that worldline does not use.")
    what, code = _SIZED[first]
    wide = struct.calcsize(f">{code}")
    if at + 1 + wide > len(body):
        raise InputError(f"the message ends after {len(body)} bytes, before it is complete. Send it again.")
    (size,) = struct.unpack_from(f">{code}", body, at + 1)
    if what == "bytes":
        return 1 + wide + size, None
    return 1 + wide, size if what == "list" else 2 * size
