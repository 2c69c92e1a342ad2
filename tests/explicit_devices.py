"""A check that the toolkit creates no tensor without a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import worldline

TOOLKIT: Final = Path(worldline.__file__).parent
BOUNDARY: Final = ("to_tensor", "_tensors")
"""The functions that convert NumPy arrays: inputs of models, and arrays of bundles. `torch.from_numpy` takes no device,
and is invisible to a function mode."""


@contextmanager
def explicit_devices() -> Iterator[None]:
    """Raises if the toolkit calls a function that creates a tensor, such as `torch.zeros`, without a device.

    Two cases are exempt. Modules create parameters and buffers on the default device, and are then moved as a whole. A
    result of `torch.as_tensor(tensor)` has the device of the tensor.
    """
    own = torch.from_numpy

    def from_numpy(array: Any) -> Tensor:
        caller = _toolkit_caller()
        if caller is not None and caller.f_code.co_name not in BOUNDARY:
            raise AssertionError(f"{_place(caller)}: from_numpy is called. Use `to_tensor`.")
        return own(array)

    with _Mode(), patch("torch.from_numpy", from_numpy):
        yield


class _Mode(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _device_constructors() and kwargs.get("device") is None:
            caller = _toolkit_caller()
            if caller is not None and not isinstance(args[0], Tensor) and not _builds_module(caller):
                raise AssertionError(f"{_place(caller)}: {function.__name__} is called without a device.")
        return function(*args, **kwargs)


def _toolkit_caller() -> FrameType | None:
    """The function that called torch, if it is in the toolkit; not in its `testing` package, which runs on the CPU."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and ("torch/overrides" in frame.f_code.co_filename or frame.f_code.co_name[0] == "<"):
        frame = frame.f_back
    if frame is None:
        return None
    file = Path(frame.f_code.co_filename)
    return frame if TOOLKIT in file.parents and TOOLKIT / "testing" not in file.parents else None


def _builds_module(caller: FrameType) -> bool:
    frame: FrameType | None = caller
    while frame is not None:
        if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), nn.Module):
            return True
        frame = frame.f_back
    return False


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
