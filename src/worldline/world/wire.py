"""The messages between processes: every verb of `World` and its answer, in msgpack and in JSON.

In msgpack, a message holds a version number, the name of its content, the content, and the bytes of all arrays in it.
In JSON, a message is the content alone: the arguments of the verb, or its answer.

msgspec encodes the content, and one function builds it again from the type annotations of the contract. Nothing is
pickled and nothing received is executed. Received data is untrusted: its size is limited before it is built, and each
value is checked against the contract.

* A dataclass is a map of its fields. A cost or constraint also has its class under "rule", from a closed table.
* An array is a number, a list of numbers nested by axis, or {"dtype", "shape", "data"}. In JSON, "data" holds the bytes
  in base64. In msgpack, it is the place in the list of bytes of the message. JSON answers use lists, and base64 for
  uint8.
* null in the place of a number is NaN. In `low`, `high` and `bound` it is no limit: the infinite edge of a band, of a
  signal or of a constraint. Bands and limits are never NaN.
* A list cannot state a shape such as [0, 2]. So an empty array among the actions or exogenous inputs of a `History` or
  `Episode` is left out; worlds replace it if there are no steps.
* Of two equal names in an object, the last one counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from worldline import errors
from worldline.episode import Episode, History
from worldline.errors import InputError, UnsupportedError, WorldlineError
from worldline.planning import costs
from worldline.planning.base import Chance, Rule
from worldline.planning.calls import Call

VERSION: Final = 1
"""Version of the messages. Increase it when an older side would misread one."""

CONTENT_TYPE: Final = "application/msgpack"

MAX_BODY_BYTES: Final = 2**20
"""Largest size of a msgpack message without the bytes of its arrays. It bounds the memory for decoded values."""

MAX_ARRAYS: Final = 20_000
"""Largest number of arrays in a msgpack message."""

MAX_JSON_LISTS: Final = 2**18
"""Largest number of lists in a JSON message. A list takes up to 30 times its size in memory."""

MAX_JSON_NAMES: Final = 20_000
"""Largest number of names in a JSON message, and of objects. It bounds the time to check the values."""

DTYPES: Final = ("float32", "float64", "uint8", "int64", "bool")
"""Allowed dtypes of arrays."""

RULES: Final[Mapping[str, type[Rule]]] = {name: getattr(costs, name) for name in costs.__all__} | {"Chance": Chance}
"""The costs and constraints that can be sent."""

NOTHING: Final[Mapping[str, Any]] = {}

FIX: Final = "Send what the contract of `World` names."

Place = tuple[str | int, ...]
"""Names and indices that lead to a value. The first one names the message."""

Arrays = list[bytes | None]
"""The bytes of the arrays of a message in msgpack; None where they were taken."""

_NAMES: Final = {np.dtype(name): name for name in DTYPES}  # `dtype.name` is slow
_MAX_LISTS: Final = 6  # axes of a list of numbers: worlds, steps and an image take 5
_MAX_PRODUCT: Final = 2**40  # bounds the shape of an empty array, which its bytes do not
_MAX_POINTER: Final = 1000

_NO_LIMIT: Final[Mapping[tuple[str, str], float]] = {
    ("AtMost", "bound"): math.inf,
    ("AtLeast", "bound"): -math.inf,
    ("KeepOut", "low"): -math.inf,
    ("KeepOut", "high"): math.inf,
    ("Within", "low"): -math.inf,
    ("Within", "high"): math.inf,
}
"""What null means in the limits of costs and constraints."""

_DAMAGED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for a message that it cannot read."""

Answer = TypeVar("Answer")
Content = TypeVar("Content")


class Default(NamedTuple):
    """The value of a field that a message leaves out."""

    value: Any


class _Version(Struct):
    """The part of a message that every version has."""

    worldline: int


class _Message(_Version, kw_only=True, forbid_unknown_fields=True):
    """A message in msgpack."""

    name: str
    content: Raw
    arrays: Annotated[list[bytes], Meta(max_length=MAX_ARRAYS)]


class _ErrorContent(Struct, kw_only=True, forbid_unknown_fields=True):
    """An error: its class in `worldline.errors`, its text, and its attributes."""

    kind: str
    text: str
    details: Mapping[str, str | int | Sequence[str] | None]


def encode_call(call: Call, without: Collection[str] = ()) -> bytes:
    """The message for a call.

    Args:
        call: any.
        without: fields that the receiver fills in.

    Raises:
        UnsupportedError: a cost or constraint is not one of `RULES`.
        InputError: a value cannot be sent, such as an array of another dtype.
    """
    return encode_content(call.verb, {name: value for name, value in vars(call).items() if name not in without})


def encode_content(name: str, content: object) -> bytes:
    """The message with this name and content; raises as `encode_call` does."""
    arrays = list[bytes]()
    encoded = _encoded(msgspec.msgpack.Encoder(enc_hook=encode_hook(arrays)), content, name)
    message = {"worldline": VERSION, "name": name, "content": Raw(encoded), "arrays": arrays}
    return msgspec.msgpack.encode(message)


def encode_answer(answer: object) -> bytes:
    """The message for the result of a verb.

    Raises:
        InputError: a value cannot be sent.
    """
    return encode_content("answer", answer)


def encode_json_answer(answer: object) -> bytes:
    """The JSON message for the result of a verb.

    Raises:
        InputError: a value cannot be sent.
    """
    return _encoded(msgspec.json.Encoder(enc_hook=encode_hook(None)), answer, "answer")


def encode_error(error: WorldlineError) -> bytes:
    """The message for an error of a verb. An unknown subclass is sent as its nearest base in the tree of worldline."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in errors.__all__)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(error).items()}
    details = {name: value for name, value in plain.items() if isinstance(value, str | int | tuple | None)}
    return encode_content("error", _ErrorContent(kind=kind, text=str(error), details=details))


def decode(kind: type[Content], name: str, body: bytes, filled: Mapping[str, Any] = NOTHING) -> Content:
    """The content of a message.

    Args:
        kind: a dataclass with the types of the contract, such as a call.
        name: expected name of the message; the verb of a call.
        body: the message.
        filled: values of fields that the message must not hold, or may hold if the value is a `Default`.

    Raises:
        MessageError: the message has another version or name, is damaged or too large, or a value has the wrong type.
    """
    message = _unpacked(body)
    if message.name != name:
        raise MessageError(f"expected a message for {name!r}, got {message.name!r:.60}. Post it to its own verb.")
    return _read(kind, message, name, filled)


def decode_answer(kind: type[Answer], body: bytes) -> Answer | WorldlineError:
    """The result of a verb, or the error that it raised.

    Args:
        kind: type of the result.
        body: the message.

    Raises:
        MessageError: as in `decode`.
    """
    message = _unpacked(body)
    if message.name == "error":
        return _decoded_error(message)
    if message.name != "answer":
        raise MessageError(f"expected an answer, got a message for {message.name!r:.60}.")
    return _read(kind, message, kind.__name__, NOTHING)


def decode_json(kind: type[Content], body: bytes, filled: Mapping[str, Any] = NOTHING) -> Content:
    """The content of a JSON message.

    A message of 8 MiB takes at most 170 MiB of memory. The caller limits its size.

    Args:
        kind: as in `decode`.
        body: the message.
        filled: as in `decode`.

    Raises:
        MessageError: the message is damaged, has too many lists or names, or a value has the wrong type.
    """
    for sign, limit, noun in (
        (b"[", MAX_JSON_LISTS, "lists"),
        (b":", MAX_JSON_NAMES, "names"),
        (b"{", MAX_JSON_NAMES, "objects"),
    ):
        if (count := body.count(sign)) > limit:
            raise MessageError(f"the message has {count} {noun}, more than {limit}. Send large arrays in base64.")
    try:
        value: Content = build_fields(kind, msgspec.json.decode(body), [], ("body",), filled)
    except _DAMAGED as error:
        raise MessageError(f"body: {str(error)[:1000]}. {FIX}") from error
    return value


def _unpacked(body: bytes) -> _Message:
    """The message, with its content still encoded."""
    try:
        version = msgspec.msgpack.decode(body, type=_Version).worldline
        message = msgspec.msgpack.decode(body, type=_Message) if version == VERSION else None
    except _DAMAGED as error:
        raise MessageError(f"the message is damaged or not from worldline: {error}. Send it again.") from error
    if message is None:
        raise MessageError(
            f"expected message version {VERSION}, got {version}. Install compatible releases of worldline on both "
            "sides."
        )
    if (num_bytes := memoryview(message.content).nbytes) > MAX_BODY_BYTES:
        raise MessageError(
            f"the message has {num_bytes} bytes without its arrays, more than {MAX_BODY_BYTES}. Send long lists of "
            "numbers as arrays."
        )
    return message


def _read(kind: type[Content], message: _Message, name: str, filled: Mapping[str, Any]) -> Content:
    """The content of a message, built as `kind`."""
    arrays = list[bytes | None](message.arrays)
    try:
        value = msgspec.msgpack.decode(message.content)
        content: Content = (
            build_fields(kind, value, arrays, (name,), filled) if filled else build(kind, value, arrays, (name,))
        )
    except _DAMAGED as error:
        raise MessageError(f"{name}: {str(error)[:1000]}. {FIX}") from error
    return content


def _decoded_error(message: _Message) -> WorldlineError:
    """The error in a message, made without its constructor, which takes other arguments in each class."""
    content: _ErrorContent = convert(_read(dict, message, "error", NOTHING), _ErrorContent, ("error",))
    if content.kind not in errors.__all__:
        raise MessageError(f"error: {content.kind!r:.60} is not a class of worldline.errors.")
    kind: type[WorldlineError] = getattr(errors, content.kind)
    error = kind.__new__(kind, content.text)
    error.args = (content.text,)
    for name, value in content.details.items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    return error


def _encoded(encoder: msgspec.msgpack.Encoder | msgspec.json.Encoder, content: object, name: str) -> bytes:
    try:
        return encoder.encode(content)
    except WorldlineError:
        raise
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be sent: {error}. Use 64-bit integers and plain text.") from error


# Values


class MessageError(InputError):
    """A message is damaged, or holds a value that the contract does not allow.

    Args:
        message: the whole text.
        pointer: JSON pointer (RFC 6901) to the value, from the arguments or the answer; "" for the whole.
    """

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class EncodedArray(Struct, kw_only=True, forbid_unknown_fields=True):
    """An array with its bytes: little-endian, the last axis varies fastest."""

    dtype: Literal["float32", "float64", "uint8", "int64", "bool"]
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=16)]
    data: bytes | int


_Number = float | int | bool | None
_Numbers: Any = _Number
for _ in range(_MAX_LISTS):
    _Numbers = _Number | list[_Numbers]  # nested to a limited depth


class Annotation(NamedTuple):
    """A type annotation of the contract, taken apart.

    Attributes:
        options: the types of a union without None; else the type.
        kind: the first option, without its parameters.
        inner: the parameters of the first option.
        nullable: whether None is an option.
    """

    options: tuple[Any, ...]
    kind: Any
    inner: tuple[Any, ...]
    nullable: bool


@cache
def annotation_of(hint: Any) -> Annotation:
    """The parts of a type annotation."""
    union = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    options = tuple(option for option in union if option is not NoneType)
    return Annotation(options, get_origin(options[0]) or options[0], get_args(options[0]), NoneType in union)


@cache
def parameters_of(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """Per field of a dataclass, a cost or a constraint: its type, and whether it is required."""
    if issubclass(kind, Struct):
        return {item.name: (item.type, item.required) for item in msgspec.structs.fields(kind)}
    hints = get_type_hints(kind)
    return {
        item.name: (hints[item.name], item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    }


def refusal(problem: str, where: Place) -> MessageError:
    """The error for a wrong value at a place."""
    shown = str(where[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where[1:])
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in where[1:])
    # Names come from the sender, who must not get a long answer to each message.
    return MessageError(f"{shown:.300}: {problem:.1000}", pointer if len(pointer) <= _MAX_POINTER else "")


def convert(value: Any, kind: Any, where: Place) -> Any:
    """The plain value as a type of msgspec.

    Raises:
        MessageError: it has another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        inner = [name or int(number) for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path)]
        raise refusal(f"{problem}. {FIX}", (*where, *inner)) from error


def encode_hook(arrays: list[bytes] | None) -> Callable[[Any], Any]:
    """The function with which msgspec encodes what it does not know: arrays, scalars of NumPy, and mappings.

    Args:
        arrays: gets the bytes of all arrays of a message in msgpack; None in JSON.
    """

    def encode(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _plain_array(value, arrays)
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return dict(value)
        if callable(value):
            raise UnsupportedError(
                f"{value!r:.200} is code and cannot be sent to another process. Use the costs and constraints of "
                f"worldline.planning.costs, or Chance around one ({', '.join(RULES)}). Or open the world in this "
                "process."
            )
        raise InputError(f"{value!r:.200} cannot be sent. Use arrays, numbers or text.")

    return encode


def _plain_array(value: NDArray[Any], arrays: list[bytes] | None) -> Any:
    kind = value.dtype.newbyteorder("=")
    if kind not in _NAMES:
        # Widening changes no value, and a world accepts the wider dtype.
        wider = np.dtype("float64" if kind.kind == "f" else "int64")
        if kind.kind not in "fiu" or not np.can_cast(kind, wider):
            raise InputError(
                f"an array of shape {value.shape} has dtype {kind}, which cannot be sent. Convert it to "
                f"{', '.join(DTYPES)}."
            )
        kind = wider
    if arrays is None and kind != np.uint8:
        return value.tolist()
    data = value.astype(kind.newbyteorder("<"), copy=False).tobytes()
    if arrays is not None:
        arrays.append(data)
    return {"dtype": _NAMES[kind], "shape": value.shape, "data": data if arrays is None else len(arrays) - 1}


def build(hint: Any, value: Any, arrays: Arrays, where: Place, null: float = math.nan) -> Any:
    """The value of an annotated type.

    Args:
        hint: a type of the contract.
        value: from a message: maps, lists, text and numbers.
        arrays: of the message; empty in JSON.
        where: the place of the value.
        null: what null means in the place of a number.

    Raises:
        MessageError: the value does not fit the type.
    """
    options, kind, inner, nullable = annotation_of(hint)
    if value is None and nullable:
        return None
    if len(options) > 1:
        return _build_numbers(options, value, arrays, where, null)
    if kind is np.ndarray:
        return build_array(get_args(inner[1])[0], value, arrays, where, null)
    if is_dataclass(kind):
        return build_fields(kind, value, arrays, where)
    if kind is Callable:
        return _build_rule(value, arrays, where)
    if kind is Mapping:
        named = convert(value, dict[str, Any], where)
        return {name: build(inner[1], part, arrays, (*where, name), null) for name, part in named.items()}
    if kind in (Sequence, tuple):
        parts = convert(value, list[Any], where)
        return tuple(build(inner[0], part, arrays, (*where, number), null) for number, part in enumerate(parts))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise refusal("the integer does not fit into 64 bits with a sign. Send a smaller number.", where)
    return convert(value, hint, where)


def build_fields(kind: Any, value: Any, arrays: Arrays, where: Place, filled: Mapping[str, Any] = NOTHING) -> Any:
    """The dataclass, cost or constraint from a map of its fields.

    Args:
        kind: the class.
        value: as in `build`.
        arrays: as in `build`.
        where: as in `build`.
        filled: as in `decode`.
    """
    parameters, named = parameters_of(kind), convert(value, dict[str, Any], where)
    fixed = {name for name, part in filled.items() if not isinstance(part, Default)}
    used = ((name, part) for name, part in filled.items() if name in parameters)
    arguments = {name: part if name in fixed else part.value for name, part in used}
    for name, part in named.items():
        if name not in parameters or name in fixed:
            raise refusal(f"Object contains unknown field `{name:.100}`. {FIX}", where)
        null = _NO_LIMIT.get((kind.__name__, name), math.nan)
        arguments[name] = build(parameters[name][0], part, arrays, (*where, name), null)
    for name, (_, is_required) in parameters.items():
        if is_required and name not in arguments:
            raise refusal(f"Object missing required field `{name}`. {FIX}", where)
    if kind in (Episode, History):  # a list cannot state the shape of an empty array
        for group in {"actions", "exogenous"} & arguments.keys():
            lists = {name for name, part in named[group].items() if isinstance(part, list)}
            built = arguments[group].items()
            arguments[group] = {name: part for name, part in built if part.size or name not in lists}
    try:
        return kind(**arguments)
    except (ValueError, TypeError) as error:  # from __post_init__, such as ConfigError
        raise refusal(str(error), where) from error


def _build_rule(value: Any, arrays: Arrays, where: Place) -> Rule:
    """A cost or constraint. Only classes of `RULES` are made, so nothing of a message is executed."""
    named = convert(value, dict[str, Any], where)
    name = convert(named.pop("rule", None), str, (*where, "rule"))
    if name not in RULES:
        raise refusal(f"Invalid value {name!r:.60}. Use one of {', '.join(RULES)}.", (*where, "rule"))
    rule: Rule = build_fields(RULES[name], named, arrays, where)
    return rule


def _build_numbers(options: Sequence[Any], value: Any, arrays: Arrays, where: Place, null: float) -> Any:
    """A number, numbers per component, or an array if that is an option."""
    scalars = [get_args(get_args(option)[1])[0] for option in options if get_origin(option) is np.ndarray]
    if isinstance(value, dict) and not scalars:
        raise refusal("expected a number, or a list of numbers, got an array.", where)
    has_lists = any(get_origin(option) is tuple for option in options)
    if isinstance(value, dict) or (isinstance(value, list) and scalars and not has_lists):
        return build_array(scalars[0], value, arrays, where)
    if int in options and isinstance(value, int):
        return value
    array = build_array(np.floating, value, arrays, where, null)
    if array.ndim < 2:
        return tuple(array.tolist()) if array.ndim else float(array)
    if not scalars:
        raise refusal(f"expected a number, or a list of numbers, got shape {array.shape}.", where)
    return array


def build_array(
    scalar: type[np.generic], value: Any, arrays: Arrays, where: Place, null: float = math.nan
) -> NDArray[Any]:
    """The array from an array of a message, a number, or lists of numbers.

    Args:
        scalar: expected type of its numbers.
        value: as in `build`.
        arrays: as in `build`.
        where: as in `build`.
        null: as in `build`.
    """
    if not isinstance(value, dict):
        return _from_lists(convert(value, _Numbers, where), scalar, where, null)
    encoded: EncodedArray = convert(value, EncodedArray, where)
    kind, shape = np.dtype(encoded.dtype), encoded.shape
    if not np.issubdtype(kind, scalar):
        raise refusal(f"an array of {kind} is not allowed here. Send {scalar.__name__}.", (*where, "dtype"))
    data = encoded.data if isinstance(encoded.data, bytes) else _taken(encoded.data, arrays, where)
    num_bytes = math.prod(shape) * kind.itemsize
    if num_bytes != len(data) or math.prod(max(axis, 1) for axis in shape) > _MAX_PRODUCT:
        raise refusal(f"expected {num_bytes:.6g} bytes for {kind}{shape!r:.80}, got {len(data)}.", where)
    if kind == np.bool_ and np.any(np.frombuffer(data, np.uint8) > 1):
        raise refusal("expected bool values as bytes 0 and 1, got others.", where)
    # A copy, because torch needs aligned and writable memory.
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape).astype(kind)


def _taken(place: int, arrays: Arrays, where: Place) -> bytes:
    """The bytes of an array of the message. They are taken once, so a small message cannot ask for many copies."""
    data = arrays[place] if 0 <= place < len(arrays) else None
    if data is None:
        raise refusal(f"the message has no further array at place {place}. Send each array once.", where)
    arrays[place] = None
    return data


def _from_lists(numbers: Any, scalar: type[np.generic], where: Place, null: float) -> NDArray[Any]:
    try:
        value = np.array(numbers)
        if value.dtype == object:  # with null
            value = np.array(numbers, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise refusal(f"{error}. Send lists of numbers, of equal lengths on each axis.", where) from error
    if value.dtype not in _NAMES:
        raise refusal(f"{value.max()} does not fit into 64 bits with a sign. Send a smaller number.", where)
    if not math.isnan(null):
        value = np.where(np.isnan(value), null, value)
    if issubclass(value.dtype.type, scalar):
        return value
    kind: Any = np.float64 if scalar is np.floating else np.int64 if scalar is np.integer else scalar
    with np.errstate(invalid="ignore", over="ignore"):  # of numbers that are refused
        cast: NDArray[Any] = value.astype(kind)
    if issubclass(kind, np.integer) and (cast != value).any():
        raise refusal(f"{value[cast != value].flat[0]} does not fit. Send whole numbers of {cast.dtype}.", where)
    return cast
