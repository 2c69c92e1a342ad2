"""A training run on disk, to go on from (safetensors and JSON only), and the moment at which it may be stopped."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from worldline.data.fsync import name_in_errors
from worldline.errors import BundleError

STATE = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a run stands beside its weights.

    Args:
        step: updates done.
        fingerprint: of configuration and data; a run goes on only where it is the same.
        batches: state of the generator that draws windows.
        curves: what was measured so far.
        elapsed_s: seconds of training so far.
        typical_loss: running average of the loss; None before the first update.
        notes: one for each time that the guard went back, with the reason.
    """

    step: int
    fingerprint: str
    batches: dict[str, Any]
    curves: list[dict[str, float]]
    elapsed_s: float
    typical_loss: float | None = None
    notes: list[str] = field(default_factory=list)


Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a checkpoint holds beside the model, the optimizer and the generator, which it put back.

    Args:
        state: everything that is no tensor.
        others: further named tensors, per group.
    """

    state: Checkpoint
    others: Mapping[str, Weights]


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    state: Checkpoint,
    others: Mapping[str, Weights],
) -> None:
    """Writes model, optimizer and generators; a checkpoint that was there stays whole until the new one is.

    Args:
        folder: for the checkpoint.
        model: its parameters and buffers.
        optimizer: its state.
        generator: of the loss's draws.
        state: everything that is no tensor.
        others: further named tensors, in groups whose names have no dot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in slots.items()}
    for group, values in others.items():
        tensors |= {f"{group}.{name}": value for name, value in values.items()}
    tensors["generator"] = generator.get_state()
    name = f"checkpoint-{state.step}-{secrets.token_hex(4)}.safetensors"  # never one that is in use
    with name_in_errors(folder / name):
        save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, folder / name)
    draft = folder / f"{STATE}.draft"
    with name_in_errors(draft):
        draft.write_text(json.dumps({"tensors": name, **asdict(state)}))
    for path in (folder / name, draft):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    draft.replace(folder / STATE)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, fingerprint: str
) -> Restored:
    """Puts model, optimizer and generator back to where the run stopped; gives the rest as it was saved.

    Raises:
        BundleError: there is no checkpoint, or it belongs to another configuration or other data.
    """
    path = folder / STATE
    if not path.exists():
        raise BundleError(f"{folder} holds no checkpoint to go on from. Start the run without --resume.")
    stored = json.loads(path.read_text())
    tensors = load_file(folder / Path(stored.pop("tensors")).name)
    state = Checkpoint(**stored)
    if state.fingerprint != fingerprint:
        raise BundleError(
            f"{path}: the checkpoint belongs to another configuration or other data. "
            "Go on with what it was started with, or start anew without --resume."
        )
    generator.set_state(tensors.pop("generator"))
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    model.load_state_dict(groups.pop("model"))
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in groups.pop("optimizer", {}).items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return Restored(state=state, others=groups)


def restore_batches(state: dict[str, Any]) -> np.random.Generator:
    """The generator of windows, where it stopped."""
    generator = np.random.default_rng()
    generator.bit_generator.state = state
    return generator


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Holds Ctrl-C back until a place where stopping is safe.

    While active, SIGINT is only noted. The function that is yielded passes it on to the handler that was there before,
    which usually raises KeyboardInterrupt; leaving the context does so too. Where there is no such handler, and outside
    of the main thread, which no signal reaches, nothing is held back.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield lambda: None
        return
    noted = False

    def note(*_: object) -> None:
        nonlocal noted
        noted = True

    def pass_on() -> None:
        nonlocal noted
        if noted:
            noted = False
            handler(signal.SIGINT, None)

    signal.signal(signal.SIGINT, note)
    try:
        yield pass_on
    finally:
        signal.signal(signal.SIGINT, handler)
    pass_on()
