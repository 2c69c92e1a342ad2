"""Clients of a service that are slow, greedy or broken."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.scripted import ARGUMENTS, BODY, FewTokens, ScriptedWorld, service_of
from tests.serve.test_server import PREDICT as HEAD
from tests.serve.test_server import WHOLE, status_of
from tests.serve.waiting import wait_for

from worldline.episode import Episode
from worldline.planning.calls import WhatIfCall
from worldline.serve.callers import Scope
from worldline.serve.connections import HEADER_BYTES, PIPELINE
from worldline.serve.limits import Limits
from worldline.serve.scheduler import Lane
from worldline.serve.server import serving
from worldline.serve.service import Service
from worldline.world.base import Forecast, Prediction, World
from worldline.world.wire import encode_call

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
OTHER = "wl_" + 16 * "0" + "_"
"""The begin of a token of another caller."""
HANG_S = 30.0
"""A connection that is open after this time hangs; limits in these tests are below 1 s."""


class Server:
    """A running service and its address."""

    def __init__(self, service: Service, url: str) -> None:
        self.service, self.url = service, url
        parts = urlsplit(url)
        self.address = str(parts.hostname), parts.port or 0

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(self.address, timeout=HANG_S)
        connection.sendall(sent)
        return connection

    def answers(self) -> bool:
        """Whether it serves others."""
        response = httpx.post(f"{self.url}/v1/worlds/toy:predict", json=ARGUMENTS, trust_env=False, timeout=HANG_S)
        return response.status_code == 200


@contextmanager
def server(world: World | None = None, tokens: FewTokens | None = None, **limits: Any) -> Iterator[Server]:
    service = service_of(world, Limits(**{"header_s": 0.3, "body_s": 0.3, "drain_s": 1.0, **limits}), tokens=tokens)
    with serving(service) as url:
        yield Server(service, url)


@pytest.fixture(scope="module")
def quick() -> Iterator[Server]:
    with server(json_bytes=4096) as found:
        yield found


def rest_of(connection: socket.socket) -> bytes:
    """What arrives until the server closes the connection. A timeout is a failure of the server."""
    parts = list[bytes]()
    try:
        while part := connection.recv(2**16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def waiting_world() -> tuple[ScriptedWorld, threading.Event, threading.Event]:
    """A world whose calls wait, with the events that a call has begun and that calls may end."""
    entered, go = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        entered.set()
        assert go.wait(HANG_S)

    return ScriptedWorld(wait), entered, go


SLOW: dict[str, list[bytes]] = {
    "nothing": [],
    "half a header": [HEAD],
    "half a header after an answer": [HEALTH, HEAD],
    "a line end after an answer": [HEALTH, b"\r\n"],
    "a half-sent body": [HEAD + b"Content-Length: 100\r\n\r\n{"],
    "a half-sent body that nobody reads": [HEALTH.replace(b"\r\n\r\n", b"\r\nContent-Length: 10000\r\n\r\nx")],
    "a half-sent body after a refusal": [HEAD.replace(b"toy", b"other") + b"Content-Length: 10000\r\n\r\n", b"x"],
    "half a chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n64\r\n{"],
    "a half-sent trailer": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "],
    "a continuation that never comes": [HEAD + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"],
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_requests_are_closed(quick: Server, name: str) -> None:
    with quick.connect() as connection:
        for part in SLOW[name]:
            connection.sendall(part)
            if part == HEALTH:
                assert status_of(connection) == 200
        found = rest_of(connection)
    unread = ("a half-sent body", "half a chunk", "a half-sent trailer", "a continuation that never comes")
    assert (b" 408 " in found) == (name in unread)
    assert quick.answers()


def test_bytes_that_drip_do_not_extend_the_limits(quick: Server) -> None:
    """One byte at a time, in headers, in a body, in a body after a refusal, and in lines without a request."""
    large = b"Content-Length: 4000\r\n\r\n"
    starts = (HEAD, HEAD + large, HEAD.replace(b"toy", b"x") + large, b"")
    with ExitStack() as stack:
        connections = [stack.enter_context(quick.connect(start)) for start in starts]
        drips, started_s = [b"x", b"1", b"1", b"\r\n"], time.monotonic()
        left = dict(zip(connections, drips, strict=True))
        while left:
            assert time.monotonic() - started_s < HANG_S
            time.sleep(0.05)
            for connection, drip in [*left.items()]:
                try:
                    connection.sendall(drip)
                except OSError:
                    del left[connection]


def test_a_body_that_arrives_slowly_but_in_time_is_answered(quick: Server) -> None:
    with quick.connect(WHOLE.removesuffix(BODY)) as connection:
        for first in range(0, len(BODY), 40):
            connection.sendall(BODY[first : first + 40])
            time.sleep(0.02)
        assert status_of(connection) == 200


def test_bodies_that_are_too_large_are_refused_while_they_arrive(quick: Server) -> None:
    with quick.connect(HEAD + b"Content-Length: 99999999999\r\n\r\n") as declared:
        assert status_of(declared) == 413
    with quick.connect(HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as chunked:
        for _ in range(5):
            chunked.sendall(b"400\r\n" + bytes(0x400) + b"\r\n")
        assert status_of(chunked) == 413
    assert quick.answers()


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "header": (HEAD + b"X: ", b"x" * 1000),
    "headers": (HEAD, b"X: y\r\n" * 200),
    "address": (b"GET /", b"x" * 1000),
    "empty lines": (b"", b"\r\n" * 500),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n" * 200),
    "chunk extension": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x" * 1000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_headers_are_cut_off(name: str) -> None:
    start, more = ENDLESS[name]
    with server(header_s=60.0, body_s=60.0) as found, found.connect(start) as connection:
        sent = 0
        with suppress(OSError):
            while sent < 100 * HEADER_BYTES:
                connection.sendall(more)
                sent += len(more)
        assert sent < 100 * HEADER_BYTES
        assert found.answers()


def test_pipelined_requests_are_answered_in_order_and_bounded(quick: Server) -> None:
    worlds = HEALTH.replace(b"/healthz", b"/v1/worlds")
    last = worlds.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with quick.connect(HEALTH + worlds + HEALTH + last) as connection:
        kinds = re.findall(rb"content-type: (\S+/\w+)", rest_of(connection))
    assert kinds == 2 * [b"text/plain", b"application/json"]
    with quick.connect(HEALTH * 100 * PIPELINE) as connection:
        assert rest_of(connection).count(b"200 OK") < 100 * PIPELINE
    assert quick.answers()


def test_half_a_pipelined_request_does_not_end_the_one_before() -> None:
    world, entered, go = waiting_world()
    with server(world, header_s=0.1) as found, found.connect(WHOLE + b"GET /hea") as connection:
        assert entered.wait(HANG_S)
        time.sleep(0.3)  # beyond header_s
        go.set()
        assert status_of(connection) == 200
        assert rest_of(connection) == b""  # then the limit holds again


def test_an_answer_that_is_not_read_is_dropped() -> None:
    num_steps = 600_000
    forecast = Forecast(mean=np.zeros((num_steps, 2)), low=None, high=None, horizon=0)
    answer = Prediction(signals={"position": forecast}, level=0.9, trust=1.0, calibrated=False)
    request = WHOLE.replace(b"Host", b"Accept: application/msgpack\r\nHost")
    with server(ScriptedWorld(lambda *args, **options: answer)) as found, found.connect(request) as connection:
        assert connection.recv(10).startswith(b"HTTP/1.1 2")
        time.sleep(1.0)  # beyond body_s
        assert len(rest_of(connection)) < num_steps * 16
        assert found.answers()


def test_idle_connections_give_way_to_new_clients() -> None:
    with server(connections=60, header_s=60.0) as found, ExitStack() as stack:
        idle = [stack.enter_context(found.connect(start)) for start in 35 * (b"", b"GET /")]
        for _ in range(20):
            began_s = time.monotonic()
            with found.connect(HEALTH) as further:
                assert status_of(further) == 200
            assert time.monotonic() - began_s < 5.0  # far below `header_s`
        assert rest_of(idle[0]) == b""  # the one that waited longest
        idle[-1].sendall(HEALTH.removeprefix(b"GET /"))
        assert status_of(idle[-1]) == 200


def test_connections_with_requests_do_not_give_way() -> None:
    world, entered, go = waiting_world()
    with server(world, connections=4) as found, ExitStack() as stack:
        running = [stack.enter_context(found.connect(WHOLE)) for _ in range(3)]
        assert entered.wait(HANG_S)
        with found.connect(HEALTH) as further:
            assert status_of(further) == 503
        for _ in range(found.service.limits.queue + found.service.limits.batch):
            with found.connect(HEAD + b"\r\n") as further:
                assert status_of(further) == 503  # none of them keeps a place in the queue
        go.set()
        assert [status_of(one) for one in running] == [200, 200, 200]
        running.pop().close()
        wait_for(found.answers)


def test_a_what_if_of_many_steps_is_refused_before_it_begins(quick: Server) -> None:
    steps = 9_000
    episode = Episode(
        observations={"position": np.zeros((steps + 1, 2), np.float32)}, actions={"push": np.zeros((steps, 2))}
    )
    call = WhatIfCall(episode=episode, at=0, actions=episode.actions)
    headers = {"content-type": "application/msgpack", "accept": "application/json"}
    url, began_s = f"{quick.url}/v1/worlds/toy:what_if", time.monotonic()
    answer = httpx.post(url, content=encode_call(call), headers=headers, trust_env=False, timeout=HANG_S)
    assert (answer.status_code, "9000 steps" in answer.json()["detail"]) == (413, True)
    assert time.monotonic() - began_s < 5.0
    assert quick.answers()


def test_a_full_queue_refuses_before_a_body_is_read_but_leaves_others_their_turn() -> None:
    world, began, go = waiting_world()
    with server(world, queue=2, batch=1) as found, ExitStack() as stack:
        running = [stack.enter_context(found.connect(WHOLE))]
        assert began.wait(HANG_S)
        running += [stack.enter_context(found.connect(WHOLE)) for _ in range(2)]
        wait_for(lambda: found.service.scheduler.waiting(Lane.QUICK) == 2)
        refused = stack.enter_context(found.connect(WHOLE.removesuffix(BODY)))
        response = http.client.HTTPResponse(refused)
        response.begin()
        problem = json.loads(response.read())
        assert (response.status, problem["code"], response.headers["retry-after"]) == (429, "overloaded", "1")
        assert b"worldline_refused_calls_total 1.0" in found.service.metrics.text()
        assert httpx.get(f"{found.url}/v1/worlds", trust_env=False).status_code == 200
        # The id in a token is not checked here: a caller with fewer calls is read, and then authorized.
        other = {"Authorization": f"Bearer {OTHER}"}
        read = httpx.post(f"{found.url}/v1/worlds/toy:predict", json=ARGUMENTS, headers=other, trust_env=False)
        assert read.json()["detail"].startswith("2 calls are waiting")  # by the queue, where the caller is known
        assert httpx.post(f"{found.url}/v1/worlds/toy:score", json={}, trust_env=False).status_code == 400
        go.set()
        assert [status_of(connection) for connection in running] == [200, 200, 200]


def test_pipelined_calls_whose_client_leaves_keep_no_place() -> None:
    world, entered, go = waiting_world()
    with server(world, queue=2, batch=1) as found:
        with found.connect(3 * WHOLE):
            assert entered.wait(HANG_S)
        go.set()
        wait_for(lambda: not found.service.admission._open["predict"])


@pytest.mark.parametrize("limit", ["open_bytes", "bodies"])
def test_half_sent_bodies_of_one_token_do_not_keep_others_out(limit: str) -> None:
    body = BODY + b" " * 1000

    def request(token: bytes) -> bytes:
        return HEAD + b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (token, len(body)) + body

    limits = {limit: {"open_bytes": 4 * 8 * len(body), "bodies": 4}[limit], "body_s": HANG_S}
    known = FewTokens({"ann": {Scope.INFER}, "bob": {Scope.INFER}})
    with server(tokens=known, **limits) as found, ExitStack() as stack:
        service = found.service
        open_bodies = [stack.enter_context(found.connect(request(b"ann")[:-1])) for _ in range(2)]
        wait_for(lambda: service.memory.used >= 2 * 8 * (len(body) - 1))
        for token, expected in ((b"ann", 429), (b"bob", 200)):
            with found.connect(request(token)) as further:
                assert status_of(further) == expected
        open_bodies[0].close()
        open_bodies[1].sendall(body[-1:])
        assert status_of(open_bodies[1]) == 200
        wait_for(lambda: not service.memory.used and not service.bodies.used)


def test_upgrades_are_answered_as_requests(caplog: pytest.LogCaptureFixture) -> None:
    upgrade = (
        b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with server(tokens=FewTokens({"ann": {Scope.READ}})) as found:
        for path, status in ((b"/healthz", 200), (b"/v1/worlds", 401), (b"/v1/control", 404)):
            with found.connect(upgrade % path) as connection:
                assert status_of(connection) == status
    assert not caplog.records


def test_a_client_that_leaves_frees_its_place() -> None:
    world, entered, go = waiting_world()
    with server(world, queue=2) as found:
        running, waiting = found.connect(WHOLE), partial(found.service.scheduler.waiting, Lane.QUICK)
        assert entered.wait(HANG_S)
        leaving = [found.connect(WHOLE) for _ in range(2)]
        wait_for(lambda: waiting() == 2)
        with found.connect(WHOLE) as refused:
            assert status_of(refused) == 429
        for one in leaving:
            one.close()
        wait_for(lambda: waiting() == 0)
        with found.connect(WHOLE) as next_one:
            wait_for(lambda: waiting() == 1)
            go.set()
            assert status_of(next_one) == 200
        assert status_of(running) == 200
        running.close()


PIECES = (
    *(HEALTH, HEAD, b"\r\n", b"\r\n\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n", b"\x16\x03\x01\x02", b"Host: [\r\n"),
    *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999999\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"),
    b"Host: a\r\nHost: b\r\n",
    *(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"),
    *(b"GET * HTTP/9.9\r\n", b"GET http://[ HTTP/1.1\r\n", b"GET //%00%ff HTTP/1.1\r\n"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    *(b"Request-Id: \xff\r\n", b"Deadline-Ms: 1\r\n"),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), min_size=1, max_size=8).map(b"".join))
def test_garbage_is_answered_or_closed_without_a_fault(quick: Server, sent: bytes) -> None:
    with quick.connect() as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            found = rest_of(connection)
        except OSError:
            return
    assert b"HTTP/1.1 5" not in found
    assert b"Traceback" not in found


def test_the_service_is_well_after_all_that(quick: Server) -> None:
    assert quick.answers()
    assert 'status="500"' not in httpx.get(f"{quick.url}/metrics", trust_env=False).text
