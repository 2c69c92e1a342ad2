"""The layout of a message in msgpack, and the limits of a message that arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from worldline.world.wire_arrays import MessageError

VERSION: Final = 1
"""Version of the messages. Increase it when an older side would misread one."""

CONTENT_TYPE: Final = "application/msgpack"

MAX_BODY_BYTES: Final = 2**20
"""Largest size of a message without the bytes of its arrays. It bounds the memory for decoded values."""

MAX_ARRAYS: Final = 20_000
"""Largest number of arrays in a message."""

DAMAGED: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for a message that it cannot read."""


class _Version(Struct):
    """The part of a message that every version has."""

    worldline: int


class Message(_Version, kw_only=True, forbid_unknown_fields=True):
    """A message: the name of its content, the content, and the bytes of the arrays in it."""

    name: str
    content: Raw
    arrays: Annotated[list[bytes], Meta(max_length=MAX_ARRAYS)]


def pack_message(name: str, content: Any, arrays: Sequence[bytes]) -> bytes:
    """The message.

    Args:
        name: of the content.
        content: maps, lists, text and numbers, with a `PlacedArray` for each array.
        arrays: the bytes of each array, by place.
    """
    return msgspec.msgpack.encode({"worldline": VERSION, "name": name, "content": content, "arrays": arrays})


def unpack_message(body: bytes) -> Message:
    """The message, with its content still encoded.

    Raises:
        MessageError: it is damaged, too large or of another version.
    """
    try:
        version = msgspec.msgpack.decode(body, type=_Version).worldline
        message = msgspec.msgpack.decode(body, type=Message) if version == VERSION else None
    except DAMAGED as error:
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
