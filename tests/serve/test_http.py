from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import torch
from tests.serve.scripted import ARGUMENTS, BODY, FewTokens, ScriptedWorld, linear_world, service_of

from worldline import errors
from worldline.engines.base import Card
from worldline.planning.calls import PredictCall
from worldline.serve import problems
from worldline.serve.callers import ForbiddenError, Scope, UnauthorizedError
from worldline.serve.hosting import HostedWorld
from worldline.serve.http import create_app
from worldline.serve.limits import Limits
from worldline.serve.scheduler import Lane
from worldline.world.base import Prediction, World
from worldline.world.wire import decode_answer, decode_json, encode_call

PREDICT = "/v1/worlds/toy:predict"
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
SECRET = "secret /etc/passwd"


class Client:
    """Sends requests to the application, without sockets."""

    def __init__(self, world: World | None = None, limits: Limits | None = None, **options: Any) -> None:
        any_host = options.pop("any_host", False)
        self.service = service_of(world, limits, **options)
        self.app = create_app(self.service, any_host=any_host)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **request)

        return asyncio.run(run())

    def predict(self, content: bytes = BODY, headers: Any = JSON, **request: Any) -> httpx.Response:
        return self.ask("POST", PREDICT, content=content, headers=headers, **request)


def raising(error: BaseException) -> ScriptedWorld:
    def script(*args: Any, **options: Any) -> None:
        raise error

    return ScriptedWorld(script)


def problem(response: httpx.Response) -> dict[str, Any]:
    """The problem details, which are complete."""
    assert response.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    assert found["type"] == "about:blank"
    assert found["title"]
    assert found["request_id"] == response.headers["request-id"]
    return found


def pointed(error: errors.WorldlineError, pointer: str) -> errors.WorldlineError:
    error.pointer = pointer  # type: ignore[attr-defined]
    return error


@pytest.fixture(scope="module")
def client() -> Client:
    return Client()


def test_a_prediction_by_hand(client: Client) -> None:
    response = client.predict()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    mean = linear_world().predict(**arguments()).signals["position"].mean
    np.testing.assert_allclose(found["signals"]["position"]["mean"], mean)
    assert found["signals"]["position"]["mean"][0][0] == pytest.approx(0.5, abs=0.01)
    assert found["calibrated"] is False
    assert found["trust"] is None  # NaN


def arguments() -> dict[str, Any]:
    return vars(decode_json(PredictCall, BODY))


def test_a_prediction_in_msgpack_and_the_accepted_types(client: Client) -> None:
    body = encode_call(PredictCall(**arguments()))
    for accept, kind in (("*/*", "msgpack"), ("application/json", "json"), ("application/msgpack", "msgpack")):
        response = client.predict(body, {**MSGPACK, "accept": accept})
        assert (response.status_code, response.headers["content-type"]) == (200, f"application/{kind}")
    response = client.predict(
        headers={"content-type": "application/json; charset=utf-8", "accept": MSGPACK["content-type"]}
    )
    answer = decode_answer(Prediction, response.content)
    assert isinstance(answer, Prediction)
    error = client.predict(b"\xc1", MSGPACK)
    assert error.status_code == 400
    assert type(decode_answer(Card, error.content)) is errors.InputError
    assert error.headers["request-id"]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/x-unknown"]
)
def test_what_a_web_page_can_send_unasked_is_refused(client: Client, kind: str) -> None:
    found = problem(client.predict(headers={"content-type": kind}))
    assert (found["status"], found["code"]) == (415, "unsupported_media_type")
    assert found["detail"] == f"the content type is '{kind}'. Send application/json or application/msgpack."


def test_a_web_page_of_another_origin_gets_no_leave(client: Client) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for response in (client.ask("OPTIONS", PREDICT, headers=asked), client.predict(headers={**JSON, **asked})):
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert client.ask("OPTIONS", PREDICT, headers=asked).status_code == 405
    assert client.predict().headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "[", "", "127.0.0.1@evil.example"])
def test_other_names_of_this_machine_are_refused_without_tokens(client: Client, host: str) -> None:
    found = problem(client.ask("GET", "/v1/worlds", headers={"host": host}))
    assert found["code"] == "invalid_request"
    assert "only to localhost" in found["detail"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000"])
def test_names_of_the_loopback_interface_are_served(client: Client, host: str) -> None:
    assert client.ask("GET", "/v1/worlds", headers={"host": host}).status_code == 200


ERRORS: list[tuple[errors.WorldlineError, int, str]] = [
    (errors.InputError("text"), 400, "invalid_request"),
    (errors.UnknownNameError("signal", "x", ["y"]), 400, "invalid_request"),
    (UnauthorizedError("text"), 401, "unauthorized"),
    (ForbiddenError("text"), 403, "forbidden"),
    (problems.NotFoundError("world", "x", ["y"]), 404, "not_found"),
    (problems.MethodError("text"), 405, "method_not_allowed"),
    (problems.SlowRequestError("text"), 408, "request_timeout"),
    (problems.StepConflictError("text"), 409, "step_conflict"),
    (problems.ConflictError("text"), 409, "conflict"),
    (problems.GoneError("text"), 410, "gone"),
    (problems.TooLargeError("text"), 413, "too_large"),
    (problems.MediaTypeError("text"), 415, "unsupported_media_type"),
    (errors.UnsupportedError("text"), 422, "unsupported"),
    (problems.RateLimitedError("text", 7.4), 429, "rate_limited"),
    (problems.OverloadedError("text", 0.1), 429, "overloaded"),
    (errors.EngineError("text", 3), 503, "unavailable"),
    (problems.DeadlineError("text"), 504, "deadline_exceeded"),
]


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=lambda value: getattr(type(value), "__name__", ""))
def test_each_error_has_its_code(error: errors.WorldlineError, status: int, code: str) -> None:
    response = Client(raising(pointed(error, "/history"))).predict(headers={**JSON, "request-id": "mine-1"})
    found = problem(response)
    assert (response.status_code, found["code"], found["detail"]) == (status, code, str(error))
    assert found["request_id"] == "mine-1"
    assert found.get("pointer", "/history") == "/history"
    assert response.headers.get("retry-after") == {"rate_limited": "8", "overloaded": "1"}.get(code)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


@pytest.mark.parametrize("given", ["a b", "x" * 65, "ä".encode(), "a;b"])
def test_other_request_ids_are_replaced(client: Client, given: str | bytes) -> None:
    first, second = (client.ask("GET", "/healthz", headers={"request-id": given}) for _ in range(2))
    assert first.headers["request-id"] not in (given, second.headers["request-id"])


def torch_error() -> RuntimeError:
    """What torch raises on the CPU."""
    try:
        torch.empty(2**50, dtype=torch.uint8, device="cpu")
    except RuntimeError as error:
        return error
    raise AssertionError


HIDDEN: list[tuple[BaseException, int]] = [
    (ValueError(SECRET), 500),
    (KeyError(SECRET), 500),
    (SystemExit(SECRET), 500),
    (StopIteration(SECRET), 500),
    (FileNotFoundError(2, SECRET, SECRET), 500),
    (errors.ConfigError(SECRET), 503),
    (errors.DataError(SECRET, fix=SECRET, file=SECRET), 503),
    (errors.BundleError(SECRET), 503),
    (errors.UnavailableError(SECRET), 503),
    (errors.MissingExtraError(SECRET, SECRET), 503),
    (MemoryError(SECRET), 413),
    (torch.OutOfMemoryError(SECRET), 413),
    (torch_error(), 413),
]


@pytest.mark.parametrize(("error", "status"), HIDDEN, ids=lambda value: getattr(type(value), "__name__", ""))
def test_texts_of_other_errors_reach_neither_answer_nor_log(
    error: BaseException, status: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, "worldline"):
        client = Client(raising(error))
        asked = [client.predict(), client.predict(headers={**JSON, "accept": MSGPACK["content-type"]})]
    for response in asked:
        assert response.status_code == status
        assert b"secret" not in response.content
        assert b"passwd" not in response.content
    problem(asked[0])
    records = [record for record in caplog.records if record.name.startswith("worldline")]
    shown = "".join(logging.Formatter().format(one) for one in records) + "".join(capfd.readouterr())
    assert "secret" not in shown
    assert "/" not in shown
    assert len(records) == (2 if status == 500 else 0)
    for record, response in zip(records, asked, strict=False):
        assert response.headers["request-id"] in record.getMessage()
        assert "scripted:" in record.getMessage() or "test_http:" in record.getMessage()  # the place in the code


def test_invalid_bodies_are_problems(client: Client) -> None:
    for body in (b"", b"{", b"[]", b"null", b'{"x": 1}', b"\xff", b"[" * 10**5, msgspec.json.encode({"history": 1})):
        found = problem(client.predict(body))
        assert found["code"] == "invalid_request"
        assert "Send what the contract" in found["detail"]


def test_unknown_paths_verbs_worlds_and_methods(client: Client) -> None:
    for method, path, status in (
        ("GET", "/docs/../etc", 404),
        ("POST", "/v1/worlds/toy:describe", 404),
        ("POST", "/v1/worlds/toy:__init__", 404),
        ("POST", "/v1/worlds/other:predict", 404),
        ("GET", "/v1/worlds/other", 404),
        ("GET", PREDICT, 405),
        ("POST", "/healthz", 405),
        ("DELETE", "/v1/worlds", 405),
    ):
        response = client.ask(method, path, headers=JSON)
        assert response.status_code == status, (method, path)
        problem(response)
    assert client.ask("POST", "/v1/worlds/toy").headers["allow"] == "GET"
    assert client.ask("GET", PREDICT).headers["allow"] == "POST"
    for method, path in (("GET", "/v1/worlds/tyo"), ("POST", "/v1/worlds/tyo:predict")):
        assert "'toy'" in client.ask(method, path, headers=JSON).json()["detail"]


def test_a_deadline_is_milliseconds() -> None:
    entered, go = threading.Event(), threading.Event()

    def wait(*args: Any, **options: Any) -> None:
        entered.set()
        assert go.wait(30)

    client = Client(ScriptedWorld(wait))
    found = problem(client.predict(headers={**JSON, "deadline-ms": "50"}))
    assert (found["code"], "0.05 s" in found["detail"]) == ("deadline_exceeded", True)
    go.set()
    for given in ("0", "-1", "1.5", "x", "1e3", "9" * 10, "٣"):
        assert problem(client.predict(headers={**JSON, "deadline-ms": given.encode()}))["code"] == "invalid_request"


def test_health_readiness_and_metrics() -> None:
    client = Client()
    assert client.ask("GET", "/healthz").text == "OK"
    assert client.ask("GET", "/readyz").status_code == 200
    for _ in range(3):
        client.predict()
    client.predict(b"{")
    client.ask("POST", "/v1/worlds/a-name-of-the-caller:predict")
    text = client.ask("GET", "/metrics").text
    assert 'worldline_requests_total{status="200",verb="predict",world="toy"} 3.0' in text
    assert 'worldline_requests_total{status="400",verb="predict",world="toy"} 1.0' in text
    assert "a-name-of-the-caller" not in text  # or a caller could add any number of series
    assert 'worldline_batch_calls_count{lane="quick"}' in text


def test_a_service_whose_workers_are_stuck_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    monkeypatch.setattr(client.service.scheduler, "stuck", lambda lane: lane is Lane.SLOW)
    response = client.ask("GET", "/readyz")
    assert (response.status_code, response.text) == (503, "the workers do not answer")
    assert client.ask("GET", "/healthz").status_code == 200


KEYS = FewTokens({"reader": {Scope.READ}, "user": {Scope.INFER}})


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic user", "user", "Bearer user x"]
)
def test_without_a_valid_token_nothing_is_served(given: str | None) -> None:
    client = Client(tokens=KEYS)
    headers = JSON if given is None else {**JSON, "authorization": given}
    for method, path in (("POST", PREDICT), ("GET", "/v1/worlds"), ("GET", "/v1/worlds/toy"), ("GET", "/metrics")):
        response = client.ask(method, path, headers=headers, content=BODY)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert problem(response)["code"] == "unauthorized"
    assert client.ask("POST", "/v1/worlds/other:predict", headers=headers).status_code == 401  # names are not told
    assert client.ask("GET", "/healthz").status_code == 200


def test_a_token_opens_what_its_scopes_name() -> None:
    client = Client(tokens=KEYS)
    for kind in ("Bearer", "bearer", "Api-Key"):
        assert client.predict(headers={**JSON, "authorization": f"{kind} user"}).status_code == 200
    found = problem(client.predict(headers={**JSON, "authorization": "Bearer reader"}))
    assert (found["code"], "'infer'" in found["detail"]) == ("forbidden", True)
    remote_name = {"authorization": "Bearer reader", "host": "worlds.example"}
    assert client.ask("GET", "/v1/worlds", headers=remote_name).status_code == 200
    assert "toy" in client.ask("GET", "/v1/worlds/tyo", headers=remote_name).text
    unknown = client.ask("POST", "/v1/worlds/tyo:predict", headers={**JSON, "authorization": "Bearer user"})
    assert problem(unknown)["detail"] == "there is no world 'tyo'."  # names need the scope `read`


def test_a_world_that_is_removed_while_the_worlds_are_listed_is_no_error() -> None:
    client = Client()

    class Removing(ScriptedWorld):
        def describe(self) -> Card:
            if "late" in client.service.hosts:
                client.service.hosts.remove("late")
            return super().describe()

    client.service.hosts.add(HostedWorld("removing", None, Removing(lambda: None)))
    client.service.hosts.add(HostedWorld("late", None, linear_world()))
    for names in (["toy", "removing", "late"], ["toy", "removing"]):
        response = client.ask("GET", "/v1/worlds")
        assert response.status_code == 200
        assert [one["name"] for one in response.json()["worlds"]] == names


def test_bodies_beyond_their_limit_are_refused() -> None:
    client = Client(limits=Limits(json_bytes=1000, body_bytes=2000))

    async def chunks(number: int) -> Any:
        for _ in range(number):
            yield bytes(500)

    for headers, limit in ((JSON, 1000), (MSGPACK, 2000)):
        for body in (bytes(limit + 1), chunks(10)):
            response = client.ask("POST", PREDICT, content=body, headers={**headers, "accept": "application/json"})
            assert problem(response)["code"] == "too_large"
            assert f"more than {limit} bytes" in response.json()["detail"]
        assert client.ask("POST", PREDICT, content=bytes(limit), headers=headers).status_code == 400


def test_calls_that_wait_together_are_one_batch() -> None:
    """Batches reach the world, one invalid call does not spoil them, and a full queue is a 429."""
    entered, go, sizes = threading.Event(), threading.Event(), list[int]()

    def script(call: Any) -> None:
        position = call.history.observations["position"]
        sizes.append(len(position) if position.ndim == 3 else 1)
        entered.set()
        assert go.wait(30)

    client = Client(ScriptedWorld(script), Limits(queue=4))

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:

            def predict(push: float) -> asyncio.Task[httpx.Response]:
                body = {**ARGUMENTS, "actions": {"push": [[push, 0.0]]}}
                return asyncio.create_task(http.post(PREDICT, json=body))

            tasks = [predict(0.0)]
            await asyncio.to_thread(entered.wait, 30)
            for push in (0.1, 7.0, 0.2, 0.3, 0.4):
                tasks.append(predict(push))
                while not tasks[-1].done() and client.service.scheduler.waiting(Lane.QUICK) < min(len(tasks) - 1, 4):
                    await asyncio.sleep(0)
            await asyncio.wait([tasks[-1]])
            go.set()
            return await asyncio.gather(*tasks)

    found = asyncio.run(run())
    assert [one.status_code for one in found] == [200, 200, 400, 200, 200, 429]
    assert problem(found[-1])["code"] == "overloaded"
    assert int(found[-1].headers["retry-after"]) >= 1
    assert sizes == [1, 4, 1, 1, 1, 1]
    pushed = [one.json()["signals"]["position"]["mean"][0][0] for one in found if one.status_code == 200]
    assert pushed == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=0.01)
