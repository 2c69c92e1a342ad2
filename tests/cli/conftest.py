"""Commands that serve until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from tests.cli.running import run

from worldline.serve import server

Serve = Callable[..., tuple[str, Any]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Runs a command on a free port. Once it listens, a thread calls `ask` with the URL and presses Ctrl-C.

    Returns what the command prints and what `ask` returns.
    """
    # Ctrl-C leaves it set, and later servers of this process would end their streams at once.
    monkeypatch.setattr("sse_starlette.sse.AppStatus.should_exit", False)
    listen = server.listen

    def start(*words: object, ask: Callable[[str], object]) -> tuple[str, Any]:
        with ThreadPoolExecutor(1) as threads:
            answers = list[Future[object]]()

            def press(url: str) -> object:
                try:
                    return ask(url)
                finally:
                    os.kill(os.getpid(), signal.SIGINT)

            def heard(host: str, port: int) -> socket.socket:
                listener = listen("127.0.0.1", port)  # whatever the host is: tests open no port to others
                answers.append(threads.submit(press, server.url_of(listener)))
                return listener

            monkeypatch.setattr(server, "listen", heard)
            said = run(*words, "--port", "0", "--threads", "1").output
            return said, answers[0].result()

    return start
