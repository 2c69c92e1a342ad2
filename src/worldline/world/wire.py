"""The messages between processes: every verb of `World` and its answer, in msgpack and in JSON.

In msgpack, a message holds a version number, the name of its content, the content, and the bytes of all arrays in it.
In the content, dataclasses are maps of their fields, and arrays are maps of dtype, shape and place in the list of
bytes. Costs and constraints are named by class, from a closed table. Nothing is pickled and nothing received is
executed. Received data is untrusted: its size is limited before it is built, and msgspec checks each value against the
type of the contract.

In JSON, a message is the content alone: the arguments of the verb, or its answer. An array is a list of numbers, nested
by axis, or a map of dtype, shape and its bytes in base64. NaN and infinity are null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, reduce
from inspect import signature
from operator import or_
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from numpy.typing import NDArray

from worldline.errors import (
    BundleError,
    CollapseError,
    ConfigError,
    DataError,
    EngineError,
    InputError,
    MissingExtraError,
    NoGoodAnswerError,
    StoppedError,
    UnavailableError,
    UnknownNameError,
    UnreadableError,
    UnsupportedError,
    WorldlineError,
)
from worldline.planning.base import Chance
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
from worldline.world.base import World

VERSION: Final = 1
"""Version of the messages. Increase it when an older side would misread one."""

CONTENT_TYPE: Final = "application/msgpack"

MAX_BODY_BYTES: Final = 2**20
"""Largest size of a message without the bytes of its arrays. It bounds the memory for decoded values."""

MAX_ARRAYS: Final = 20_000
"""Largest number of arrays in a message."""

DTYPES: Final = ("float32", "float64", "uint8", "int64", "bool")
"""Allowed dtypes of arrays."""

VERBS: Final[Mapping[str, Callable[..., Any]]] = {
    "describe": World.describe,
    "predict": World.predict,
    "score": World.score,
    "plan": World.answer_plan,
    "what_if": World.what_if,
    "surprise": World.surprise,
}
"""The verbs that can be called, and the methods that answer them."""

RULES: Final[Mapping[str, Any]] = {
    kind.__name__: kind
    for kind in (
        AtLeast,
        AtMost,
        Chance,
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
}
"""The costs and constraints that can be sent; a `Chance` only around one of the others."""

_PLAIN_ERRORS: Final[tuple[type[WorldlineError], ...]] = (
    WorldlineError,
    BundleError,
    CollapseError,
    ConfigError,
    InputError,
    NoGoodAnswerError,
    StoppedError,
    UnavailableError,
    UnreadableError,
    UnsupportedError,
)

_ERRORS: Final[Mapping[type[WorldlineError], Mapping[str, Any]]] = {
    **{kind: {"message": str} for kind in _PLAIN_ERRORS},
    DataError: {
        "problem": str,
        "fix": str,
        "file": str | None,
        "episode": int | None,
        "signal": str | None,
        "step": int | None,
    },
    MissingExtraError: {"package": str, "extra": str},
    EngineError: {"message": str, "step": int | None},
    UnknownNameError: {"kind": str, "name": str, "known": tuple[str, ...]},
}
"""Per error that can be sent, its arguments and their types."""

_MAX_AXES: Final = 16
_MAX_PRODUCT: Final = 2**40  # bounds the shape of an empty array, which its bytes do not
_STRICT: Final[Mapping[str, Any]] = {"kw_only": True, "forbid_unknown_fields": True}
_DAMAGED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Call:
    """A verb of `World` with its arguments.

    Args:
        verb: one of `VERBS`.
        arguments: by name.
    """

    verb: str
    arguments: Mapping[str, Any]

    def ask(self, world: World) -> object:
        """Calls the verb on `world`."""
        return getattr(world, VERBS[self.verb].__name__)(**self.arguments)


def encode_call(call: Call) -> bytes:
    """The message for a call.

    Raises:
        UnsupportedError: a cost or constraint is not one of `RULES`.
        InputError: a value cannot be sent, such as an array of another dtype.
    """
    return _encode(call.verb, call.arguments)


def decode_call(verb: str, body: bytes) -> Call:
    """The call in a message.

    Args:
        verb: expected verb.
        body: the message.

    Raises:
        UnknownNameError: there is no such verb.
        InputError: the message has another version or verb, is damaged or too large, or a value has the wrong type.
    """
    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    message = _decode(body)
    if message.name != verb:
        raise InputError(f"expected a message for {verb!r}, got {message.name!r:.60}. Post it to its own verb.")
    found = _content(_struct(VERBS[verb]), message, verb)
    return Call(verb, _arguments(VERBS[verb], found, dict(enumerate(message.arrays)), verb))


def encode_answer(answer: object) -> bytes:
    """The message for the result of a verb.

    Raises:
        InputError: a value cannot be sent.
    """
    return _encode("answer", answer)


def decode_answer(kind: type[Answer], body: bytes) -> Answer | WorldlineError:
    """The result of a verb, or the error that it raised.

    Args:
        kind: type of the result.
        body: the message.

    Raises:
        InputError: as in `decode_call`.
    """
    message = _decode(body)
    if message.name == "error":
        return _decode_error(message)
    if message.name != "answer":
        raise InputError(f"expected an answer, got a message for {message.name!r:.60}.")
    found = _content(_type(kind), message, kind.__name__)
    answer: Answer = _build(kind, found, dict(enumerate(message.arrays)), kind.__name__)
    return answer


def decode_json_call(verb: str, body: bytes) -> Call:
    """The call in a JSON message: the arguments of the verb.

    Args:
        verb: that is called.
        body: the message.

    Raises:
        UnknownNameError: there is no such verb.
        InputError: the message is damaged or too large, or a value has the wrong type.
    """
    if verb not in VERBS:
        raise UnknownNameError("verb", verb, VERBS)
    try:
        found = msgspec.json.decode(body, type=_struct(VERBS[verb]))
    except _DAMAGED as error:
        raise InputError(f"{verb}: {error}. Send what the contract of `World` names.") from error
    return Call(verb, _arguments(VERBS[verb], found, {}, verb))


def encode_json_answer(answer: object) -> bytes:
    """The JSON message for the result of a verb; images are in base64.

    Raises:
        InputError: a value cannot be sent.
    """
    return msgspec.json.encode(_pack(answer, None, "answer"))


def encode_error(error: WorldlineError) -> bytes:
    """The message for an error of a verb. An unknown subclass is sent as its nearest base in the tree of worldline."""
    kind = next(base for base in type(error).__mro__ if issubclass(base, WorldlineError) and base in _ERRORS)
    values = {**vars(error), "message": str(error)}
    sent = {name: str(value) if isinstance(value := values[name], Path) else value for name in _ERRORS[kind]}
    return _encode("error", {"class": kind.__name__, **sent})


def _decode_error(message: _Message) -> WorldlineError:
    kinds: dict[type[Struct], Any] = {
        defstruct(kind.__name__, list(arguments.items()), tag_field="class", **_STRICT): kind
        for kind, arguments in _ERRORS.items()
    }
    found = _content(_union(kinds), message, "error")
    kind, arguments = kinds[type(found)], msgspec.structs.asdict(found)
    error: WorldlineError = kind(*arguments.values()) if "message" in arguments else kind(**arguments)
    return error


class _Version(Struct):
    """The part of a message that every version has."""

    worldline: int


class _Message(_Version, kw_only=True, forbid_unknown_fields=True):
    """A message: the name of its content, the content, and the bytes of the arrays in it."""

    name: str
    content: Raw
    arrays: Annotated[list[bytes], Meta(max_length=MAX_ARRAYS)]


class _Array(Struct, kw_only=True, forbid_unknown_fields=True):
    """An array in the content of a message; its bytes are `data`, or at `place` in `_Message.arrays`."""

    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=_MAX_AXES)]
    place: int | UnsetType = UNSET
    data: bytes | UnsetType = UNSET


def _encode(name: str, value: object) -> bytes:
    arrays = list[bytes]()
    content = _pack(value, arrays, name)
    try:
        return msgspec.msgpack.encode({"worldline": VERSION, "name": name, "content": content, "arrays": arrays})
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be sent: {error}. Use 64-bit integers and plain text.") from error


def _decode(body: bytes) -> _Message:
    """The message, with its content still encoded."""
    try:
        version = msgspec.msgpack.decode(body, type=_Version).worldline
        message = msgspec.msgpack.decode(body, type=_Message) if version == VERSION else None
    except _DAMAGED as error:
        raise InputError(f"the message is damaged or not from worldline: {error}. Send it again.") from error
    if message is None:
        raise InputError(
            f"expected message version {VERSION}, got {version}. Install compatible releases of worldline on both "
            "sides."
        )
    if (size := memoryview(message.content).nbytes) > MAX_BODY_BYTES:
        raise InputError(
            f"the message has {size} bytes without its arrays, more than {MAX_BODY_BYTES}. Send long lists of numbers "
            "as arrays."
        )
    return message


def _content(kind: Any, message: _Message, where: str) -> Any:
    """The content of a message, checked against a type of messages."""
    try:
        return msgspec.msgpack.decode(message.content, type=kind)
    except _DAMAGED as error:
        problem = str(error).replace("`$", f"`{where}")
        raise InputError(f"{where}: {problem}. Send what the contract of `World` names.") from error


def _pack(value: object, arrays: list[bytes] | None, where: str) -> Any:
    """The value as maps, lists, text and numbers; appends the bytes of its arrays, or holds them if that is None."""
    if isinstance(value, np.ndarray):
        return _pack_array(value, arrays, where)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {name: _pack(inner, arrays, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(inner, arrays, f"{where}[{number}]") for number, inner in enumerate(value)]
    rule = RULES.get(type(value).__name__)
    if callable(value) and type(value) is not rule:
        raise UnsupportedError(
            f"{where}: {value!r:.200} is code and cannot be sent to another process. Use the costs and "
            f"constraints of worldline.planning.costs, or Chance around one ({', '.join(RULES)}). Or open the world in "
            "this process."
        )
    if not is_dataclass(value) or isinstance(value, type):
        raise InputError(f"{where} is {value!r:.200}, which cannot be sent. Use arrays, numbers or text.")
    packed = {item.name: _pack(vars(value)[item.name], arrays, f"{where}.{item.name}") for item in fields(value)}
    return {"rule": type(value).__name__, **packed} if type(value) is rule else packed


def _pack_array(value: NDArray[Any], arrays: list[bytes] | None, where: str) -> dict[str, Any] | list[Any]:
    kind = value.dtype
    if kind.name not in DTYPES:
        # Widening changes no value, and a world accepts the wider dtype.
        wider = np.dtype("float64" if kind.kind == "f" else "int64")
        if kind.kind not in "fiu" or not np.can_cast(kind, wider):
            raise InputError(f"{where} has dtype {kind}, which cannot be sent. Convert it to {', '.join(DTYPES)}.")
        kind = wider
    if arrays is None and kind != np.uint8:
        found: list[Any] = value.tolist() if value.ndim else [value.tolist()]
        return found if value.ndim else found[0]
    data = value.astype(kind.newbyteorder("<"), copy=False).tobytes()
    if arrays is None:  # images
        return {"dtype": kind.name, "shape": list(value.shape), "data": data}
    arrays.append(data)
    return {"dtype": kind.name, "shape": list(value.shape), "place": len(arrays) - 1}


@cache
def _parameters(kind: Callable[..., Any]) -> Mapping[str, tuple[Any, bool]]:
    """Per field of a dataclass or argument of a verb its type, and whether it is required."""
    hints = get_type_hints(kind)
    parameters = {name: one for name, one in signature(kind).parameters.items() if name != "self"}
    return {name: (hints[name], one.default is one.empty) for name, one in parameters.items()}


@cache
def _struct(kind: Callable[..., Any], tag: str | None = None) -> Any:
    """The type of messages for a dataclass or the arguments of a verb; `tag` is the name of a cost or constraint."""
    parts: list[Any] = [
        (name, _type(hint)) if required else (name, _type(hint) | UnsetType, UNSET)
        for name, (hint, required) in _parameters(kind).items()
    ]
    return defstruct(kind.__name__, parts, tag_field=tag and "rule", tag=tag, **_STRICT)


def _type(hint: Any) -> Any:
    """The type of messages for a type of the contract."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return _union(_type(option) for option in inner)
    if kind is np.ndarray:
        return _array_type(get_args(inner[1])[0])
    if kind is Callable:
        return _rule_type()
    if kind is Mapping:
        return GenericAlias(dict, (str, _type(inner[1])))
    if kind is Sequence:
        return GenericAlias(tuple, (_type(inner[0]), ...))
    if kind is tuple:
        return GenericAlias(tuple, tuple(_type(item) for item in inner))
    return _struct(hint) if is_dataclass(kind) else hint


def _union(options: Iterable[Any]) -> Any:
    return reduce(or_, options)


@cache
def _array_type(scalar: type[np.generic]) -> Any:
    """The type of messages for arrays, or for a NumPy scalar in the place of one."""
    one_of: Any = Literal  # mypy accepts only values that stand in the source
    dtypes = tuple(name for name in DTYPES if np.issubdtype(name, scalar))
    numbers = {"bool": bool, "int64": int, "float64": float}
    array = defstruct("Array", [("dtype", one_of[dtypes])], bases=(_Array,), **_STRICT)
    return _union((array, list[Any], *(number for name, number in numbers.items() if name in dtypes)))


@cache
def _rule_type() -> Any:
    """The type of messages for costs and constraints."""
    plain = _union(_struct(kind, name) for name, kind in RULES.items() if kind is not Chance)
    parts = [("constraint", plain), ("level", float)]
    return plain | defstruct("Chance", parts, tag_field="rule", tag="Chance", **_STRICT)


def _build(hint: Any, found: Any, arrays: dict[int, bytes], where: str) -> Any:
    """The value of type `hint` from the decoded content of a message."""
    if isinstance(found, _Array):
        return _build_array(found, arrays, where)
    is_union = get_origin(hint) in (Union, UnionType)
    options = [option for option in (get_args(hint) if is_union else (hint,)) if option is not NoneType]
    if found is None or len(options) > 1:  # types with several options hold arrays, numbers and lists of numbers
        return found
    kind, inner = get_origin(options[0]) or options[0], get_args(options[0])
    if isinstance(found, dict):
        return {name: _build(inner[1], value, arrays, f"{where}.{name}") for name, value in found.items()}
    if isinstance(found, tuple):
        return tuple(_build(inner[0], value, arrays, f"{where}[{number}]") for number, value in enumerate(found))
    if isinstance(found, Struct):
        kind = RULES.get(str(found.__struct_config__.tag), kind)
        arguments = _arguments(kind, found, arrays, where)
        try:
            return kind(**arguments)
        except (ValueError, TypeError) as error:  # from __post_init__, such as ConfigError
            raise InputError(f"{where}: {error}") from error
    return _numbers(found, get_args(inner[1])[0], where) if kind is np.ndarray else found


def _numbers(found: Any, scalar: type[np.generic], where: str) -> NDArray[Any]:
    """The array of a number, or of lists of numbers in which null is NaN."""
    try:
        value = np.array(found)
        if value.dtype == object:
            value = np.array(found, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where}: {error}. Send lists of numbers, of equal lengths on each axis.") from error
    if value.dtype.name not in DTYPES or not np.issubdtype(value.dtype, scalar):
        raise InputError(f"{where}: got {value.dtype}, expected numbers of at most 64 bits that the signal can have.")
    return value


def _arguments(kind: Callable[..., Any], found: Struct, arrays: dict[int, bytes], where: str) -> dict[str, Any]:
    """The arguments of a dataclass or a verb from the decoded content of a message."""
    given = {name: value for name in _parameters(kind) if (value := getattr(found, name)) is not UNSET}
    return {name: _build(_parameters(kind)[name][0], value, arrays, f"{where}.{name}") for name, value in given.items()}


def _build_array(found: _Array, arrays: dict[int, bytes], where: str) -> NDArray[Any]:
    """The array, after its size was checked against its bytes, which are taken from `arrays`."""
    data = None if found.data is UNSET else found.data
    if isinstance(found.place, int):
        data = arrays.pop(found.place, None)  # used once, so a small message cannot ask for many copies
    if data is None:
        raise InputError(f"{where}: the message has no further array at place {found.place}. Send each array once.")
    kind, shape = np.dtype(found.dtype), found.shape
    num_bytes = math.prod(shape) * kind.itemsize
    if num_bytes != len(data) or math.prod(max(axis, 1) for axis in shape) > _MAX_PRODUCT:
        raise InputError(f"{where}: expected {num_bytes:.6g} bytes for {kind}{shape!r:.80}, got {len(data)}.")
    if kind == np.bool_ and np.any(np.frombuffer(data, np.uint8) > 1):
        raise InputError(f"{where}: expected bool values as bytes 0 and 1, got others.")
    # A copy, because torch needs aligned and writable memory.
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape).astype(kind)
