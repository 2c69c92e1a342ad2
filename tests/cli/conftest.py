"""Commands that serve until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

import pytest
from click.testing import Result
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.serve import server


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command on a free port. Once it listens, a thread calls `ask` with the URL and presses Ctrl-C."""
    listen = server.listen

    def run(*words: str, ask: Callable[[str], object]) -> Result:
        askers = list[threading.Thread]()

        def press(url: str) -> None:
            try:
                ask(url)
            finally:
                os.kill(os.getpid(), signal.SIGINT)

        def heard(host: str, port: int) -> socket.socket:
            listener = listen("127.0.0.1", port)  # whatever the host is: tests open no port to others
            askers.append(threading.Thread(target=press, args=(server.url_of(listener),)))
            askers[0].start()
            return listener

        monkeypatch.setattr(server, "listen", heard)
        shown = CliRunner().invoke(app, [*words, "--port", "0", "--threads", "1"])
        for asker in askers:
            asker.join()
        return shown

    return run
