from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from worldline.errors import ConfigError
from worldline.train import parallel

JOINING = """
import os
import sys
from pathlib import Path
from torch import distributed
from worldline.nn.gather import num_processes
from worldline.train.parallel import mean_over_processes, processes

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
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launcher, str(tmp_path / "join.py"), str(tmp_path)], env=environment, check=True, timeout=250)
    for rank in "01":
        assert (tmp_path / rank).read_text() == "[0.5, 1.5, 2.5]"


def test_a_process_alone_has_the_whole_batch() -> None:
    with parallel.processes():
        assert parallel.share_of(np.zeros((5, 2), np.int64)).shape == (5, 2)


def test_each_of_several_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_processes", lambda: 3)
    monkeypatch.setattr(parallel.distributed, "get_rank", lambda: 1)
    starts = np.arange(12).reshape(6, 2)
    assert parallel.share_of(starts).tolist() == [[4, 5], [6, 7]]
    with pytest.raises(ConfigError, match="5 windows cannot be shared by 3 processes"):
        parallel.share_of(starts[:5])
