"""Arrays in messages, and the error that points to a wrong value in a message."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta, Struct, defstruct
from numpy.typing import NDArray

from worldline.errors import InputError

DTYPES: Final = ("float32", "float64", "uint8", "int64", "bool")
"""Allowed dtypes of arrays."""
NAMES: Final = {np.dtype(name): name for name in DTYPES}
"""Name by dtype; `dtype.name` is slow."""

Form = Literal["msgpack", "json", "request", "response"]
"""Form of a message; "request" and "response" are for JSON schemas of arguments and answers."""

Place = tuple[str | int, ...]
"""Names and indices that lead to a value. The first one names the message."""

STRICT: Final[dict[str, Any]] = {"kw_only": True, "forbid_unknown_fields": True}

_MAX_AXES: Final = 16
_MAX_LISTS: Final = 6  # axes of a list of numbers: worlds, steps and an image take 5
_MAX_PRODUCT: Final = 2**40  # bounds the shape of an empty array, which its bytes do not
_MAX_POINTER: Final = 1000


class MessageError(InputError):
    """A message is damaged, or holds a value that the contract does not allow.

    Args:
        message: the whole text.
        pointer: JSON pointer (RFC 6901) to the value, from the arguments or the answer; "" for the whole.
    """

    def __init__(self, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.pointer = pointer


class _ArrayLayout(Struct, **STRICT):
    """Dtype and shape of an array in a message."""

    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=_MAX_AXES)]


class PlacedArray(_ArrayLayout, **STRICT):
    """An array whose bytes are at `place` in the list of bytes of the message."""

    place: int


class EncodedArray(_ArrayLayout, **STRICT):
    """An array with its bytes: little-endian, the last axis varies fastest."""

    data: bytes


class Array(Struct):
    """A number, numbers in lists nested by axis, or an array in base64.

    null is NaN. In `low`, `high` and `bound`, it is no limit.
    """


def union(options: Iterable[Any]) -> Any:
    """The union of types."""
    return reduce(or_, options)


@cache
def array_type(scalar: type[np.generic], form: Form) -> Any:
    """The type of messages for arrays, or for a number in the place of one; in JSON also for lists of numbers."""
    if form in ("request", "response"):
        return Array
    one_of: Any = Literal  # mypy accepts only values that stand in the source
    dtypes = tuple(name for name in DTYPES if np.issubdtype(name, scalar))
    base = EncodedArray if form == "json" else PlacedArray
    fields = [("dtype", one_of[dtypes])]
    array = defstruct(base.__name__, fields, bases=(base,), namespace={"__doc__": base.__doc__}, **STRICT)
    numbers = {"bool": bool, "int64": int, "float64": float} | ({"float32": float} if form == "json" else {})
    number = [kind for name, kind in numbers.items() if name in dtypes]
    if form == "msgpack":
        return union((array, *number))
    items: Any = union((*number, None))
    for _ in range(_MAX_LISTS):
        items = union((*number, None, list[items]))
    return items | array


def place_text(where: Place) -> str:
    """The place for people, such as `predict.actions.push[0]`."""
    return str(where[0]) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where[1:])


def refusal(problem: str, where: Place) -> MessageError:
    """The error for a wrong value at a place."""
    pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in where[1:])
    # Names come from the sender, who must not get a long answer to each message.
    return MessageError(f"{place_text(where):.300}: {problem:.1000}", pointer if len(pointer) <= _MAX_POINTER else "")


def build_array(
    found: Any, scalar: type[np.generic], arrays: dict[int, bytes] | None, where: Place, null: float = math.nan
) -> NDArray[Any]:
    """The array from the decoded content of a message.

    Args:
        found: an array of a message, a number, or lists of numbers.
        scalar: expected type of its numbers.
        arrays: the bytes of the arrays of the message, which are taken from it; None in JSON.
        where: its place.
        null: value of null, also in lists.
    """
    if isinstance(found, EncodedArray):
        return _from_bytes(found, found.data, where)
    if not isinstance(found, PlacedArray):
        return _from_lists(found, scalar, where, null)
    # Taken once, so a small message cannot ask for many copies.
    if (data := (arrays or {}).pop(found.place, None)) is None:
        raise refusal(f"the message has no further array at place {found.place}. Send each array once.", where)
    return _from_bytes(found, data, where)


def _from_lists(found: Any, scalar: type[np.generic], where: Place, null: float) -> NDArray[Any]:
    try:
        value = np.array(found)
        if value.dtype == object:  # with null
            value = np.array(found, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise refusal(f"{error}. Send lists of numbers, of equal lengths on each axis.", where) from error
    if value.dtype not in NAMES:
        raise refusal(f"{value.max()} does not fit into 64 bits with a sign. Send a smaller number.", where)
    if not math.isnan(null):
        value = np.where(np.isnan(value), null, value)
    return value if issubclass(value.dtype.type, scalar) else value.astype(scalar)


def _from_bytes(found: _ArrayLayout, data: bytes, where: Place) -> NDArray[Any]:
    """The array, after its size was checked against its bytes."""
    kind, shape = np.dtype(found.dtype), found.shape
    num_bytes = math.prod(shape) * kind.itemsize
    if num_bytes != len(data) or math.prod(max(axis, 1) for axis in shape) > _MAX_PRODUCT:
        raise refusal(f"expected {num_bytes:.6g} bytes for {kind}{shape!r:.80}, got {len(data)}.", where)
    if kind == np.bool_ and np.any(np.frombuffer(data, np.uint8) > 1):
        raise refusal("expected bool values as bytes 0 and 1, got others.", where)
    # A copy, because torch needs aligned and writable memory.
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape).astype(kind)
