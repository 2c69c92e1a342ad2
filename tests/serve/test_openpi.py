"""/v1/openpi: frames that openpi-client 0.1.2 sent, and the unmodified client in an environment of its own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import numpy as np
import pytest
from tests.serve.socket_server import TOKEN, Server, Slow, serving_sockets, toy
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from worldline.errors import InputError
from worldline.serve.openpi_codec import decode_request, encode_reply

HERE = Path(__file__).parent
RECORDED = HERE / "recorded" / "openpi_client_0.1.2.json"
GOAL = {"goal.position": np.array([1.0, 0.5]), "tolerance.position": np.array(0.1)}
KEY = {"Authorization": f"Api-Key {TOKEN}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving_sockets(toy()) as found:
        yield found


def url(server: Server, **query: Any) -> str:
    return f"{server.url}/openpi?{urlencode({'world': 'toy', 'horizon': 6, **query})}"


def array(packed: dict[Any, Any]) -> np.ndarray[Any, Any]:
    """As openpi-client reads it."""
    assert packed[b"__ndarray__"] is True
    return np.ndarray(buffer=packed[b"data"], dtype=np.dtype(packed[b"dtype"]), shape=packed[b"shape"])


def answer(client: ClientConnection, request: dict[str, Any] | bytes) -> dict[str, Any]:
    client.send(request if isinstance(request, bytes) else encode_reply(request))
    reply = client.recv(30)
    assert isinstance(reply, bytes), reply
    return dict(msgspec.msgpack.decode(reply))


def failure(client: ClientConnection, request: dict[str, Any] | bytes | str) -> dict[str, Any]:
    """The text frame before the connection ends with code 1011."""
    client.send(encode_reply(request) if isinstance(request, dict) else request)
    text = client.recv(30)
    assert isinstance(text, str)
    with pytest.raises(ConnectionClosed) as end:
        client.recv(30)
    assert end.value.rcvd.code == 1011
    return dict(json.loads(text))


def test_recorded_frames_of_the_client_drive_a_world(server: Server) -> None:
    frames = [base64.b64decode(frame) for frame in json.loads(RECORDED.read_text())]
    with connect(url(server, steps=2), additional_headers=KEY, compression=None) as client:
        metadata = msgspec.msgpack.decode(client.recv(30))
        assert (metadata["world"], metadata["horizon"], metadata["steps"]) == ("toy", 6, 2)
        assert [one["name"] for one in metadata["signals"]] == ["position", "push"]
        for frame in frames:
            reply = answer(client, frame)
            actions, push = array(reply["actions"]), array(reply["actions.push"])
            assert (actions.dtype, actions.shape, push.shape) == (np.float32, (6, 2), (6, 2))
            np.testing.assert_array_equal(actions, push)
            assert reply["status"] in ("searched", "out_of_time")
            assert isinstance(reply["trust"], float)
            assert reply["server_timing"]["infer_ms"] > 0
    near = decode_request(frames[-1])["position"]
    assert np.abs(near - (1.0, 0.5)).max() < 0.4


def test_the_history_has_every_step_and_the_actions_that_were_sent() -> None:
    world = Slow(toy())
    with serving_sockets(world) as server, connect(url(server, steps=2)) as client:
        client.recv(30)
        sent = list[Any]()
        for number in range(3):
            sent.append(array(answer(client, {"position": np.full(2, 0.1 * number), **GOAL})["actions"]))
        history = world.histories[-1]
        assert history.observed["position"].tolist() == [True, False, True, False, True]
        np.testing.assert_allclose(history.actions["push"], np.concatenate([sent[0][:2], sent[1][:2]]))
        np.testing.assert_array_equal(world.requests[1].proposals["push"][0, :4], sent[0][2:])
        answer(client, {"position": np.zeros(2), "reset": True, **GOAL})
        assert len(world.histories[-1].observations["position"]) == 1
        lost = np.array([np.nan, 0.0])
        answer(client, {"position": lost, "reset": True, **GOAL})
        assert world.histories[-1].observed["position"].tolist() == [False]


def test_a_goal_in_the_url_is_the_default(server: Server) -> None:
    query = {"goal.position": "1.0,0.5", "tolerance.position": "0.1"}
    with connect(url(server, **query)) as client, connect(url(server)) as other:
        client.recv(30), other.recv(30)
        by_url, by_request = answer(client, {"position": np.zeros(2)}), answer(other, {"position": np.zeros(2), **GOAL})
        assert by_url["actions"] == by_request["actions"]
        assert answer(client, {"position": np.zeros(2), **GOAL, "goal.position": -np.ones(2)})["actions"] != by_url


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"position": np.zeros(2)}, "no goal"),
        ({**GOAL}, "no observations"),
        ({"position": np.zeros(3), **GOAL}, "shape"),
        ({"position": np.zeros((2, 2)), **GOAL}, "shape"),
        ({"elsewhere": np.zeros(2), **GOAL}, "elsewhere"),
        ({"position": "here", **GOAL}, "shape"),
        ({"position": np.zeros(2), **GOAL, "goal.elsewhere": np.zeros(2)}, "goal.elsewhere"),
        ({"position": np.zeros(2), **GOAL, "tolerance.position": np.zeros(2)}, "tolerance"),
        (b"\xc1", "damaged"),
        ("text", "binary"),
    ],
)
def test_an_error_is_a_text_frame_and_ends_the_connection(server: Server, request_: Any, text: str) -> None:
    with connect(url(server)) as client:
        client.recv(30)
        found = failure(client, request_)
    assert found["code"] == "invalid_request"
    assert text in found["detail"]
    assert found["request_id"]


def test_a_fault_of_the_world_is_reported_without_its_text() -> None:
    world = Slow(toy(), fault=ZeroDivisionError("a secret"))
    with serving_sockets(world) as server, connect(url(server)) as client:
        client.recv(30)
        found = failure(client, {"position": np.zeros(2), **GOAL})
    assert found["code"] == "internal"
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"world": "other"}, 404, "other"),
        ({"horizon": "many"}, 400, "$.horizon"),
        ({"horizon": 0}, 400, "$.horizon"),
        ({"horizon": 2.7}, 400, "$.horizon"),
        ({"steps": 7}, 400, "steps 7"),
        ({"budget_s": "nan"}, 400, "$.budget_s"),
        ({"unknown": 1}, 400, "unknown"),
        ({"goal.position": 1}, 400, "shape"),
        ({"goal.elsewhere": 1}, 400, "elsewhere"),
    ],
)
def test_a_refused_connection_has_a_status_and_value(
    server: Server, query: dict[str, Any], status: int, text: str
) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(url(server, **query)):
        pass
    assert refused.value.response.status_code == status
    found = json.loads(refused.value.response.body)
    assert text in found["detail"]
    assert found["request_id"]


def test_a_key_opens_a_connection() -> None:
    with serving_sockets(toy(), tokens=True) as server:
        with connect(url(server), additional_headers=KEY) as client:
            assert msgspec.msgpack.decode(client.recv(30))["world"] == "toy"
        with pytest.raises(InvalidStatus) as refused, connect(url(server)):
            pass
        assert refused.value.response.status_code == 401


def packed(**fields: Any) -> bytes:
    """A request with one array, whose fields may be wrong."""
    good = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | fields
    return msgspec.msgpack.encode({"position": {name.encode(): value for name, value in good.items()}})


@pytest.mark.parametrize(
    "frame",
    [
        packed(dtype="|O"),
        packed(dtype="<c8", shape=[1]),
        packed(dtype="|V8", shape=[1]),
        packed(dtype="f4,f4", shape=[1]),
        packed(dtype="(2,)f4", shape=[1]),
        packed(dtype=["f4"]),
        packed(shape=[3]),
        packed(shape=[-2]),
        packed(shape=[2**40, 2**40]),
        packed(shape=[1] * 16 + [2]),
        packed(data="12345678"),
        msgspec.msgpack.encode({"position": {b"__ndarray__": True}}),
        msgspec.msgpack.encode({"position": [0.0, 0.0]}),
        msgspec.msgpack.encode({1: 0.0}),
        msgspec.msgpack.encode({str(number): 0 for number in range(300)}),
        b"\x81\xa1a" + b"\x91" * 100_000,
        b"\xdf\xff\xff\xff\xff",
        b"",
    ],
)
def test_a_hostile_request_is_refused(frame: bytes) -> None:
    with pytest.raises(InputError):
        decode_request(frame)


def test_arrays_and_numbers_are_read_exactly() -> None:
    big = np.arange(6, dtype=">f8").reshape(2, 3)
    one = {b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f4"}
    request = decode_request(
        msgspec.msgpack.encode(
            {
                "big": {b"__ndarray__": True, b"data": big.tobytes(), b"dtype": big.dtype.str, b"shape": [2, 3]},
                "empty": {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [0, 2]},
                "one": one,
                "flag": True,
                "text": "go",
            }
        )
    )
    np.testing.assert_array_equal(request["big"], big)
    assert request["big"].dtype == np.float64
    assert request["big"].flags.writeable
    assert request["empty"].shape == (0, 2)
    assert (request["one"].dtype, request["one"].item()) == (np.float32, 0.5)
    assert request["flag"].item() is True
    assert request["text"].item() == "go"


@pytest.mark.slow
def test_the_unmodified_client_drives_a_world(server: Server, tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=True)
    python = tmp_path / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    packages = ["openpi-client==0.1.2", "numpy<2", "websockets", "msgpack", "typing_extensions", "dm-tree"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True, timeout=200)
    shown = subprocess.run(
        [python, HERE / "openpi_robot.py", url(server, steps=2), TOKEN],
        check=True,
        capture_output=True,
        timeout=60,
        text=True,
    )
    found = json.loads(shown.stdout)
    assert found["world"] == "toy"
    assert np.abs(np.array(found["path"][-1]) - (1.0, 0.5)).max() < 0.2
