from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

import worldline
from worldline.catalog.versions import Catalog
from worldline.cli.main import app
from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve import http
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld

TOY = Integrator(camera=False, wind=False)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world in a folder, which is `toy@prod` too."""
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    world = LocalWorld(Linear.fit(TOY.episodes(9, 20, seed=0), TOY.schema), None, CrossEntropy())
    save_world(tmp_path / "toy", world)
    Catalog().publish(tmp_path / "toy", "toy", alias="prod")
    return tmp_path / "toy"


@pytest.mark.parametrize("named", [False, True])
def test_a_world_is_served_until_ctrl_c(bundle: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    cards, askers, listen = list[Card](), list[threading.Thread](), http.listen

    def ask(url: str) -> None:
        try:
            with RemoteWorld(url) as remote:
                cards.append(remote.describe())
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def heard(host: str, port: int) -> socket.socket:
        listener = listen(host, port)
        askers.append(threading.Thread(target=ask, args=(http.url_of(listener),)))
        askers[0].start()
        return listener

    monkeypatch.setattr(http, "listen", heard)
    shown = CliRunner().invoke(app, ["serve", "toy@prod" if named else str(bundle), "--port", "0", "--threads", "1"])
    askers[0].join()
    assert shown.exit_code == 0, shown.output
    assert cards == [worldline.open(bundle).describe()]
    assert "linear is served at http://127.0.0.1:" in shown.output


def test_a_port_that_is_taken_is_one_line(bundle: Path) -> None:
    with http.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        shown = CliRunner().invoke(app, ["serve", str(bundle), "--port", str(port), "--threads", "1"])
    assert shown.exit_code == 1
    assert f"worldline: cannot listen on 127.0.0.1, port {port}" in shown.stderr
