from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.stores import stored
from torch.distributed import HashStore

from worldline.errors import ConfigError
from worldline.testing.toys import Integrator
from worldline.training import distributed as parallel

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
JOINING = """
import os
import sys
from pathlib import Path
from torch import distributed
from worldline.models.layers.gather import num_processes
from worldline.training.distributed import mean_over_processes, processes

tasks, means = Path("/proc/self/task"), []
for turn in range(3):
    with processes():
        import torch._dynamo  # as the first optimiser does
        assert num_processes() == 2
        means.append(mean_over_processes(float(distributed.get_rank() + turn)))
    assert num_processes() == 1
    assert not tasks.exists() or len(list(tasks.iterdir())) == 1, "the group's threads are still there"
Path(sys.argv[1], os.environ["RANK"]).write_text(str(means))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_processes_can_join_again_as_they_do_for_each_seed(tmp_path: Path) -> None:
    (tmp_path / "join.py").write_text(JOINING)
    command = [*LAUNCHER, str(tmp_path / "join.py"), str(tmp_path)]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=250)
    for rank in "01":
        assert (tmp_path / rank).read_text() == "[0.5, 1.5, 2.5]"


def test_a_process_alone_has_the_whole_batch() -> None:
    with parallel.processes():
        assert parallel.share_of(np.zeros((5, 2), np.int64)).shape == (5, 2)


@pytest.mark.parametrize("exists", [False, True], ids=["new", "within a group"])
@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:1", "cpu:gloo,cuda:nccl")])
def test_gpus_average_gradients_by_nccl(
    device: str, backend: str, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups, gpus = list[object](), list[str]()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(parallel, "_rendezvous_store", HashStore)
    if exists:  # of any backend; it must not be made again
        monkeypatch.setattr(parallel, "_has_group", lambda: True)
        monkeypatch.setattr(parallel.distributed, "get_world_size", lambda *_: 2)
        monkeypatch.setattr(parallel.distributed, "new_group", lambda backend, **_: groups.append(backend))
    monkeypatch.setattr(parallel.distributed, "init_process_group", lambda name, **_: groups.append(name))
    monkeypatch.setattr(parallel.distributed, "destroy_process_group", lambda _: groups.append("destroyed"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda one: gpus.append(str(one)))
    with parallel.processes(torch.device(device)):
        assert groups == [backend]
    assert groups[1:] == ["destroyed"]
    assert gpus == ([] if device == "cpu" else [device])


def test_each_of_several_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_processes", lambda: 3)
    monkeypatch.setattr(parallel, "group_rank", lambda: 1)
    starts = np.arange(12).reshape(6, 2)
    assert parallel.share_of(starts).tolist() == [[4, 5], [6, 7]]
    with pytest.raises(ConfigError, match="5 windows cannot be divided equally among 3 processes"):
        parallel.share_of(starts[:5])


LEARNING = """
import os
import sys
from dataclasses import replace
from pathlib import Path
import worldline
from worldline.recipes.vectors import vectors

def short(store):
    known = vectors(store)
    training = replace(known.training, num_updates=4, num_checks=1, min_deviation=0.0, min_rank=1.0)
    return replace(known, training=training)

world = worldline.learn(sys.argv[1], sys.argv[2], recipe=short)
Path(sys.argv[2] + os.environ["RANK"]).write_text(world.describe().name)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_script_that_learns_has_the_world_in_every_process(tmp_path: Path) -> None:
    store = stored(
        tmp_path / "store", Integrator(camera=False).schema, Integrator(camera=False).episodes(24, 12, seed=0)
    )
    (tmp_path / "script.py").write_text(LEARNING)
    command = [*LAUNCHER, str(tmp_path / "script.py"), str(store.path), str(tmp_path / "world")]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=250)
    assert (tmp_path / "world0").read_text() == (tmp_path / "world1").read_text()
    assert (tmp_path / "world" / "report.html").exists()
