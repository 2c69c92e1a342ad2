"""A device without hardware, which finds device errors on a machine that has no GPU.

Its tensors report the device `lazy`, but hold numbers: every operation runs on the CPU. As on a GPU, `numpy()` raises,
and so does an operation on tensors of both devices. As on `mps`, there is no double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy")
"""The device that the tensors report. Its gradients, unlike those of other devices, run in the calling thread."""
_TRANSFERS = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_CpuGenerator, _autocast = torch.Generator, torch.autocast


class SimulatedTensor(Tensor):
    """A tensor on the simulated device."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> SimulatedTensor:
        made: SimulatedTensor = cast("Any", Tensor)._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        made.numbers = numbers
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        del tensor_contents
        return f"simulated {self.numbers!r}"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc] # this metaclass has no public name in torch
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, _CpuGenerator)


class _Generator(_CpuGenerator, metaclass=_AnyGenerator):
    """A CPU generator that reports the device for which it was made."""

    reported: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.reported = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override] # torch declares a settable attribute
        return self.reported


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _PythonNumbers(TorchFunctionMode):
    """Converts from and to Python numbers on the CPU, which torch cannot do for this device."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.tolist:
            return function(args[0].cpu())
        if function is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].device)
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(one).to(args[0].device) if isinstance(one, list) else one for one in index)
            return function(args[0], index, *args[2:])
        if function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            device = kwargs.pop("device", "cpu")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    tensors = [*_tensors(args), *_tensors(kwargs.values())]
    on_device, device = any(isinstance(one, SimulatedTensor) for one in tensors), kwargs.get("device")
    transfer = operation in _TRANSFERS
    if on_device and not transfer and any(one.ndim and not isinstance(one, SimulatedTensor) for one in tensors):
        raise RuntimeError(f"{operation}: expected all tensors on one device, got {tensors}")
    given = {name: _converted(value, _numbers) for name, value in kwargs.items()}
    if device is not None:
        on_device, given["device"] = device.type == DEVICE.type, "cpu"
    result = operation(*_converted(args, _numbers), **given)
    if operation._schema.name.endswith("_"):  # in place
        return None if result is None else args[0]
    if not on_device:
        return result
    if any(tensor.dtype == torch.float64 for tensor in _tensors([result])):
        raise TypeError(f"{operation}: the device has no double precision")
    return _converted(result, SimulatedTensor)


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _converted(value: Any, convert: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)([_converted(one, convert) for one in value])
    return convert(value) if isinstance(value, Tensor) else value


def _numbers(tensor: Tensor) -> Tensor:
    return tensor.numbers if isinstance(tensor, SimulatedTensor) else tensor


@contextmanager
def simulated_device() -> Iterator[torch.device]:
    """Lets the program use the device."""
    with ExitStack() as stack:
        stack.enter_context(patch("torch.Generator", _Generator))
        # Torch has no autocast for this device.
        stack.enter_context(patch("torch.autocast", lambda *_, **__: _autocast("cpu", enabled=False)))
        stack.enter_context(patch("torch.is_autocast_enabled", lambda *_: False))
        stack.enter_context(patch("worldline.planning.costs.rollout_signals.exact_float", _exact_float))
        stack.enter_context(_Mode())
        stack.enter_context(_PythonNumbers())
        yield DEVICE


def _exact_float(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == DEVICE.type else torch.float64
