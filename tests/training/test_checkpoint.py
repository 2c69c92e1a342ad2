from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from worldline.errors import BundleError
from worldline.training.checkpoint import Checkpoint, deferred_interrupt, load_checkpoint, save_checkpoint

BEST = {"0.weight": torch.ones(4, 2), "plain": torch.zeros(3)}


class Run:
    """A model with a buffer, its optimiser and its generators, some updates old."""

    def __init__(self, seed: int = 0, updates: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = np.random.default_rng(seed)
        for _ in range(updates):
            self.update()

    def update(self) -> float:
        inputs = torch.randn(8, 2, generator=self.generator) + float(self.batches.normal())
        loss = self.model(inputs).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def state(self, step: int = 3) -> Checkpoint:
        drawn = dict(self.batches.bit_generator.state)
        return Checkpoint(
            step=step, fingerprint="same", batches=drawn, curves=[{"step": 3.0, "loss": 0.5}], elapsed_s=1.5,
            typical_loss=0.25, notes=["went back"],
        )  # fmt: skip

    def save(self, folder: Path, step: int = 3) -> None:
        save_checkpoint(folder, self.model, self.optimizer, self.generator, self.state(step), BEST)

    def load(self, folder: Path, fingerprint: str = "same") -> Checkpoint:
        state, best = load_checkpoint(folder, self.model, self.optimizer, self.generator, fingerprint)
        torch.testing.assert_close(best, BEST, rtol=0, atol=0)
        return state


def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    run = Run()
    run.save(tmp_path / "new" / "folder")
    other = Run(seed=9, updates=1)
    state = other.load(tmp_path / "new" / "folder")
    other.batches.bit_generator.state = state.batches
    assert state == run.state()
    assert [run.update() for _ in range(5)] == [other.update() for _ in range(5)]
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_only_safetensors_and_json_are_written_and_only_the_last(tmp_path: Path) -> None:
    run = Run()
    for step in (3, 4, 5):
        run.save(tmp_path, step)
    tensors, state = sorted(file.name for file in tmp_path.iterdir())
    assert tensors.startswith("checkpoint-5-")
    assert (Path(tensors).suffix, state) == (".safetensors", "checkpoint.json")
    assert Run().load(tmp_path).step == 5


def test_a_crash_while_saving_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run()
    run.save(tmp_path, 3)
    kept = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.update()

    def fail(*_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="power cut"):
            run.save(tmp_path, 4)
    other = Run(seed=1)
    assert other.load(tmp_path).step == 3
    assert all(torch.equal(value, kept[name]) for name, value in other.model.state_dict().items())


def test_where_there_is_none_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no checkpoint"):
        Run().load(tmp_path)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_waits_for_a_safe_place() -> None:
    with deferred_interrupt() as interrupted:
        assert not interrupted.is_set()
        press_ctrl_c()
        press_ctrl_c()  # impatience changes nothing
        assert interrupted.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_handler_of_the_program_stays() -> None:
    calls = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with deferred_interrupt() as interrupted:
            press_ctrl_c()
            assert (calls, interrupted.is_set()) == ([signal.SIGINT], False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_beside_the_main_thread_nothing_is_touched() -> None:
    seen = list[object]()

    def work() -> None:
        with deferred_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
