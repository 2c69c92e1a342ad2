"""Messages as safetensors files, for languages that read these files and not the arrays of msgpack messages.

A file holds what a message in msgpack holds (see `worldline.world.wire`):

* Each array is a tensor. Its name is the JSON pointer (RFC 6901) to its place in the content, such as
  `/history/observations/temperature`. Maps on the way to it may be missing in the content.
* The metadata has one entry `worldline`: JSON with the fields `worldline` (the version), `name` and `content`, the
  content without its arrays. Other entries are ignored.
* JSON has no NaN and no infinity. An optional fourth field, `floats`, holds such numbers by pointer, as "NaN",
  "Infinity" and "-Infinity".
* In the content, null may stand in the place of an array or of a number in `floats`.

Files are untrusted. The size of the header is checked before it is parsed, and safetensors checks that the tensors fill
the file. The content is then checked as that of a message in msgpack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Raw, Struct, field
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from worldline.world.wire_arrays import Place, PlacedArray, pointer_to, refusal
from worldline.world.wire_messages import (
    DAMAGED,
    VERSION,
    Message,
    MessageVersion,
    check_size,
    check_version,
    damage,
)

TENSORS_TYPE: Final = "application/vnd.worldline.safetensors"
"""Content type of these messages. safetensors has no registered one."""

_MAX_NAMES: Final = 8  # on the way to an array; bounds the maps that pointers make
_DTYPES: Final = {"F32": "float32", "F64": "float64", "U8": "uint8", "I64": "int64", "BOOL": "bool"}
_FLOATS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class _Metadata(Struct):
    worldline: str


class _Header(Struct):
    metadata: _Metadata = field(name="__metadata__")


class _Rest(Struct, forbid_unknown_fields=True):
    """A message without its arrays."""

    worldline: int
    name: str
    content: dict[str, Any]
    floats: dict[str, Literal["NaN", "Infinity", "-Infinity"]] = {}


def pack_tensors(name: str, content: Any, arrays: Sequence[bytes]) -> bytes:
    """The message as a safetensors file. Arguments as those of `pack_message`."""
    tensors, floats = dict[str, np.ndarray](), dict[str, str]()

    def rest(value: Any, where: Place) -> Any:
        if isinstance(value, Mapping):
            return {key: rest(inner, (*where, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [rest(inner, (*where, number)) for number, inner in enumerate(value)]
        if isinstance(value, PlacedArray):
            kind = np.dtype(value.dtype).newbyteorder("<")
            tensors[pointer_to(where)] = np.frombuffer(arrays[value.place], kind).reshape(value.shape)
            return None
        if isinstance(value, float) and not math.isfinite(value):
            floats[pointer_to(where)] = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            return None
        return value

    message = {"worldline": VERSION, "name": name, "content": rest(content, (name,)), "floats": floats}
    return save(tensors, {"worldline": msgspec.json.encode(message).decode()})


def unpack_tensors(body: bytes) -> Message:
    """The message in a safetensors file, with its content encoded as in msgpack.

    Raises:
        MessageError: it is damaged, too large or of another version, or a pointer leads nowhere.
    """
    length = int.from_bytes(body[:8], "little")
    check_size(length)  # also bounds the number of tensors, below `MAX_ARRAYS`
    try:
        text = msgspec.json.decode(body[8 : 8 + length], type=_Header).metadata.worldline
        check_version(msgspec.json.decode(text, type=MessageVersion).worldline)
        rest = msgspec.json.decode(text, type=_Rest)
        tensors = deserialize(body)  # type: ignore[no-untyped-call]  # safetensors declares no types for it
    except (*DAMAGED, SafetensorError) as error:
        raise damage(error) from error
    for pointer, number in rest.floats.items():
        _put(rest, pointer, _FLOATS[number])
    for place, (pointer, tensor) in enumerate(tensors):
        if (dtype := _DTYPES.get(tensor["dtype"])) is None:
            kinds = ", ".join(_DTYPES)
            raise refusal(f"expected a tensor of {kinds}, got {tensor['dtype']}. Convert it.", _place(rest, pointer))
        _put(rest, pointer, PlacedArray(dtype=dtype, shape=tensor["shape"], place=place))
    try:
        content = msgspec.msgpack.encode(rest.content)
    except (OverflowError, RecursionError) as error:
        raise damage(error) from error
    check_size(len(content))
    arrays = [tensor["data"] for _, tensor in tensors]
    return Message(worldline=VERSION, name=rest.name, content=Raw(content), arrays=arrays)


def _place(rest: _Rest, pointer: str) -> Place:
    """The names in a pointer, after the name of the message."""
    return rest.name, *(name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:])


def _put(rest: _Rest, pointer: str, value: object) -> None:
    """Puts the value where the pointer leads in the content; makes missing maps on the way."""
    where = _place(rest, pointer)
    if not pointer.startswith("/") or len(where) > _MAX_NAMES + 1:
        raise refusal(f"{pointer!r:.100} is no JSON pointer with up to {_MAX_NAMES} names. Use '/actions/NAME'.", where)
    holder: Any = rest.content
    for end in range(2, len(where)):
        holder = holder[_key(holder, where[:end], {})]
    key = _key(holder, where, None)
    if holder[key] is not None:
        raise refusal("the content already has a value here. Leave it out, or send null.", where)
    holder[key] = value


def _key(holder: Any, where: Place, default: object) -> str | int:
    """The last name of `where` as key of a map, which gets `default` if it lacks the key, or as index of a list."""
    name = str(where[-1])
    if isinstance(holder, dict):
        holder.setdefault(name, default)
        return name
    if isinstance(holder, list) and re.fullmatch(r"0|[1-9][0-9]{0,6}", name) and int(name) < len(holder):
        return int(name)
    raise refusal("a pointer leads here, but the content has no such place. Correct the pointer.", where)
