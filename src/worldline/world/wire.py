"""The messages between processes: every verb of `World` and its answer, in msgpack and in JSON.

In msgpack, a message holds a version number, the name of its content, the content, and the bytes of all arrays in it.
In JSON, a message is the content alone: the arguments of the verb, or its answer.

`wire_values` describes the content. msgspec encodes it, and one function builds it again from the type annotations of
the contract. Nothing is pickled and nothing received is executed. Received data is untrusted: its size is limited
before it is built, and each value is checked against the contract.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from worldline import errors
from worldline.errors import InputError, WorldlineError
from worldline.planning.calls import Call
from worldline.world.wire_values import FIX, build, build_fields, convert, encode_hook
from worldline.world.wire_values import NOTHING as NOTHING
from worldline.world.wire_values import MessageError as MessageError

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

_DAMAGED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for a message that it cannot read."""

Answer = TypeVar("Answer")
Content = TypeVar("Content")


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
        UnsupportedError: a cost or constraint is not one of `wire_values.RULES`.
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
        filled: values of fields that the message must not hold.

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
