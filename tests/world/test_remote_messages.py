"""Replies of services, good and bad, from a server with scripted replies: URLs, tokens and retries."""

from __future__ import annotations

import base64
import http.server
import logging
import stat
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tests.served_world import serving_world

import worldline
from worldline.catalog.fallback import FallbackWorld
from worldline.episode import History
from worldline.errors import ConfigError, InputError, UnavailableError, WorldlineError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall
from worldline.serve.callers import Caller, ForbiddenError, Scope, UnauthorizedError
from worldline.world.local import LocalWorld
from worldline.world.logins import TOKEN_VARIABLE, URL_VARIABLE, login_file, store_token
from worldline.world.remote import RemoteWorld
from worldline.world.wire import CONTENT_TYPE, encode_answer, encode_error

SECRET = "wl_abc_s3cret"
PATH = "/v1/worlds/toy"
PUSH = {"push": np.zeros((3, 2), np.float32)}


@dataclass
class Said:
    """What a server says to one request; it hangs up if `status` is 0."""

    status: int
    kind: str | None = CONTENT_TYPE
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(*said: Said) -> Iterator[tuple[str, list[str], list[Any]]]:
    """A server that says this, the last thing again and again: its URL, and the paths and headers of requests."""
    paths, headers, rest = list[str](), list[Any](), chain(said, repeat(said[-1]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            paths.append(self.path)
            headers.append(self.headers)
            one = next(rest)
            if not one.status:
                return
            self.send_response(one.status)
            kind = {} if one.kind is None else {"content-type": one.kind}
            for name, value in {**kind, "content-length": str(len(one.body)), **one.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(one.body)

        do_GET = do_POST  # noqa: N815  # http.server chooses the name

        def log_message(self, *message: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", paths, headers
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def card(world: LocalWorld) -> Said:
    return Said(200, body=encode_answer(world.describe()))


def ask(url: str, **options: Any) -> object:
    with RemoteWorld(url, **options) as remote:
        return remote.describe()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before requests, which take no time."""
    found = list[float]()

    monkeypatch.setattr("worldline.world.remote.sleep", found.append)
    return found


@pytest.mark.parametrize(("said", "problem"), [
    (Said(502, "text/html", b"<html>"), "answered with status 502: expected application/msgpack, got text/html"),
    (Said(200, None), "got no content type"),
    (Said(302, "text/plain", headers={"location": "http://127.0.0.1:1/"}), "answered with status 302"),
    (Said(200), "returned an invalid answer: the message is damaged"),
    (Said(200, body=msgspec.msgpack.encode({"worldline": 2, "answer": {}})), "expected message version 1, got 2"),
    (Said(200, body=encode_answer({"name": 1})), "returned an invalid answer: Card"),
    (Said(200, body=bytes(2000)), "answered more than 1000 bytes"),
    (Said(503, body=encode_error(UnavailableError("resting."))), r"^resting\. \(http:.*/toy, request_id \)$"),
])  # fmt: skip
def test_a_bad_answer_is_one_error(said: Said, problem: str) -> None:
    with answering(said) as (url, paths, _), pytest.raises(UnavailableError, match=problem):
        ask(url + PATH, limit_bytes=1000)
    assert paths == [PATH]


BUSY = Said(429, body=encode_error(UnavailableError("busy.")))
PAUSED = Said(503, "text/plain", headers={"retry-after": "3"})
HUNG_UP = Said(0)


def test_calls_are_repeated_after_growing_random_pauses(card: Said, world: LocalWorld, pauses: list[float]) -> None:
    with answering(HUNG_UP, BUSY, PAUSED, card) as (url, paths, _):
        assert ask(url + PATH, retries=3) == world.describe()
    assert paths == [PATH] * 4
    for pause, low in zip(pauses, (0.05, 0.1, 3.2), strict=True):
        assert low <= pause <= low + 0.2
    assert len({round(pause % 0.1, 6) for pause in pauses}) == 3


@pytest.mark.parametrize(("said", "options", "attempts"), [
    (BUSY, {}, 3),
    (BUSY, {"retries": 0}, 1),
    (PAUSED, {"timeout_s": 2.0}, 1),  # the pause would exceed it
    (Said(429, headers={"retry-after": "9" * 400}), {}, 1),
    (Said(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}), {}, 3),
    (Said(503, body=encode_error(UnavailableError("resting."))), {}, 1),
    (Said(400, body=encode_error(InputError("no."))), {}, 1),
    (HUNG_UP, {"retries": 1}, 2),
])  # fmt: skip
def test_only_some_calls_are_repeated(said: Said, options: dict[str, Any], attempts: int, pauses: list[float]) -> None:
    with answering(said) as (url, paths, _), pytest.raises((UnavailableError, InputError)):
        ask(url + PATH, **options)
    assert len(paths) == len(pauses) + 1 == attempts


def test_repetitions_have_the_time_left_and_plans_a_budget(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = list[float]()

    def lost(remote: RemoteWorld, method: str, url: object, *, timeout: float, **body: object) -> httpx.ReadError:
        limits.append(timeout)
        return httpx.ReadError("lost")

    monkeypatch.setattr(RemoteWorld, "_send", lost)
    remote = RemoteWorld(f"http://127.0.0.1{PATH}", token="", timeout_s=5.0, retries=1)
    for budget_s, wait_s in ((3.0, 8.0), (None, 5.0), (float("inf"), 1e6)):
        limits.clear()
        with pytest.raises(UnavailableError, match="ReadError"):
            remote.answer(PlanCall(history=history, goal=Goal(), horizon=2, budget_s=budget_s))
        assert limits[0] == wait_s
        assert wait_s - 1 < limits[1] < wait_s


def listing(*names: str) -> Said:
    worlds = [{"name": one, "version": 1} for one in names]
    return Said(200, "application/json", msgspec.json.encode({"worlds": worlds}))


def test_the_url_of_a_service_of_one_world_suffices(card: Said, world: LocalWorld) -> None:
    for base in ("", "/", "/behind/a/proxy/"):
        with answering(listing("toy"), card) as (url, paths, _):
            assert ask(url + base) == world.describe()
        prefix = base.rstrip("/")
        assert paths == [f"{prefix}/v1/worlds", f"{prefix}/v1/worlds/toy"]
    with answering(card) as (url, paths, _):
        ask(f"{url}/proxy/v1/worlds/toy/")
    assert paths == ["/proxy/v1/worlds/toy"]


@pytest.mark.parametrize(("said", "kind", "problem"), [
    (listing(), InputError, "serves 0 worlds. Open the URL of one: none is served"),
    (listing("a", "b"), InputError, "serves 2 worlds. Open the URL of one: {url}/v1/worlds/a, {url}/v1/worlds/b"),
    (Said(200, "application/json", b"[]"), UnavailableError, "returned an invalid answer"),
    (Said(200, "text/html", b"<html>"), UnavailableError, "Check that `worldline serve` is behind this URL"),
    (Said(401, "application/json", b"{}"), InputError, "needs a token"),
])  # fmt: skip
def test_other_services_need_the_name_of_a_world(said: Said, kind: type[WorldlineError], problem: str) -> None:
    with answering(said) as (url, _, _), pytest.raises(kind, match=problem.format(url=url)):
        ask(url)


@pytest.mark.parametrize("url", ["greenhouse@prod", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is not a URL"):
        RemoteWorld(url)


@pytest.mark.parametrize(("name", "value"), [("timeout_s", 0.0), ("timeout_s", float("inf")), ("retries", -1)])
def test_timeout_and_retries_are_checked(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} {value}"):
        RemoteWorld("http://127.0.0.1", **{name: value})


class OneToken:
    """Knows one token, which may read but not infer."""

    def any(self) -> bool:
        return True

    def is_kept(self, token: str) -> bool:
        return True

    def check(self, token: str) -> Caller:
        if token != SECRET:
            raise UnauthorizedError
        return Caller(id="1", name="robot", scopes=frozenset({Scope.READ}))


@pytest.mark.parametrize("token", [None, "wl_other"])
def test_a_wrong_token_is_no_reason_to_ask_another_world(token, world: LocalWorld, history: History) -> None:
    problem = f"{'does not accept the' if token else 'needs a'} token. Run: worldline login http://127"
    with serving_world(world, tokens=OneToken()) as url:
        with pytest.raises(InputError, match=problem):
            ask(url, token=token)
        assert ask(url, token=SECRET) == world.describe()
        with RemoteWorld(url, token=SECRET) as remote, pytest.raises(InputError, match="robot' lacks the scope 'infer"):
            FallbackWorld([remote, world]).predict(history, PUSH)
    with answering(Said(403, "text/html")) as (url, _, _), pytest.raises(InputError, match="is forbidden"):
        ask(url + PATH)
    assert not issubclass(ForbiddenError, UnavailableError)


def test_a_token_goes_to_the_origin_for_which_it_was_stored(
    card: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv(TOKEN_VARIABLE, f"{SECRET}\n")
    with answering(card) as (url, _, headers):
        monkeypatch.setenv(URL_VARIABLE, f"{url}/team/v1/worlds/other")
        ask(url + PATH)
        ask(url + PATH, token="wl_other")
        ask(url + PATH, token="")
        worldline.open(url + PATH).describe()
        worldline.open(url + PATH, token="wl_other").describe()
        ask(url.replace("//", "//me:password@") + PATH)
        for elsewhere in ("https://127.0.0.1", "http://127.0.0.1:1", "http://example.com", ""):
            monkeypatch.setenv(URL_VARIABLE, elsewhere)
            ask(url + PATH)
        store_token(url, "wl_stored")
        ask(url + PATH)
        store_token("https://example.com:443", SECRET)
        store_token(url, "")
        ask(url + PATH)
    sent = [one.get("authorization") for one in headers]
    own = f"Bearer {SECRET}", "Bearer wl_other"
    basic = f"Basic {base64.b64encode(b'me:password').decode()}"
    assert sent == [own[0], own[1], None, *own, basic, *[None] * 4, "Bearer wl_stored", None]
    assert stat.S_IMODE(login_file().stat().st_mode) == 0o600
    login_file().write_text("{")
    with pytest.raises(ConfigError, match=r"logins\.json is damaged"):
        ask(url + PATH)


def test_a_token_is_not_sent_where_others_can_read_it() -> None:
    for url in ("http://example.com/v1/worlds/toy", "http://localhost.example.com", "HTTP://127.0.0.1.example.com"):
        with pytest.raises(InputError, match=r"is not encrypted.*Use https"):
            RemoteWorld(url, token=SECRET)
        RemoteWorld(url, token=SECRET, insecure=True)
        RemoteWorld(url, token="")
    with pytest.raises(InputError, match="is not encrypted"):
        RemoteWorld("http://me:password@example.com")
    for url in ("https://example.com", "http://localhost", "http://127.0.0.1:1", "http://[::1]:1/v1/worlds/toy"):
        RemoteWorld(url, token=SECRET)


def leaks(error: BaseException) -> str:
    """Everything that is printed about an error."""
    return "".join(traceback.format_exception(error))


def test_no_secret_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown, hidden = list[str](), f"{PATH}?key=s3cret"
    wrong = [
        ("http://me:s3cret@127.0.0.1:1/a", {"token": SECRET}),
        ("http://me:s3cret@example.com", {}),
        ("https://me:s3cret@example.com", {"token": SECRET}),
        ("http://127.0.0.1", {"token": f"{SECRET}\nx"}),
        ("http://127.0.0.1", {"token": f"{SECRET}\u20ac"}),
        ("ftp://me:s3cret@example.com", {}),
        ("http://me:s3cret@host:port", {}),
        ("http://me:s3cret/s3cret@host", {}),
        ("ftp://host?key=s3cret", {}),
        ("http://example.com", {"token": SECRET}),
    ]
    for url, options in wrong:
        with pytest.raises(InputError) as raised:
            ask(url, **options)
        shown.append(leaks(raised.value))
    with pytest.raises(InputError, match="planner cannot be given for a URL") as raised:
        worldline.open(wrong[0][0], planner="cem")
    shown.append(leaks(raised.value))
    replies = (Said(401), Said(403), Said(500, "text/html"), Said(302, headers={"location": "http://x"}), HUNG_UP)
    for said in (*replies, Said(200, body=b"x")):
        with answering(said) as (url, _, _):
            for given, options in ((url, {"token": SECRET}), (url.replace("//", "//me:s3cret@"), {})):
                with pytest.raises(WorldlineError) as failed:
                    ask(given + hidden, retries=0, **options)
                assert f"{url}{PATH}" in str(failed.value)
                shown.append(leaks(failed.value))
    remote = RemoteWorld("https://example.com/v1/worlds/toy", token=SECRET)
    shown += [repr(remote), str(remote), repr(vars(remote))]
    assert "s3cret" not in " ".join([*shown, caplog.text])
