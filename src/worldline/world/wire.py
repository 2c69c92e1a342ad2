"""The messages between processes: every verb of `World` and its answer, in msgpack and in JSON.

In msgpack, a message holds a version number, the name of its content, the content, and the bytes of all arrays in it.
In the content, dataclasses are maps of their fields, and arrays are maps of dtype, shape and place in the list of
bytes. Costs and constraints are named by class, from a closed table. Nothing is pickled and nothing received is
executed. Received data is untrusted: its size is limited before it is built, and msgspec checks each value against the
type of the contract.

In JSON, a message is the content alone: the arguments of the verb, or its answer.

* An array is a number, a list of numbers nested by axis, or {"dtype", "shape", "data"} with its bytes in base64.
  Answers use lists, and base64 for uint8.
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
from enum import Enum
from functools import cache, partial
from inspect import getdoc
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, defstruct
from numpy.typing import NDArray

from worldline.episode import Episode, History
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
from worldline.planning.calls import Call
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
from worldline.schema import Schema
from worldline.world.wire_arrays import (
    DTYPES,
    NAMES,
    STRICT,
    Array,
    Form,
    Place,
    PlacedArray,
    array_type,
    build_array,
    place_text,
    refusal,
    union,
)
from worldline.world.wire_arrays import MessageError as MessageError
from worldline.world.wire_messages import CONTENT_TYPE as CONTENT_TYPE
from worldline.world.wire_messages import DAMAGED, Message, pack_message, unpack_message

MAX_JSON_LISTS: Final = 2**18
"""Largest number of lists in a JSON message. A list takes up to 30 times its size in memory."""

MAX_JSON_NAMES: Final = 20_000
"""Largest number of names in a JSON message. It bounds the time to check the values."""

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

_NO_LIMIT: Final[Mapping[tuple[Any, str], float]] = {
    (AtMost, "bound"): math.inf,
    (AtLeast, "bound"): -math.inf,
    (KeepOut, "low"): -math.inf,
    (KeepOut, "high"): math.inf,
    (Within, "low"): -math.inf,
    (Within, "high"): math.inf,
}
"""What null means in the limits of costs and constraints."""

_MAX_PACKED_SCHEMAS: Final = 64
_packed_schemas: dict[int, tuple[Schema, Any]] = {}

NOTHING: Final[Mapping[str, Any]] = {}

Answer = TypeVar("Answer")
Content = TypeVar("Content")


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
    packed = _pack(content, arrays, name)
    return _encoded(partial(pack_message, name, packed, arrays), name)


def decode(kind: type[Content], name: str, body: bytes, filled: Mapping[str, Any] = NOTHING) -> Content:
    """The content of a message.

    Args:
        kind: a dataclass with the types of the contract, such as a call.
        name: expected name of the message; the verb of a call.
        body: the message.
        filled: values of fields that the message must not hold.

    Raises:
        MessageError: the message has another version or name, is damaged or too large, or a value has the wrong type.
    """
    message = unpack_message(body)
    if message.name != name:
        raise MessageError(f"expected a message for {name!r}, got {message.name!r:.60}. Post it to its own verb.")
    hint: Any = kind  # mypy does not accept a type variable as a key of a cache
    found = _checked("msgpack", message.content, _struct(hint, "msgpack", without=frozenset(filled)), (name,))
    content: Content = _build_dataclass(kind, found, dict(enumerate(message.arrays)), (name,), filled)
    return content


def encode_answer(answer: object) -> bytes:
    """The message for the result of a verb.

    Args:
        answer: the result.

    Raises:
        InputError: a value cannot be sent.
    """
    return encode_content("answer", answer)


def decode_answer(kind: type[Answer], body: bytes) -> Answer | WorldlineError:
    """The result of a verb, or the error that it raised.

    Args:
        kind: type of the result.
        body: the message.

    Raises:
        MessageError: as in `decode`.
    """
    message = unpack_message(body)
    if message.name == "error":
        return _decode_error(message)
    if message.name != "answer":
        raise MessageError(f"expected an answer, got a message for {message.name!r:.60}.")
    where = (kind.__name__,)
    hint: Any = kind  # mypy does not accept a type variable as a key of a cache
    found = _checked("msgpack", message.content, _type(hint, "msgpack"), where)
    answer: Answer = _build(kind, found, dict(enumerate(message.arrays)), where)
    return answer


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
    for sign, limit, noun in ((b"[", MAX_JSON_LISTS, "lists"), (b":", MAX_JSON_NAMES, "names")):
        if (count := body.count(sign)) > limit:
            raise MessageError(f"the message has {count} {noun}, more than {limit}. Send large arrays in base64.")
    where: Place = ("body",)
    hint: Any = kind
    found = _checked("json", body, _struct(hint, "json", without=frozenset(filled)), where)
    content: Content = _build_dataclass(kind, found, None, where, filled)
    return content


def encode_json_answer(answer: object) -> bytes:
    """The JSON message for the result of a verb.

    Raises:
        InputError: a value cannot be sent.
    """
    return _encoded(partial(msgspec.json.encode, _pack(answer, None, "answer")), "answer")


def json_schemas(
    requests: Mapping[str, tuple[Any, Collection[str]]], answers: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON schemas (2020-12) of messages by name, and the components for `#/components/schemas` that they use.

    Args:
        requests: per name of a component a dataclass, and its fields that the message must not hold.
        answers: per name the type of an answer, of the contract. Components are named after their classes.
    """
    types = [
        _struct(kind, "request", name=name, without=frozenset(without)) for name, (kind, without) in requests.items()
    ]
    types += [_type(kind, "response") for kind in answers.values()]
    (array, *schemas), components = msgspec.json.schema_components(
        [array_type(np.generic, "json"), *types, Array], ref_template="#/components/schemas/{name}"
    )
    array["description"] = getdoc(Array)
    return dict(zip([*requests, *answers], schemas, strict=False)), components | {"Array": array}


def encode_error(error: WorldlineError) -> bytes:
    """The message for an error of a verb. An unknown subclass is sent as its nearest base in the tree of worldline."""
    kind = next(base for base in type(error).__mro__ if issubclass(base, WorldlineError) and base in _ERRORS)
    values = {**vars(error), "message": str(error)}
    sent = {name: str(value) if isinstance(value := values[name], Path) else value for name in _ERRORS[kind]}
    return encode_content("error", {"class": kind.__name__, **sent})


def _decode_error(message: Message) -> WorldlineError:
    kinds: dict[type[Struct], Any] = {
        defstruct(kind.__name__, list(arguments.items()), tag_field="class", **STRICT): kind
        for kind, arguments in _ERRORS.items()
    }
    found = _checked("msgpack", message.content, union(kinds), ("error",))
    kind, arguments = kinds[type(found)], msgspec.structs.asdict(found)
    error: WorldlineError = kind(*arguments.values()) if "message" in arguments else kind(**arguments)
    return error


def _encoded(encode: Callable[[], bytes], name: str) -> bytes:
    try:
        return encode()
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{name} cannot be sent: {error}. Use 64-bit integers and plain text.") from error


@cache
def _decoder(form: Form, kind: Any) -> msgspec.msgpack.Decoder[Any] | msgspec.json.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind) if form == "msgpack" else msgspec.json.Decoder(kind)


def _checked(form: Form, data: bytes | Raw, kind: Any, where: Place) -> Any:
    """The decoded data, checked against a type of messages."""
    try:
        return _decoder(form, kind).decode(data)
    except DAMAGED as error:
        problem, _, path = str(error).partition(" - at `$")
        if isinstance(error, RecursionError):
            problem = "nested beyond the recursion limit"
        # In msgpack, "[...]" stands for any name in a map, and the rest of the path does not lead anywhere.
        steps = re.findall(r"\.(\w+)|\[(\d+)\]", path.partition("[...]")[0])
        inner = tuple(name or int(number) for name, number in steps)
        at = f" - at `{place_text(where)}{path}" if path else ""
        raise refusal(f"{problem}{at}. Send what the contract of `World` names.", (*where, *inner)) from error


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
    if isinstance(value, Schema):
        return _pack_schema(value)
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


def _pack_schema(schema: Schema) -> Any:
    """The schema as maps; kept, because every answer of a world holds the same one and it is most of the work."""
    kept = _packed_schemas.get(id(schema))
    if kept is None or kept[0] is not schema:
        if len(_packed_schemas) >= _MAX_PACKED_SCHEMAS:
            _packed_schemas.clear()
        packed = {item.name: _pack(vars(schema)[item.name], None, item.name) for item in fields(schema)}
        kept = _packed_schemas[id(schema)] = schema, packed
    return kept[1]


def _pack_array(value: NDArray[Any], arrays: list[bytes] | None, where: str) -> Any:
    kind = value.dtype.newbyteorder("=")
    if kind not in NAMES:
        # Widening changes no value, and a world accepts the wider dtype.
        wider = np.dtype("float64" if kind.kind == "f" else "int64")
        if kind.kind not in "fiu" or not np.can_cast(kind, wider):
            raise InputError(f"{where} has dtype {kind}, which cannot be sent. Convert it to {', '.join(DTYPES)}.")
        kind = wider
    if arrays is None and kind != np.uint8:
        return value.tolist()
    data = value.astype(kind.newbyteorder("<"), copy=False).tobytes()
    if arrays is None:  # images
        return {"dtype": NAMES[kind], "shape": list(value.shape), "data": data}
    arrays.append(data)
    return PlacedArray(dtype=NAMES[kind], shape=list(value.shape), place=len(arrays) - 1)


@cache
def _parameters(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    """Per field of a dataclass its type, and whether it is required."""
    hints = get_type_hints(kind)
    is_required = {item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(kind)}
    return {name: (hints[name], required) for name, required in is_required.items()}


@cache
def _struct(
    kind: Any, form: Form, tag: str | None = None, name: str | None = None, without: frozenset[str] = frozenset()
) -> Any:
    """The type of messages for a dataclass; `tag` names a cost or constraint."""
    parts: list[Any] = [
        (item, _type(hint, form)) if required or form == "response" else (item, _type(hint, form) | UnsetType, UNSET)
        for item, (hint, required) in _parameters(kind).items()
        if item not in without
    ]
    return _described(kind, parts, form, tag, name)


def _described(kind: Callable[..., Any], parts: list[Any], form: Form, tag: str | None, name: str | None = None) -> Any:
    """The type of messages with these fields, and with the texts of the docstring for JSON schemas."""
    summary, _, rest = (getdoc(kind) or "").partition("\n\nArgs:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", rest.partition("\n\n")[0], re.MULTILINE)
    texts = {item: " ".join(text.split()) for item, text in found}
    return defstruct(
        name or kind.__name__,
        [(item, Annotated[part, Meta(description=texts.get(item))], *unset) for item, part, *unset in parts],
        module=form,  # part of the component's name if a request and an answer hold the same dataclass
        namespace={"__doc__": summary},
        tag_field=tag and "rule",
        tag=tag,
        kw_only=True,
        forbid_unknown_fields=form != "response",
    )


@cache
def _type(hint: Any, form: Form) -> Any:
    """The type of messages for a type of the contract."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        if (several := len(set(inner) - {NoneType}) > 1) and form == "json":
            return array_type(np.floating, form)
        return union(_type(option, "response" if several and form == "request" else form) for option in inner)
    if kind is np.ndarray:
        return array_type(get_args(inner[1])[0], form)
    if kind is Callable:
        return _rule_type(form)
    if kind is Mapping:  # msgspec does not report which name of a map has the wrong value
        return GenericAlias(dict, (str, Raw if form == "json" else _type(inner[1], form)))
    if kind is Sequence:
        return GenericAlias(tuple, (_type(inner[0], form), ...))
    if kind is tuple:
        return GenericAlias(tuple, tuple(_type(item, form) for item in inner))
    if kind is float and form == "response":
        return float | None
    return _struct(hint, form) if is_dataclass(kind) else hint


@cache
def _rule_type(form: Form) -> Any:
    """The type of messages for costs and constraints."""
    plain = union(_struct(kind, form, name) for name, kind in RULES.items() if kind is not Chance)
    return plain | _described(Chance, [("constraint", plain), ("level", float)], form, "Chance")


@cache
def _taken_apart(hint: Any) -> tuple[Sequence[Any], Any, Sequence[Any], bool]:
    """The options of a type other than None, the first one's origin and parameters, and whether it is a union."""
    is_union = get_origin(hint) in (Union, UnionType)
    options = [option for option in (get_args(hint) if is_union else (hint,)) if option is not NoneType]
    return options, get_origin(options[0]) or options[0], get_args(options[0]), is_union


def _build(hint: Any, found: Any, arrays: dict[int, bytes] | None, where: Place, null: float = math.nan) -> Any:
    """The value of type `hint` from the decoded content of a message; in JSON, `arrays` is None."""
    if isinstance(found, Raw):
        found = _checked("json", found, _type(hint, "json"), where)
    if isinstance(found, PlacedArray):
        return build_array(found, np.floating, arrays, where)
    options, kind, inner, is_union = _taken_apart(hint)
    if len(options) > 1:  # numbers, lists of numbers or arrays
        return found if arrays is not None else _build_numbers(options, found, where, null)
    if kind is np.ndarray and not (is_union and found is None):
        return build_array(found, get_args(inner[1])[0], arrays, where)
    if isinstance(found, dict):
        return {name: _build(inner[1], value, arrays, (*where, name), null) for name, value in found.items()}
    if isinstance(found, tuple):
        return tuple(_build(inner[0], value, arrays, (*where, number)) for number, value in enumerate(found))
    if isinstance(found, Struct):
        return _build_dataclass(RULES.get(str(found.__struct_config__.tag), kind), found, arrays, where)
    if arrays is None and isinstance(found, int) and not -(2**63) <= found < 2**63:
        raise refusal("the integer does not fit into 64 bits with a sign. Send a smaller number.", where)
    return found


def _build_dataclass(
    kind: Any, found: Struct, arrays: dict[int, bytes] | None, where: Place, filled: Mapping[str, Any] = NOTHING
) -> Any:
    """The dataclass from the decoded content of a message."""
    parameters = _parameters(kind)
    arguments = {name: value for name, value in filled.items() if name in parameters}
    arguments |= {
        name: _build(hint, value, arrays, (*where, name), _NO_LIMIT.get((kind, name), math.nan))
        for name, (hint, _) in parameters.items()
        if name not in filled and (value := getattr(found, name)) is not UNSET
    }
    if arrays is None and kind in (Episode, History):  # a list cannot state the shape of an empty array
        for group in {"actions", "exogenous"} & arguments.keys():
            arguments[group] = {name: value for name, value in arguments[group].items() if value.size}
    try:
        return kind(**arguments)
    except (ValueError, TypeError) as error:  # from __post_init__, such as ConfigError
        raise refusal(str(error), where) from error


def _build_numbers(options: Sequence[Any], found: Any, where: Place, null: float) -> Any:
    """From JSON a number, numbers per component, or an array over time if that is an option."""
    value = build_array(found, np.floating, None, where, null)
    if value.ndim < 2:
        return tuple(value.tolist()) if value.ndim else float(value)
    if not any(get_origin(option) is np.ndarray for option in options):
        raise refusal(f"expected a number, or a list of numbers, got shape {value.shape}.", where)
    return value
