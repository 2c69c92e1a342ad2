"""`worldline serve` as a process of its own. Its jobs are stubs.

Importing torch takes seconds, so the processes are forked from one that has imported everything and computed nothing.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

START_S = 120.0
"""Wide, because a busy machine can be several times slower."""


class Nursery:
    """The process from which services are forked. It ends with its input, and all services with it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()

    def fork(self, arguments: list[str], environment: dict[str, str], log: Path) -> int:
        """Runs a command of worldline; returns the id of the process."""
        self._process.stdin.write(json.dumps([arguments, environment, str(log)]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class ServiceProcess:
    """A service on a free port of the loopback interface, which starts in the background.

    Args:
        nursery: of the process.
        database: URL of the database.
        home: folder of the catalog.
        log: file for its output.
        worlds: arguments of `worldline serve`.
        port: None for any free port.
    """

    def __init__(
        self, nursery: Nursery, database: str, home: Path, log: Path, *worlds: str, port: int | None = None
    ) -> None:
        if port is None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
        self.port, self.url, self._log = port, f"http://127.0.0.1:{port}", log
        environment = {"WORLDLINE_HOME": str(home), "WORLDLINE_DATABASE": database}
        self._pid = nursery.fork(["serve", *worlds, "--port", str(port), "--threads", "1"], environment, log)

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def wait(self) -> None:
        """Waits until it answers."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._runs():
            try:
                if httpx.get(f"{self.url}/readyz", trust_env=False, timeout=START_S).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"no answer: {self._log.read_text()}")

    def client(self, token: str) -> httpx.Client:
        """Calls the service with a token."""
        headers = {"authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=START_S)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, at once or on another signal, and waits until it is gone."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)
        until = time.monotonic() + START_S
        while self._runs():
            assert time.monotonic() < until
            time.sleep(0.01)

    def _runs(self) -> bool:
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return False
        return True


def step(number: int, value: float) -> dict[str, Any]:
    """The body of an observation of the toy world that is recognized by its value."""
    first = {"step": number, "observations": {"position": [value, -value]}}
    return {**first, "actions": {"push": [0.5, 0.0]}, "exogenous": {"wind": [0.0, 0.0]}} if number else first


def main() -> None:
    """Forks a process for each line."""
    from worldline.catalog import opening
    from worldline.cli.main import app
    from worldline.serve import jobs, server
    from worldline.world import bundle_io

    del opening, server, bundle_io
    stub = (sys.executable, str(Path(__file__).with_name("job_stub.py")))
    settings = partial(jobs.JobSettings, command=stub, beat_s=0.1, lease_s=3.0)  # a kill is noticed soon
    mock.patch.object(jobs, "JobSettings", settings).start()  # this process and its children end with it
    children = list[int]()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody need wait for them
    for line in sys.stdin:
        arguments, environment, log = json.loads(line)
        if child := os.fork():
            children.append(child)
            print(child, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        app(arguments)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
