"""Checkpoints of training runs (safetensors and JSON only), and deferred handling of Ctrl-C."""

from __future__ import annotations

import json
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from worldline.data.fsync import name_in_errors
from worldline.errors import BundleError

STATE = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run, except tensors.

    Args:
        step: completed updates.
        fingerprint: of configuration and data; a run resumes only if it is equal.
        batches: state of the generator that draws windows.
        curves: measurements so far.
        elapsed_s: training time so far, s.
        typical_loss: running average of the loss; None before the first update.
        notes: one entry with the reason for each return to a checkpoint.
    """

    step: int
    fingerprint: str
    batches: dict[str, Any]
    curves: list[dict[str, float]]
    elapsed_s: float
    typical_loss: float | None = None
    notes: list[str] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    state: Checkpoint,
    best: Mapping[str, torch.Tensor],
) -> None:
    """Writes a checkpoint. An existing checkpoint stays valid until the new one is complete.

    Args:
        folder: for the checkpoint.
        model: its parameters and buffers are written.
        optimizer: its state is written.
        generator: for the draws of the loss.
        state: everything except tensors.
        best: the model's weights with the best validation so far; empty if there are none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in slots.items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    tensors["generator"] = generator.get_state()
    name = f"checkpoint-{state.step}-{secrets.token_hex(4)}.safetensors"  # a new name: the old file must stay valid
    with name_in_errors(folder / name):
        save_file({key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}, folder / name)
    draft = folder / f"{STATE}.draft"
    with name_in_errors(draft):
        draft.write_text(json.dumps({"tensors": name, **asdict(state)}))
    draft.replace(folder / STATE)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, fingerprint: str
) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """Restores model, optimizer and generator in place; returns the state and the best weights so far.

    Raises:
        BundleError: there is no checkpoint, or it belongs to another configuration or other data.
    """
    path = folder / STATE
    if not path.exists():
        raise BundleError(f"{folder} holds no checkpoint. Start the run without --resume.")
    stored = json.loads(path.read_text())
    tensors = load_file(folder / Path(stored.pop("tensors")).name)
    state = Checkpoint(**stored)
    if state.fingerprint != fingerprint:
        raise BundleError(
            f"{path}: the checkpoint belongs to another configuration or other data. "
            "Resume with the original configuration and data, or start without --resume."
        )
    generator.set_state(tensors.pop("generator"))
    groups: dict[str, dict[str, torch.Tensor]] = {"optimizer": {}, "best": {}}
    for key, value in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = value
    model.load_state_dict(groups["model"])
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in groups["optimizer"].items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, groups["best"]


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Sets the event on Ctrl-C instead of raising KeyboardInterrupt, so that the program can reach a safe point.

    Nothing is deferred outside of the main thread, or if the program handles Ctrl-C in another way.
    """
    pressed, handler = threading.Event(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)
