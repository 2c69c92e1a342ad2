"""Data parallelism: each process computes its share of a batch, and gradients are averaged.

`torchrun`, `accelerate launch` and Ray Train start the processes. They set RANK, WORLD_SIZE and LOCAL_RANK, or create a
process group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from itertools import count
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from worldline.device import CPU
from worldline.errors import ConfigError
from worldline.models.layers.gather import Joined, group_rank, num_processes

TIMEOUT: Final = timedelta(days=1)
"""Maximum waiting time for the other processes. It is long, because only the first process fits heads between seeds.
`torchrun` ends the others if one process dies."""
_GROUPS: Final = count()


def world_size() -> int:
    """Number of processes that a launcher started, such as `torchrun`; 1 without one."""
    return distributed.get_world_size() if _has_group() else int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes(device: torch.device = CPU) -> Iterator[None]:
    """Joins a process group for the duration of the context; does nothing without a launcher such as `torchrun`.

    All processes must join equally often. The first waits for the others. A group of the caller does not change.

    Args:
        device: of this process, for tensors that are averaged; numbers are averaged on the CPU.
    """
    size = world_size()
    if size == 1:
        yield
        return
    # Not every build of torch has these modules. The first is imported for its side effect, before the group exists:
    # it keeps a reference to any existing group for ever, whose threads can abort the process at exit.
    import torch.distributed.nn
    from torch.distributed.distributed_c10d import PrefixStore

    gpu = device.type == "cuda"
    if gpu:
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    if _has_group():  # that one may have another backend and timeout
        Joined.group = distributed.new_group(backend=backend, timeout=TIMEOUT)
    else:
        # Without a prefix, keys of an earlier group would count for this one, and all processes would wait for ever.
        own = PrefixStore(f"group {next(_GROUPS)}", _rendezvous_store())
        distributed.init_process_group(backend, store=own, rank=rank(), world_size=size, timeout=TIMEOUT)
        Joined.group = distributed.group.WORLD
    try:
        yield
    finally:
        joined, Joined.group = Joined.group, None
        distributed.destroy_process_group(joined)


def _has_group() -> bool:
    """Whether this process is in a process group, such as that of Ray Train."""
    return distributed.is_available() and distributed.is_initialized()


@cache
def _rendezvous_store() -> Any:
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    return store


def rank() -> int:
    """The rank of this process under a launcher such as `torchrun`; 0 without one."""
    return distributed.get_rank() if _has_group() else int(os.environ.get("RANK", "0"))


def barrier() -> None:
    """Waits until every process has called it; for use outside of `processes`."""
    with processes():
        wait_for_all()


def is_main() -> bool:
    """Whether this process writes files."""
    return group_rank() == 0


def share_of(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """This process's rows, in order.

    Raises:
        ConfigError: the number of rows is not a multiple of the number of processes.
    """
    count = num_processes()
    if len(starts) % count:
        raise ConfigError(
            f"{len(starts)} windows cannot be divided equally among {count} processes. Make batch_size a multiple of "
            f"{count}, or start fewer processes."
        )
    return starts if count == 1 else np.split(starts, count)[group_rank()]


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over all processes."""
    if num_processes() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joined, group=Joined.group)
    joined /= num_processes()
    for gradient, part in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_processes(value: float) -> float:
    """The mean of a number over all processes."""
    if num_processes() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64, device="cpu")
    distributed.all_reduce(shared, group=Joined.group)
    return float(shared) / num_processes()


def wait_for_all() -> None:
    """Waits until every process has called it; within `processes`."""
    if num_processes() > 1:
        distributed.barrier(group=Joined.group)
