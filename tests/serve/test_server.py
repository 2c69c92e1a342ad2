"""The server process: it ends when it must, and an alias moves without a failed call."""

from __future__ import annotations

import http.client
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.serve.scripted import ARGUMENTS, BODY, ScriptedWorld, linear_world, service_of
from tests.serve.waiting import wait_for
from tests.world.toy_worlds import open_toy, write_toy

from worldline.catalog.named import NamedWorld
from worldline.catalog.versions import Catalog
from worldline.errors import InputError
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.limits import Limits
from worldline.serve.server import listen, serve, serving, url_of
from worldline.serve.service import Service

# From Python 3.12 on. The children are forked because importing torch takes seconds.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
PREDICT = b"POST /v1/worlds/toy:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = PREDICT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def run_child(wait_s: float, output: Connection) -> None:
    """Serves a world whose predictions take so long; sends its URL, "begun" for each prediction, "saved" at the end."""

    def script(*_: object) -> None:
        output.send("begun")
        time.sleep(wait_s)

    listener = listen("127.0.0.1", 0)
    output.send(url_of(listener))
    limits = Limits(drain_s=2, header_s=60, body_s=60)
    serve(service_of(ScriptedWorld(script, max_batch=1), limits, workers=2), listener)
    output.send("saved")


class Child:
    """A forked server whose predictions take `wait_s`, and connections to it."""

    def __init__(self, wait_s: float) -> None:
        self.output, output = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.get_context("fork").Process(target=run_child, args=(wait_s, output))
        self.process.start()
        self.sockets = list[socket.socket]()

    def connect(self, sent: bytes) -> socket.socket:
        self.sockets.append(socket.create_connection(self.address, timeout=60))
        self.sockets[-1].sendall(sent)
        return self.sockets[-1]

    def begin(self) -> socket.socket:
        """A connection on which a prediction is running."""
        address = urlsplit(self.output.recv())
        self.address = str(address.hostname), address.port or 0
        connection = self.connect(WHOLE)
        assert self.output.recv() == "begun"
        return connection

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        for one in self.sockets:
            one.close()


@pytest.fixture(scope="module")
def children() -> Iterator[tuple[Child, Child]]:
    """A slow one and a stuck one, which start at the same time."""
    found = Child(wait_s=0.6), Child(wait_s=1000.0)
    yield found
    for one in found:
        one.close()


def status_of(connection: socket.socket) -> int:
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    return response.status


def test_sigterm_answers_running_calls_whatever_other_clients_do(children: tuple[Child, Child]) -> None:
    child = children[0]
    running, idle = child.begin(), child.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status_of(idle) == 200
    child.connect(b"")
    child.connect(b"GET /heal")
    child.connect(PREDICT + b"Content-Length: 100\r\n\r\n{")
    time.sleep(0.2)  # they arrive
    child.process.terminate()  # sends SIGTERM
    assert status_of(running) == 200
    child.process.join(30)  # the limits of the clients are 60 s
    assert child.process.exitcode == 0
    assert child.output.recv() == "saved"  # `serve` returned


def test_sigterm_ends_a_process_whose_world_is_stuck(children: tuple[Child, Child]) -> None:
    child = children[1]
    running = child.begin()
    child.process.terminate()  # sends SIGTERM
    assert status_of(running) == 503
    child.process.join(30)
    assert child.process.exitcode == 0


def test_an_address_in_use_is_an_error() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="Choose another port or host"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_urls_name_the_interface() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_dualstack_ipv6():
        with listen("::1", 0) as listener:
            assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_an_alias_moves_under_load_without_a_failed_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "catalog"))
    catalog = Catalog(open_bundle=open_toy)
    for bias in (0.0, 5.0):
        catalog.publish(write_toy(tmp_path / str(bias), bias), "toy", alias=None if bias else "prod")
    world = NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_toy)
    hosts = Hosts(lambda reference: world)
    hosts.open("toy@prod", "toy")
    answers = list[list[float]]()
    enough, moved = threading.Semaphore(0), threading.Event()

    def ask(url: str) -> None:
        found, after = [], 3
        with httpx.Client(base_url=url, trust_env=False) as client:
            while after:
                response = client.post("/v1/worlds/toy:predict", json=ARGUMENTS)
                assert response.status_code == 200, response.text
                found.append(response.json()["signals"]["position"]["mean"][0][0])
                enough.release()
                after -= moved.is_set()
        answers.append(found)

    with serving(Service(hosts)) as url:
        threads = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for one in threads:
            one.start()
        for _ in range(40):
            assert enough.acquire(timeout=60)
        catalog.point("toy", "prod", 2)
        # The old version answers while one of the threads opens the new one.
        wait_for(lambda: httpx.get(f"{url}/v1/worlds/toy", trust_env=False).json()["version"] == 2)
        moved.set()
        for one in threads:
            one.join(60)
    assert len(answers) == 4
    for found in answers:
        assert found == sorted(found)  # never back to the old version
        assert found[0] == pytest.approx(0.5)
        assert found[-1] == pytest.approx(5.5)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "a" * 101, "a\n", "ä"])
def test_names_that_do_not_fit_a_url_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="not allowed as name"):
        Hosts(lambda reference: linear_world()).add(HostedWorld(name, None, linear_world()))
