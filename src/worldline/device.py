"""The device of a computation and the precision on it. It is chosen once; everything else follows its inputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Final

import torch
from torch import nn

from worldline.errors import InputError, UnsupportedError

__all__ = ["choose_device", "describe_device"]

CPU: Final = torch.device("cpu")


class _ThreadPool:
    """The thread pool of torch on the CPU. It belongs to a process, and a fork copies it without its threads."""

    used = False
    """Whether torch computed with several threads in this process."""
    lost = False
    """Whether it did so in a process that this one was forked from."""

    @classmethod
    def forked(cls) -> None:
        """Called in the child of a fork."""
        cls.lost = cls.lost or cls.used


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_ThreadPool.forked)


def check_fork() -> None:
    """Checks that torch can compute in this process; call it before a computation of any size.

    After a fork, torch waits forever for the threads of the parent's pool, also in a world that the child opened. A
    pool that was never used does no harm, and one thread needs no pool.

    Raises:
        UnsupportedError: torch has several threads, and they were used before this process was forked.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        return
    if _ThreadPool.lost:
        raise UnsupportedError(
            f"this process was forked after torch had computed with several threads, and with {num_threads} threads it "
            "would hang. Start processes by multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in "
            "this process or before the fork."
        )
    _ThreadPool.used = True


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name.

    Args:
        name: "cpu", "cuda", "cuda:1" (a number), "mps", or "auto" for the first of cuda, mps and cpu that is available.
            Under `torchrun`, "cuda" is the GPU with the number of the process on this machine.

    Raises:
        InputError: the name is unknown, or the device is not available.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    asked = next(kind for kind, count in counts.items() if count) if name == "auto" else name
    kind, colon, number = asked.partition(":")
    if kind not in counts or (colon and not (kind == "cuda" and number.isdecimal())):
        raise InputError(f"device {name!r} is unknown. Choose auto, cpu, cuda, cuda:N or mps.")
    index = int(number or os.environ.get("LOCAL_RANK", "0")) if kind == "cuda" else 0
    if index >= counts[kind]:
        devices = [f"{other}:{n}" if other == "cuda" else other for other in counts for n in range(counts[other])]
        wanted = f"{kind}:{index}" if kind == "cuda" else kind
        raise InputError(f"device {name!r} is not available: {wanted} is not among {', '.join(devices)}. Choose auto.")
    return CPU if kind == "cpu" else torch.device(kind, index)


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's tensors, which are all on the same one; the CPU without any."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return CPU if first is None else first.device


def describe_device(device: torch.device) -> str:
    """A device in words for reports: the name of the GPU, or the number of threads of the CPU."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return device.type
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def generator_on(device: torch.device, source: torch.Generator) -> torch.Generator:
    """A generator for draws on `device`: `source` itself on the CPU, else a new one that a draw of `source` seeds.

    So the state of a run is the state of `source`, which is on the CPU and independent of the device.
    """
    if device.type == "cpu":
        return source
    seed = torch.randint(2**62, (), generator=source, device=source.device)
    return torch.Generator(device).manual_seed(int(seed))


class Draws(torch.Generator):
    """Random numbers that the caller chooses, in the place of a generator.

    Args:
        numbers: of the next draws, in order; later draws return the median of their distribution.
    """

    def __new__(cls, numbers: Sequence[torch.Tensor] = ()) -> Draws:  # noqa: ARG004 - torch would read them as a device
        return super().__new__(cls)

    def __init__(self, numbers: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self._left, self.drawn = list(numbers), list[torch.Tensor]()

    def draw(self, shape: Sequence[int], median: float) -> torch.Tensor:
        """The next numbers; also appended to `drawn`."""
        self.drawn.append(self._left.pop(0) if self._left else torch.full(tuple(shape), median))
        return self.drawn[-1]


def uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Uniform numbers in [0, 1), drawn on the device of the generator and moved to `device`."""
    if isinstance(generator, Draws):
        return generator.draw(shape, 0.5).to(device)
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(device)


def normal(shape: Sequence[int], generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal numbers, drawn on the device of the generator and moved to `device`."""
    if isinstance(generator, Draws):
        return generator.draw(shape, 0.0).to(device)
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)


def move(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`; through page-locked memory to a GPU, so that the program does not wait for the copy."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def exact_float(device: torch.device) -> torch.dtype:
    """The floating-point type with the highest precision on this device."""
    return torch.float32 if device.type == "mps" else torch.float64


@cache
def has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products (AVX-512 BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """A context in which products run in bfloat16 if this device has instructions for it, else in float32.

    Args:
        device: of the products; on "mps" they always run in float32.
        enabled: False for float32.
    """
    supported = has_bfloat16() if device.type == "cpu" else device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and supported)
