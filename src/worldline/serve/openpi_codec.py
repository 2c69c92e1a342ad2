"""Messages of openpi's policy server: one msgpack map by name, in which arrays are maps with keys of bytes.

Received data is untrusted: its sizes are checked before anything is built, and a shape must fit its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta, Raw
from numpy.typing import NDArray

from worldline.errors import InputError

MAX_KEYS: Final = 256
"""Largest number of keys in a request."""
MAX_AXES: Final = 16
"""Largest number of axes of an array."""
KINDS: Final = "biuf"
"""Allowed kinds of dtypes: bool, integers and floats. Others hold objects, structures, text or complex numbers."""

Request = Mapping[str, NDArray[Any]]

_Fields = Annotated[dict[bytes, Raw], Meta(max_length=8)]
_Shape = Annotated[list[Annotated[int, Meta(ge=0, le=2**40)]], Meta(max_length=MAX_AXES)]
_DAMAGED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_MAP: Final = (*range(0x80, 0x90), 0xDE, 0xDF)  # the first byte of a map


def decode_request(frame: bytes) -> Request:
    """The arrays of a request by name; numbers and texts are arrays without axes.

    Raises:
        InputError: the frame is damaged, or a value is none of these.
    """
    try:
        raw_values = msgspec.msgpack.decode(frame, type=Annotated[dict[str, Raw], Meta(max_length=MAX_KEYS)])
        return {name: _value(name, raw) for name, raw in raw_values.items()}
    except _DAMAGED as error:
        raise InputError(f"the request is damaged: {error}. Send a map of arrays with openpi-client.") from error


def encode_reply(values: Mapping[str, Any]) -> bytes:
    """The message for arrays, and for values that msgpack has."""
    return msgspec.msgpack.encode({name: _packed(value) for name, value in values.items()})


def _value(name: str, raw: Raw) -> NDArray[Any]:
    if bytes(memoryview(raw)[:1])[0] not in _MAP:
        return _number(name, msgspec.msgpack.decode(raw, type=bool | int | float | str))
    fields = msgspec.msgpack.decode(raw, type=_Fields)
    if b"__ndarray__" not in fields and b"__npgeneric__" not in fields:
        raise InputError(f"{name!r:.60} is a map. Send an array under the name of a signal.")
    for key in (b"dtype", b"data", *((b"shape",) if b"__ndarray__" in fields else ())):
        if key not in fields:
            raise InputError(f"{name!r:.60} has no {key.decode()}. Send it with openpi-client.")
    kind = _dtype(name, msgspec.msgpack.decode(fields[b"dtype"], type=str))
    if b"__ndarray__" not in fields:
        return _number(name, msgspec.msgpack.decode(fields[b"data"], type=bool | int | float)).astype(kind)
    data = msgspec.msgpack.decode(fields[b"data"], type=bytes)
    shape = msgspec.msgpack.decode(fields[b"shape"], type=_Shape)
    if math.prod(shape) * kind.itemsize != len(data):
        raise InputError(f"{name!r:.60}: {len(data)} bytes do not fit shape {shape} of {kind}.")
    # A copy, because torch needs aligned and writable memory in the byte order of the machine.
    return np.frombuffer(data, kind).reshape(shape).astype(kind.newbyteorder("="))


def _dtype(name: str, text: str) -> np.dtype[Any]:
    try:
        kind = np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        kind = np.dtype(object)
    if kind.kind not in KINDS or kind.subdtype is not None:
        raise InputError(f"{name!r:.60} has dtype {text!r:.60}. Send bool, integers or floats.")
    return kind


def _number(name: str, value: float | str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise InputError(f"{name!r:.60} does not fit into 64 bits.")
    return array


def _packed(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": list(value.shape)}
