"""The example trains in two processes, whoever starts them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.data.stores import stored

import worldline
from worldline.data.store import Store
from worldline.testing.toys import Integrator

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "train_on_many.py")
SETTINGS = "[training]\nnum_updates = 4\nnum_checks = 1\nmin_deviation = 0.0\nmin_rank = 1.0\n"
COMMANDS = {
    "torchrun": [*TORCHRUN, EXAMPLE],
    "accelerate": [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", EXAMPLE],
    "ray": [sys.executable, EXAMPLE, "--ray", "2"],
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}


def toy_store(folder: Path) -> Store:
    toy = Integrator(camera=False)
    return stored(folder, toy.schema, toy.episodes(24, 12, seed=0))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", COMMANDS)
def test_every_launcher_starts_a_training_in_two_processes(tmp_path: Path, launcher: str) -> None:
    if launcher != "torchrun":
        pytest.importorskip(launcher, reason=f"{launcher} is no dependency of the tests")
    world, store = tmp_path / "world", toy_store(tmp_path / "store")
    (tmp_path / "short.toml").write_text(SETTINGS)
    command = [*COMMANDS[launcher], str(store.path), str(world), "--config", "short.toml"]
    shown = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, check=True, timeout=500, capture_output=True).stdout
    lines = {line.rpartition("\x1b[0m ")[2] for line in shown.decode().splitlines()}  # Ray writes the process first
    assert "2 processes, 64 windows each, 128 per update" in lines
    assert {f"Process {rank} has the world vectors." for rank in (0, 1)} <= lines
    history = store.episode(0).history(at=4, length=5)
    actions = {"push": store.episode(0).actions["push"][4:6]}
    exogenous = {"wind": store.episode(0).exogenous["wind"][4:6]}
    opened = worldline.open(world)
    assert opened.predict(history, actions, exogenous=exogenous).signals["position"].mean.shape[-2:] == (2, 2)
    curves = (tmp_path / "world.log" / "world-seed0.jsonl").read_text().splitlines()
    assert [line.count('"step"') for line in curves] == [0, 1], "the processes wrote more than one training"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_after_the_death_of_a_process_the_same_command_resumes(tmp_path: Path) -> None:
    store, state = toy_store(tmp_path / "store"), tmp_path / "world.partial" / "checkpoint.json"
    (tmp_path / "long.toml").write_text(SETTINGS.replace("= 4", "= 300").replace("checks = 1", "checks = 30"))
    command = [*COMMANDS["torchrun"], str(store.path), str(tmp_path / "world"), "--config", str(tmp_path / "long.toml")]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    while process.poll() is None and not (state.exists() and json.loads(state.read_text())["step"] >= 50):
        time.sleep(0.01)
    killed = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
    os.kill(killed, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (tmp_path / "world").exists()
    assert 50 <= json.loads(state.read_text())["step"] < 300
    subprocess.run([*command, "--resume"], env=ENVIRONMENT, check=True, timeout=500)
    steps = [row["step"] for row in json.loads((tmp_path / "world" / "run.json").read_text())["curves"]]
    assert steps == list(range(10, 301, 10))
    assert not state.exists()
