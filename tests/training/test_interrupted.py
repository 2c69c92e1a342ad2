"""Runs that are killed, and runs that several processes share, each in processes of their own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from worldline.data.store import Store
from worldline.schema import Kind, Role, Signal
from worldline.testing.toys import Integrator

SCRIPT = Path(__file__).parent / "interrupted.py"
FLAGS = [sys.executable, "-W", "error"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world with a camera of 32 by 32 pixels in colour, its speed and a reward; every sensor drops out."""
    toy = Integrator()
    signals = [replace(s, shape=(32, 32, 3)) if s.name == "camera" else s for s in toy.schema.signals]
    signals.append(Signal(name="speed", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"))
    signals.append(Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)))
    store = Store.create(tmp_path_factory.mktemp("runs") / "store", replace(toy.schema, signals=tuple(signals)))
    for number, episode in enumerate(toy.episodes(24, 12, seed=0)):
        position, draw = episode.observations["position"], np.random.default_rng(number)
        large = episode.observations["camera"].repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
        speed = np.linalg.norm(np.diff(position, axis=0, prepend=position[:1]), axis=-1, keepdims=True)
        store.append(
            replace(
                episode,
                observations={"position": position, "camera": large, "speed": speed.astype(np.float32)},
                rewards={"reward": -speed[1:].astype(np.float32)},
                observed={name: draw.random(13) < draw.uniform(0.4, 1) for name in ("position", "camera", "speed")},
                terminated=number % 3 == 0,
                truncated=number % 3 > 0,
            )
        )
    return store.path


def command(logs: Path, folder: Path, updates: int, *options: str, launcher: tuple[str, ...] = ()) -> list[str]:
    return [*FLAGS, *launcher, str(SCRIPT), str(logs), str(folder), str(updates), *options]


def step_of(state: Path) -> int:
    """The update of the last checkpoint; -1 where there is none."""
    return int(json.loads(state.read_text())["step"]) if state.exists() else -1


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def check_equal(folder: Path, other: Path) -> None:
    """The weights are equal, as far as sums over two halves can be."""
    due = weights(other)
    for name, value in weights(folder).items():
        np.testing.assert_allclose(value, due[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_ten_times_ends_with_the_same_weights(logs: Path, tmp_path: Path) -> None:
    updates, draw = 400, random.Random(0)
    subprocess.run(command(logs, tmp_path / "whole", updates, "sigreg"), check=True, env=ENVIRONMENT)
    state, resume = tmp_path / "killed" / "checkpoint.json", list[str]()
    for kill in range(1, 11):
        process = subprocess.Popen(command(logs, tmp_path / "killed", updates, "sigreg", *resume), env=ENVIRONMENT)
        while process.poll() is None and step_of(state) < 36 * kill:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        resume = ["--resume"]
    subprocess.run(command(logs, tmp_path / "killed", updates, "sigreg", "--resume"), check=True, env=ENVIRONMENT)
    due = weights(tmp_path / "whole")
    for name, value in weights(tmp_path / "killed").items():
        assert torch.equal(value, due[name]), name


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss", ["sigreg", "vicreg", "signals", "rssm", "ensemble", "token", "features", "lewm"])
def test_two_processes_reach_the_weights_of_one(logs: Path, tmp_path: Path, loss: str) -> None:
    """Each process sees another number of gaps and draws of its own; they end as one process that saw it all."""
    if loss == "features" and not (logs.parent / "encoder").exists():
        from tests.models.encoder_folders import dinov2  # skips where its libraries are not installed

        dinov2().save_pretrained(logs.parent / "encoder")
    subprocess.run(command(logs, tmp_path / "one", 100, loss, "4"), check=True, env=ENVIRONMENT)
    subprocess.run(command(logs, tmp_path / "two", 100, loss, "4", launcher=LAUNCHER), check=True, env=ENVIRONMENT)
    check_equal(tmp_path / "two", tmp_path / "one")


def test_two_processes_of_an_existing_group_reach_the_weights_of_one(logs: Path, tmp_path: Path) -> None:
    """With SIGReg and batch normalisation. The group is not that of the training, as in Ray Train."""
    one = command(logs, tmp_path / "one", 100, "sigreg", "2")
    two = [command(logs, tmp_path / "two", 100, "sigreg", "2", "--rank", rank) for rank in "01"]
    runs = [subprocess.Popen(each, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for each in (one, *two)]
    printed = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert printed == ["", "2 processes, 8 windows each, 16 per update\n", ""]
    check_equal(tmp_path / "two", tmp_path / "one")


@pytest.fixture(scope="module")
def uninterrupted(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run(command(logs, folder, 100, "sigreg", "20"), check=True, env=ENVIRONMENT)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("first", "then"), [(LAUNCHER, ()), ((), LAUNCHER)], ids=["two, then one", "one, then two"])
def test_a_killed_run_continues_in_another_number_of_processes(
    logs: Path, tmp_path: Path, uninterrupted: Path, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    run, state = tmp_path / "run", tmp_path / "run" / "checkpoint.json"
    process = subprocess.Popen(command(logs, run, 100, "sigreg", "20", launcher=first), env=ENVIRONMENT)
    while process.poll() is None and step_of(state) < 30:
        time.sleep(0.005)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]) if first else process.pid, signal.SIGKILL)  # one of two, or the only one
    assert process.wait(timeout=120) != 0
    assert 30 <= step_of(state) < 100, "it ended before it was killed"
    subprocess.run(command(logs, run, 100, "sigreg", "20", "--resume", launcher=then), check=True, env=ENVIRONMENT)
    check_equal(run, uninterrupted)
    ended, due = (json.loads((folder / "checkpoint.json").read_text()) for folder in (run, uninterrupted))
    tensors, other = (load_file(folder / last["tensors"]) for folder, last in ((run, ended), (uninterrupted, due)))
    assert ended["batches"] == due["batches"], "other windows were drawn"
    assert torch.equal(tensors["generator"], other["generator"]), "other random numbers were drawn"
    assert any(name.startswith("optimizer") for name in tensors)
    for name, value in tensors.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-4, atol=1e-5, err_msg=name)
