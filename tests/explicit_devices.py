"""A check that the toolkit creates no tensor without a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

import worldline

TOOLKIT: Final = str(Path(worldline.__file__).parent)
TESTING: Final = str(Path(TOOLKIT) / "testing")
BOUNDARY: Final = "to_tensor"
"""The only function that converts NumPy arrays, because `torch.from_numpy` takes no device."""


class ExplicitDevices(TorchFunctionMode):
    """Raises if the toolkit calls a function that creates a tensor, such as `torch.zeros`, without a device.

    Two cases are exempt. Modules create parameters and buffers on the default device, and are then moved as a whole. A
    result of `torch.as_tensor(tensor)` has the device of the tensor.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.from_numpy:
            caller = _caller()
            if caller is not None and caller.f_code.co_name != BOUNDARY:
                raise AssertionError(f"{_place(caller)}: from_numpy is called. Use `to_tensor`.")
        elif function in _device_constructors() and kwargs.get("device") is None:
            caller = _caller()
            given = args[0] if args else None
            if caller is not None and not isinstance(given, Tensor) and not _builds_module(caller):
                raise AssertionError(f"{_place(caller)}: {function.__name__} is called without a device.")
        return function(*args, **kwargs)


def _caller() -> FrameType | None:
    """The frame that called torch, if it is in the toolkit."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "torch/overrides" in frame.f_code.co_filename:
        frame = frame.f_back
    inside = frame is not None and frame.f_code.co_filename.startswith(TOOLKIT)
    return frame if inside and frame is not None and not frame.f_code.co_filename.startswith(TESTING) else None


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _builds_module(caller: FrameType) -> bool:
    return any(
        frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), nn.Module)
        for frame in _callers(caller)
    )


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
