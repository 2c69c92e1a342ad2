"""What a machine has and lacks, with machines, installations and rates that are made up."""

from __future__ import annotations

import errno
import io
import math
import os
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.data.stores import stored
from tests.simulated_device import DEVICE, simulated_device

from worldline.data.array_size import memory_bytes
from worldline.errors import InputError
from worldline.labs.two_rooms import TwoRooms
from worldline.recipes.vectors import vectors
from worldline.testing.toys import Integrator
from worldline.workflows import doctor, examine_machine
from worldline.workflows.doctor import conclusions, problems, slower_threads, unmet
from worldline.workflows.record import record

REQUIREMENTS = {
    "worldline": ["torch>=2.10", 'nice>=1,<2; extra == "a"', 'worldline[a]; extra == "b"', 'other; extra == "b"',
                  'sql[binary]>=3; extra == "c"', 'never>=9; python_version < "3" and extra == "c"'],
    "sql": ['fast; extra == "binary"'],
}  # fmt: skip
PLENTY = {"torch_threads": 2, "cores": 2, "free_disk_bytes": 1e12, "available_memory_bytes": 1e12, "open_files": 4096}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions of the distributions that are installed, to be changed."""
    versions = {"worldline": "1.0", "torch": "2.10.0+cpu", "nice": "1.5", "other": "1", "sql": "3.1", "fast": "1"}

    def listed(name: str) -> list[Any]:
        return [SimpleNamespace(version=versions[name])] if name in versions else []

    monkeypatch.setattr(metadata, "requires", lambda name: REQUIREMENTS.get(name))
    monkeypatch.setattr(metadata, "distributions", listed)
    return versions


def test_an_extra_is_complete_with_all_of_its_packages(installed: dict[str, str]) -> None:
    assert [unmet("worldline", extra) for extra in ("", "a", "b", "c")] == [()] * 4


@pytest.mark.parametrize(
    ("changed", "extra", "expected"),
    [
        ({"torch": "2.9"}, "", "torch>=2.10 (2.9 installed)"),
        ({"nice": "2.0"}, "b", "nice<2,>=1 (2.0 installed)"),
        ({"other": ""}, "b", "other (not installed)"),
        ({"fast": ""}, "c", "fast (not installed)"),
        ({"sql": ""}, "c", "sql>=3 (not installed)"),
    ],
)
def test_a_package_that_does_not_fit_is_named(
    installed: dict[str, str], changed: dict[str, str], extra: str, expected: str
) -> None:
    installed |= changed
    assert unmet("worldline", extra) == (expected,)
    assert unmet("worldline", "a" if extra != "b" else "c") == ()


def test_each_extra_has_a_purpose() -> None:
    assert doctor.PURPOSES.keys() == set(metadata.metadata("worldline").get_all("Provides-Extra") or ())


@pytest.mark.parametrize(
    ("limits", "cores", "limit_bytes", "available_bytes"),
    [
        ({}, None, None, 3_000_000 * 1024),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.current": "500\n"}, None, None, 3_000_000 * 1024),
        ({"cpu.max": "50000 100000\n", "memory.max": "1000\n", "memory.current": "400\n"}, 0.5, 1000, 600),
    ],
)
def test_the_limits_of_a_container_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, str],
    cores: float | None,
    limit_bytes: int | None,
    available_bytes: int,
) -> None:
    for name, text in limits.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text("MemTotal:  9000000 kB\nMemAvailable:    3000000 kB\n")
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "meminfo")
    facts = doctor._facts(tmp_path)
    assert facts["cores"] == (cores or len(os.sched_getaffinity(0)))
    assert facts["memory_bytes"] == (limit_bytes or memory_bytes())
    assert facts["available_memory_bytes"] == available_bytes
    monkeypatch.setattr(doctor, "MEMINFO", tmp_path / "none")
    assert math.isnan(doctor._facts(tmp_path)["available_memory_bytes"])


def test_gpus_are_listed_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(name=f"G{n}", total_memory=8e9))
    assert doctor._facts(tmp_path)["GPU"].replace("\u00a0", " ") == "G0 (8 GB), G1 (8 GB)"


def test_a_gpu_is_measured_too_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = list[torch.device]()
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    monkeypatch.setattr(doctor, "SIZES", {"cpu": 8, DEVICE.type: 8})
    monkeypatch.setattr(doctor, "REPEATS", 1)
    monkeypatch.setattr(doctor, "choose_device", lambda: DEVICE)
    store = record(TwoRooms(camera=False), tmp_path / "store", num_episodes=24, max_steps=40, seed=0)
    with simulated_device():
        rates = list(doctor._compute_rates(store, vectors(store), 1.5))
    names = {place: {name for where, name, _ in rates if where == place} for place in ("1 thread", "lazy")}
    assert len(rates) == sum(map(len, names.values()))
    assert names["lazy"] - names["1 thread"] == {"copies to the GPU, MB/s"}
    assert names["1 thread"] < names["lazy"]
    assert len(waited) == 2 * len(names["lazy"])  # one call is a warm-up


def test_threads_are_slower_only_if_a_rate_falls_clearly() -> None:
    rates = {"updates/s": {"1 thread": 10.0, "2 threads": 9.0, "cuda:0": 1.0}, "read, MB/s": {"disk": 1.0}}
    assert slower_threads(rates) == ""
    assert slower_threads({"plans/s": {"1 thread": 10.0}}) == ""
    rates["plans/s"] = {"1 thread": 60.0, "2 threads": 2.0}
    assert "plans/s fall by a factor of 30. " in slower_threads(rates)
    assert "OMP_NUM_THREADS=1" in problems({**PLENTY, "GPU": "G"}, rates)[0]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"free_disk_bytes": 1e9}, "1 GB of disk is free"),
        ({"available_memory_bytes": 1e6}, "1 MB of memory is available"),
        ({"cores": 1.5}, "2 threads on 1 core. Set OMP_NUM_THREADS=1."),
        ({"open_files": 256}, "only 256 files. Run ulimit -n 4096"),
        ({"GPU": "none"}, "Note: torch has no GPU"),
    ],
)
def test_what_is_scarce_is_a_problem(changed: dict[str, Any], expected: str) -> None:
    assert problems({**PLENTY, "GPU": "G"}, {}) == ()
    (text,) = problems({**PLENTY, "GPU": "G", **changed}, {})
    assert expected in text.replace("\u00a0", " ")


@pytest.mark.parametrize(("plans", "verdict"), [(20.0, "is possible"), (5.0, "is not possible")])
def test_conclusions_are_rates_times_sizes(tmp_path: Path, plans: float, verdict: str) -> None:
    toy = Integrator(camera=False)
    recipe = vectors(stored(tmp_path / "toy", toy.schema, toy.episodes(8, 12, seed=0)))
    rates = {"updates/s": {"1 thread": 50.0, "cuda:0": 75.0}, "plans/s": {"1 thread": plans, "cuda:0": 1.0}}
    training, planning = (text.replace("\u202f", "").replace("\u00a0", " ") for text in conclusions(rates, recipe))
    assert "1500 updates (13.3 ms each, 15.4 passes) takes about 20 s, on cuda:0." in training
    assert f"takes {1000 / plans:.0f} ms, on 1 thread. A loop of 10 Hz {verdict}." in planning.replace(".0 ms", " ms")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_the_file_is_removed_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    written = list[str]()

    class Full(io.FileIO):
        def write(self, content: Any) -> int:
            """Writes a part, as a disk does before it is full."""
            written.append(str(self.name))
            if len(written) > 1:
                raise error
            return super().write(content[:5])

    def opened(path: Path, *how: Any, **more: Any) -> Any:
        return io.BufferedRandom(Full(path, *how)) if path.name == "disk" else usual(path, *how, **more)

    usual = Path.open
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(type(error)) as raised:
        examine_machine(tmp_path)
    assert len(written) > 1
    assert list(tmp_path.iterdir()) == []
    assert isinstance(raised.value, KeyboardInterrupt) or str(tmp_path) in str(raised.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing is not a folder\. Give an existing folder"):
        examine_machine(tmp_path / "missing")
