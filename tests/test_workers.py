"""Tasks give the same results wherever they run; a killed worker loses only its task, and errors name theirs."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worldline import workers as module
from worldline.errors import ConfigError, InputError, UnavailableError
from worldline.progress import Progress
from worldline.workers import RayExecutor, run_in_order, run_tasks, workers


def drawn(seed: int) -> tuple[float, int]:
    """A number that depends on order and threads of a sum, and the threads."""
    generator = torch.Generator().manual_seed(seed)
    return float(torch.randn(100_000, generator=generator).sum()), torch.get_num_threads()


def counted(folder: Path, number: int) -> int:
    """Counts its starts in the folder; number 1 is killed at its first."""
    starts = len([*folder.glob(f"{number}-*")])
    (folder / f"{number}-{starts}").touch()
    if number == 1 and not starts:
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "store/block")


def wrong() -> None:
    raise InputError("the value is 3. Give 4.")


def flaky(folder: Path) -> str:
    """Fails once."""
    if not (folder / "tried").exists():
        (folder / "tried").touch()
        raise ConnectionResetError("reset by peer")
    return "done"


def slow(number: int) -> int:
    time.sleep(0.5 if number == 0 else 0.0)
    return number


def test_results_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit, with equal thread counts; and the progress shows what runs."""
    tasks, seen = {f"seed {seed}": (seed,) for seed in range(4)}, list[Progress]()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = dict(run_tasks(drawn, tasks, 1, "draw", None))
    finally:
        torch.set_num_threads(before)
    assert dict(run_tasks(drawn, tasks, "2", "draw", seen.append)) == alone
    assert (seen[0].step, seen[-1].step, seen[-1].total) == (0, 4, 4)
    assert {now.part for now in seen if now.ended} == set(tasks)
    with ThreadPoolExecutor(2) as pool:
        assert dict(run_tasks(slow, {"a": (3,), "b": (4,)}, pool, "draw")) == {"a": 3, "b": 4}
        assert pool.submit(abs, -1).result() == 1, "an executor of the caller stays open"


def test_a_killed_worker_loses_only_its_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tasks = {f"task {number}": (tmp_path, number) for number in range(6)}
    assert dict(run_tasks(counted, tasks, 2, "count")) == {f"task {number}": number**2 for number in range(6)}
    starts = {number: len([*tmp_path.glob(f"{number}-*")]) for number in range(6)}
    assert starts == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    assert "count task 1 starts again" in caplog.text


def test_a_task_that_kills_its_worker_or_fails_is_named(tmp_path: Path) -> None:
    assert dict(run_tasks(flaky, {"one": (tmp_path,)}, 2, "try")) == {"one": "done"}
    with pytest.raises(UnavailableError, match=r"try bad: its worker was killed 6 times.*Take fewer workers"):
        dict(run_tasks(killed, {"bad": ()}, 2, "try"))
    with pytest.raises(InputError, match=r"try store: .*No space left on device.*run the same again"):
        dict(run_tasks(full, {"store": ()}, 2, "try"))
    with pytest.raises(InputError, match=r"^the value is 3\. Give 4\.$"):
        dict(run_tasks(wrong, {"value": ()}, 2, "try"))
    with pytest.raises(InputError, match=r"try local: .*top level of a module"):
        dict(run_tasks(lambda: 1, {"local": ()}, 2, "try"))


def test_results_in_order(tmp_path: Path) -> None:
    assert list(run_in_order(slow, {str(number): (number,) for number in range(20)}, 2, "order")) == list(range(20))


@pytest.mark.parametrize("spec", [0, -1, "none", "2.5", "ray:/host", True])
def test_other_workers_are_refused(spec: Any) -> None:
    with pytest.raises(ConfigError, match=r"Give a number from 1 on, ray, or ray://HOST:PORT"), workers(spec):
        pass


def test_processes_end_with_the_one_that_asked() -> None:
    """Also where it is killed and can tell nobody."""
    asks = (
        "import os, time\n"
        "from worldline.workers import workers\n"
        "with workers(2) as pool:\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600), pool.submit(time.sleep, 600)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", asks], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline()
        asking.kill()
        asking.communicate(timeout=60)  # waits for all who could still write there


def test_processes_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(module, "parent_process", lambda: SimpleNamespace(join=Event().wait))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setenv("LOCAL_RANK", "")
    module._begin(5)
    assert os.environ["LOCAL_RANK"] == "1"


def test_what_has_not_begun_is_left_undone_after_ctrl_c() -> None:
    with suppress(KeyboardInterrupt), workers(1) as pool:
        tasks = [pool.submit(Event().wait, 0.2), pool.submit(abs, -1)]
        raise KeyboardInterrupt
    assert tasks[1].cancelled()


@pytest.mark.parametrize(("spec", "address"), [("ray://127.0.0.1:9", "auto"), ("ray", "127.0.0.1:9")])
def test_a_cluster_that_does_not_answer_is_named(spec: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 does not answer.*Start Ray there"), workers(spec):
        pass


def test_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the extra cluster is not installed")

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with Ray 2.40.0, this process has 2.60.0.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UnavailableError, match=r"ray cannot be used: Version mismatch.*Check its token and versions"):
        RayExecutor("ray")
    with pytest.raises(InputError, match=r"in a worker and 0\.0\.0 here\. Install the same"):
        module._called("0.0.0", abs, (-1,), {})


def visible_gpus() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def tasks_end_alike(spec: str, folder: Path) -> None:
    """A killed worker, errors of tasks, and results, as with processes."""
    with workers(spec) as pool:
        tasks = {f"task {number}": (folder, number) for number in range(6)}
        assert dict(run_tasks(counted, tasks, pool, "count")) == {f"task {number}": number**2 for number in range(6)}
        assert [len([*folder.glob(f"{number}-*")]) for number in range(6)] == [1, 2, 1, 1, 1, 1]
        assert dict(run_tasks(drawn, {"a": (0,)}, pool, "draw")) == dict(run_tasks(drawn, {"a": (0,)}, 2, "draw"))
        with pytest.raises(InputError, match=r"^the value is 3\. Give 4\.$"):
            dict(run_tasks(wrong, {"value": ()}, pool, "try"))
        with pytest.raises(InputError, match=r"try store: .*No space left on device"):
            dict(run_tasks(full, {"store": ()}, pool, "try"))


def gpus_of_tasks(spec: str) -> set[str]:
    """What the tasks see of the GPUs of a cluster, which has two for four tasks."""
    with workers(spec) as pool:
        gpus = dict(run_tasks(visible_gpus, {str(number): () for number in range(4)}, pool, "look"))
    return set(gpus.values())


@pytest.mark.slow
def test_tasks_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the token that Ray makes."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    tasks_end_alike("ray", tmp_path)
    assert (tmp_path / ".ray" / "auth_token").is_file()


def refusal(address: str) -> tuple[str, float]:
    """The error of a cluster that cannot be used, and the seconds until it is known."""
    began_s = time.monotonic()
    with pytest.raises(UnavailableError) as refused, workers(address):
        pass
    return str(refused.value), time.monotonic() - began_s


@pytest.mark.slow
def test_an_address_that_says_nothing_is_named_within_seconds() -> None:
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    with socket.create_server(("127.0.0.1", 0)) as silent, workers(2) as pool:  # Ray reads its limits in a new process
        address = f"ray://127.0.0.1:{silent.getsockname()[1]}"
        message, seconds = pool.submit(refusal, address).result()
    assert f"{address} cannot be used" in message
    assert seconds < 25  # 10 s, and the import of Ray on a busy machine


def left_alone(address: str) -> str:
    """The error of a task whose cluster is killed."""
    with workers(address) as pool:
        task = pool.submit(time.sleep, 120)
        os.killpg(int(os.environ["HEAD_GROUP"]), signal.SIGKILL)
        return str(task.exception())


@pytest.mark.slow
def test_a_lost_cluster_is_an_error_and_no_hang(cluster: str) -> None:
    with workers(2) as pool:
        assert "its worker was lost" in pool.submit(left_alone, cluster).result(240)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a cluster on this machine that asks for the token of a new home. Its processes are a group."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    for name, value in {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # else Ray's client server may crash (ray issue 63202)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)  # Ray sets it for the rest of a process
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    subprocess.run([*ray, "get-auth-token", "--generate"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # short, because sockets are in it
        sizes = "--num-cpus=4 --num-gpus=2"
        options = f"--head --block {sizes} --include-dashboard=false --disable-usage-stats --temp-dir={folder}"
        ports = f"--ray-client-server-port={port} --port=0 --min-worker-port=0 --max-worker-port=0"
        with subprocess.Popen([*ray, "start", *options.split(), *ports.split()], start_new_session=True) as head:
            try:
                while head.poll() is None:
                    with socket.socket() as client:
                        if client.connect_ex(("127.0.0.1", port)) == 0:
                            break
                    time.sleep(0.2)
                monkeypatch.setenv("HEAD_GROUP", str(head.pid))
                yield f"ray://127.0.0.1:{port}"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(head.pid, signal.SIGKILL)


@pytest.mark.slow
def test_tasks_of_a_cluster_through_the_client_of_ray(cluster: str, tmp_path: Path) -> None:
    """In a process of its own, which has used no other token."""
    with workers(2) as pool:
        pool.submit(tasks_end_alike, cluster, tmp_path).result()
        assert pool.submit(gpus_of_tasks, cluster).result() <= {"0", "1"}
