"""A flag while a network is traced: branches on values of tensors would become constants of the trace.

Code that chooses a faster way by such a value must then take the general one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_TRACED: Final = ContextVar("traced", default=False)


def is_traced() -> bool:
    """Whether this thread traces a network."""
    return _TRACED.get()


@contextmanager
def tracing() -> Iterator[None]:
    """Sets the flag meanwhile."""
    token = _TRACED.set(True)
    try:
        yield
    finally:
        _TRACED.reset(token)
