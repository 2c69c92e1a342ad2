"""Data parallelism under `torchrun`: each process takes its share of a batch, and gradients are averaged."""

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

from worldline.errors import ConfigError
from worldline.models.layers.gather import num_processes

PATIENCE: Final = timedelta(days=1)
"""How long a process waits for the others; between two seeds the first one fits heads. `torchrun` ends those whose
partner has died."""
_GROUPS: Final = count()


@contextmanager
def processes() -> Iterator[None]:
    """Joins the processes that `torchrun` started for as long as it lasts; does nothing in any other process.

    Each must join equally often. The first to come waits for the others.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield
        return
    # Neither is in every build of torch. The first is imported for its effect, before there is a group: it keeps for
    # ever the one that it finds, with threads of which one can end in the interpreter's exit and abort the process.
    import torch.distributed.nn  # noqa: F401
    from torch.distributed.distributed_c10d import PrefixStore

    # What an earlier group wrote there would be taken for this one's, and all would wait for ever.
    own = PrefixStore(f"group {next(_GROUPS)}", _meeting())
    distributed.init_process_group("gloo", store=own, rank=rank(), world_size=size, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@cache
def _meeting() -> Any:
    """The store in which the processes find each other."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=PATIENCE))
    return store


def rank() -> int:
    """The number of this process among those that `torchrun` started; 0 in any other."""
    return int(os.environ.get("RANK", "0"))


def barrier() -> None:
    """Returns once every process has come here; outside of `processes`."""
    with processes():
        wait_for_all()


def is_main() -> bool:
    """Whether this is the process that writes."""
    return num_processes() == 1 or distributed.get_rank() == 0


def share_of(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that are this process's, in order.

    Raises:
        ConfigError: they cannot be shared equally.
    """
    count = num_processes()
    if len(starts) % count:
        raise ConfigError(
            f"{len(starts)} windows cannot be shared by {count} processes. Make batch_size / accumulate a multiple of "
            f"{count}, or start fewer processes."
        )
    return starts if count == 1 else np.split(starts, count)[distributed.get_rank()]


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Replaces each gradient by its mean over all processes."""
    if num_processes() == 1:
        return
    found = [p.grad for p in model.parameters() if p.grad is not None]
    whole = torch.cat([gradient.flatten() for gradient in found])
    distributed.all_reduce(whole)
    whole /= num_processes()
    for gradient, part in zip(found, whole.split([g.numel() for g in found]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_processes(value: float) -> float:
    """The mean of a number over all processes."""
    if num_processes() == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(shared)
    return float(shared) / num_processes()


def wait_for_all() -> None:
    """Returns once every process has come here."""
    if num_processes() > 1:
        distributed.barrier()
