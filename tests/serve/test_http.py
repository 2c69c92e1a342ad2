from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from worldline.engines.base import Card
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import InputError, UnavailableError, UnknownNameError, WorldlineError
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.http import listen, serving, url_of
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.local import LocalWorld
from worldline.world.wire import CONTENT_TYPE, VERSION, Call, decode_answer, encode_call

TOY = Integrator(camera=False, wind=False)
ASK = encode_call(Call("describe", {}))
TYPED = {"content-type": CONTENT_TYPE}
LIMIT = 4096


class Held(World):
    """Answers once it is let go; a number of callers may be waited for."""

    def __init__(self, card: Card, num_callers: int) -> None:
        self.card, self.entered, self.go = card, threading.Barrier(num_callers + 1), threading.Event()

    def describe(self) -> Card:
        self.entered.wait(30)
        assert self.go.wait(30)
        return self.card

    predict = score = answer_plan = what_if = surprise = None


class Faulty(World):
    def describe(self) -> Card:
        raise ZeroDivisionError("a secret")

    predict = score = answer_plan = what_if = surprise = None


@pytest.fixture(scope="module")
def world() -> World:
    return LocalWorld(Linear.fit(TOY.episodes(9, 20, seed=0), TOY.schema), None, CrossEntropy())


@pytest.fixture(scope="module")
def url(world: World) -> Iterator[str]:
    with serving(world, limit_bytes=LIMIT) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, trust_env=False) as found:
        yield found


def error_in(response: httpx.Response) -> WorldlineError:
    assert response.headers["content-type"] == CONTENT_TYPE
    error = decode_answer(Card, response.content)
    assert isinstance(error, WorldlineError)
    return error


def test_health(client: httpx.Client) -> None:
    assert client.get("/v1/health").json() == {"status": "ok", "version": VERSION}


def test_a_verb_is_answered(client: httpx.Client, world: World) -> None:
    response = client.post("/v1/describe", content=ASK, headers=TYPED)
    assert response.status_code == 200
    assert response.headers["content-type"] == CONTENT_TYPE
    assert decode_answer(Card, response.content) == world.describe()


def test_an_error_of_worldline_is_a_bad_request(client: httpx.Client) -> None:
    history = History(observations={"position": np.zeros((1, 2))}, actions={})
    call = Call("predict", {"history": history, "actions": {}})
    response = client.post("/v1/predict", content=encode_call(call), headers=TYPED)
    assert response.status_code == 400
    assert "action 'push' is missing" in str(error_in(response))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"{}"])
def test_a_body_that_is_no_message_is_a_bad_request(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/describe", content=body, headers=TYPED)
    assert response.status_code == 400
    assert type(error_in(response)) is InputError


def test_an_unknown_verb_is_not_found(client: httpx.Client) -> None:
    response = client.post("/v1/pridict", content=ASK, headers=TYPED)
    assert response.status_code == 404
    assert type(error_in(response)) is UnknownNameError


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json"])
def test_what_a_browser_sends_unasked_is_refused(client: httpx.Client, kind: str) -> None:
    response = client.post("/v1/describe", content=ASK, headers={"content-type": kind})
    assert response.status_code == 415
    assert kind in str(error_in(response))


def test_a_body_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:  # without a length in front
        for _ in range(3):
            yield bytes(LIMIT // 2)

    for body in (bytes(LIMIT + 1), pieces()):
        response = client.post("/v1/describe", content=body, headers=TYPED)
        assert response.status_code == 413
        assert f"more than {LIMIT} bytes" in str(error_in(response))
    assert client.post("/v1/describe", content=bytes(LIMIT), headers=TYPED).status_code == 400


def test_others_are_heard_while_verbs_compute(world: World) -> None:
    held, found = Held(world.describe(), 2), list[int]()

    def ask(url: str) -> None:
        found.append(httpx.post(f"{url}/v1/describe", content=ASK, headers=TYPED, trust_env=False).status_code)

    with serving(held) as url:
        askers = [threading.Thread(target=ask, args=(url,)) for _ in range(2)]
        for asker in askers:
            asker.start()
        held.entered.wait(30)  # both verbs run
        assert httpx.get(f"{url}/v1/health", trust_env=False).status_code == 200
        assert not found
        held.go.set()
        for asker in askers:
            asker.join()
    assert found == [200, 200]


def test_a_fault_is_told_without_its_text() -> None:
    with serving(Faulty()) as url:
        response = httpx.post(f"{url}/v1/describe", content=ASK, headers=TYPED, trust_env=False)
    assert response.status_code == 500
    error = error_in(response)
    assert type(error) is UnavailableError
    assert "ZeroDivisionError" in str(error)
    assert "secret" not in str(error)


def test_the_server_stops_with_its_block(world: World) -> None:
    with serving(world) as url:
        pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v1/health", trust_env=False)


def test_a_port_that_is_taken_is_refused() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=f"127.0.0.1, port {port}"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.1"):  # an address kept for documentation
        listen("203.0.113.1", 0)


def test_the_url_of_an_ipv6_address_has_brackets() -> None:
    class Six(socket.socket):
        """As if bound to an address of IPv6, which not every machine has."""

        def getsockname(self) -> tuple[str, int, int, int]:
            return "::1", 8000, 0, 0

    with Six() as listener:
        assert url_of(listener) == "http://[::1]:8000"
