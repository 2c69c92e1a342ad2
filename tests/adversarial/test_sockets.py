"""Hostile frames: each ends with an error or a close code below 1011, and the service goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.serve.socket_server import OTHER, TOKEN, Server, Slow, serving_sockets, toy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from worldline.serve.openpi_codec import encode_reply

SETTINGS = {
    "goal": {"targets": {"position": [1.0, 0.5]}, "tolerance": {"position": 0.1}},
    "horizon": 3,
    "period_s": 20.0,
}
STEP = {"step": 0, "observations": {"position": [0.0, 0.0]}}
REQUEST = {"position": np.zeros(2), "goal.position": np.ones(2), "tolerance.position": np.array(0.1)}
HOSTILE: list[Any] = [
    b"",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 50_000,
    b"\x81\xa1a" * 50_000,
    b"\xc7\x08\xff" + bytes(8),
    msgspec.msgpack.encode({b"step": 1}),
    msgspec.msgpack.encode(msgspec.msgpack.Ext(5, b"x")),
    "",
    "[" * 50_000,
    '{"a":' * 50_000,
    "null",
    "[]",
    '{"goal": null}',
    '{"goal": {"costs": [{"rule": "os.system"}]}}',
    json.dumps(STEP | {"step": 10**400}),
    json.dumps(STEP | {"step": -1}),
    json.dumps(STEP | {"surprise": 1}),
    json.dumps(STEP | {"observations": {"position": "x" * 10_000}}),
    json.dumps(STEP | {"observations": {"position": [[[0.0]] * 3, 1.0]}}),
    json.dumps(STEP | {"observations": {"position": {"dtype": "float32", "shape": [2**40, 2**40], "data": ""}}}),
    json.dumps(STEP | {"observations": {"position": {"dtype": "object", "shape": [1], "data": ""}}}),
    json.dumps(STEP | {"observed": {"position": "no"}}),
    json.dumps(STEP | {"actions": {"push": [1e308, -1e308]}}),
]
ALLOWED = {1000, 1007, 1009, 4400, 4413}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving_sockets(toy(), frame_bytes=2**18) as found:
        yield found


def outcome(url: str, frames: list[Any]) -> str | int:
    """The kind of the answer to the last frame, or the close code."""
    with connect(url, compression=None) as client:
        kind: str | int = "none"
        try:
            for frame in frames:
                client.send(frame)
                found = client.recv(30)
                kind = json.loads(found)["type"] if isinstance(found, str) else "binary"
            if kind == "error":  # the connection may end after it
                client.send(json.dumps(STEP))
                client.recv(30)
        except ConnectionClosed as end:
            return -1 if end.rcvd is None else end.rcvd.code
        return kind


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_hostile_frame_is_refused_at_any_time(server: Server, number: int) -> None:
    url = f"{server.url}/control?world=toy"
    first, later = outcome(url, [HOSTILE[number]]), outcome(url, [json.dumps(SETTINGS), HOSTILE[number]])
    assert first in ALLOWED
    assert later in ALLOWED | {"error", "action"}


def test_random_frames_end_with_a_code_and_never_with_a_fault(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    control, openpi = f"{server.url}/control?world=toy", f"{server.url}/openpi?world=toy&horizon=3"
    for _ in range(60):
        good = msgspec.msgpack.encode([SETTINGS, STEP][rng.integers(2)])
        damaged = bytearray(good)
        for place in rng.integers(len(damaged), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        assert outcome(control, [bytes(damaged)]) in ALLOWED | {"binary"}
        request = bytearray(encode_reply(REQUEST))
        for place in rng.integers(len(request), size=rng.integers(1, 4)):
            request[place] = rng.integers(256)
        with connect(openpi, compression=None) as client:
            client.recv(30)
            client.send(bytes(request))
            found = client.recv(30)
            assert isinstance(found, bytes) or json.loads(found)["code"] == "invalid_request", found
    assert not [record for record in caplog.records if "failed" in record.message]


@pytest.mark.parametrize(("num_values", "status"), [(3, 400), (1_000, 400), (5_000, 414), (40_000, 431)])
def test_a_goal_of_too_many_values_is_refused_with_the_reason(server: Server, num_values: int, status: int) -> None:
    goal = ",".join(["1.0"] * num_values)
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.url}/openpi?world=toy&horizon=3&goal.position={goal}", open_timeout=30)
    assert refused.value.response.status_code == status
    text = bytes(refused.value.response.body).decode()
    assert {400: f"expected shape (2,), got ({num_values},)", 414: "8192 bytes", 431: "65536 bytes"}[status] in text


def test_frames_above_the_limit_are_refused(server: Server) -> None:
    for path in ("control?world=toy", "openpi?world=toy&horizon=3"):
        with connect(f"{server.url}/{path}", compression=None) as client:
            if path.startswith("openpi"):
                client.recv(30)
            client.send(bytes(2**18 + 1))
            with pytest.raises(ConnectionClosed) as end:
                client.recv(30)
            assert end.value.rcvd.code == 1009
    assert outcome(f"{server.url}/control?world=toy", [json.dumps(SETTINGS), json.dumps(STEP)]) == "action"


def test_sockets_and_waiting_frames_of_one_token_leave_room_for_others() -> None:
    """Frames that wait behind a plan, and half of a frame, are counted; beyond its share a token loses a socket."""
    world = Slow(toy(), delays=[3.0])
    tokens, step = [TOKEN, OTHER], json.dumps(STEP)
    with serving_sockets(world, tokens=True, open_bytes=2**20, sockets=12) as server, ExitStack() as stack:

        def client(token: str) -> ClientConnection:
            headers = {"Authorization": f"Bearer {token}"}
            opened = connect(f"{server.url}/control?world=toy", additional_headers=headers, compression=None)
            found = stack.enter_context(opened)
            with suppress(ConnectionClosed):
                found.send(json.dumps(SETTINGS))
            return found

        greedy = [client(tokens[0]) for _ in range(7)]
        assert [json.loads(one.recv(30))["type"] for one in greedy] == ["ready"] * 6 + ["error"]
        for one in greedy[:6]:
            with suppress(ConnectionClosed):
                one.send(step)
                for _ in range(3):
                    one.send(json.dumps(STEP | {"observations": {"position": [0.0] * 10_000}}))
        ends = [code for one in greedy[:6] if (code := last_code(one)) is not None]
        assert set(ends) == {4429}
        assert server.service.memory.used <= 2**19
        other = client(tokens[1])
        assert json.loads(other.recv(30))["type"] == "ready"
        other.send(step)
        assert json.loads(other.recv(30))["type"] == "action"
    assert server.service.memory.used == server.service.sockets.used == 0


def last_code(client: ClientConnection) -> int | None:
    """The close code; None for a connection that stays open for a second without a message."""
    try:
        while client.recv(1.0):
            pass
    except TimeoutError:
        return None
    except ConnectionClosed as end:
        return -1 if end.rcvd is None else end.rcvd.code
