from __future__ import annotations

import gc
import http.server
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from worldline.engines.base import Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode, History
from worldline.errors import (
    ConfigError,
    DataError,
    EngineError,
    InputError,
    MissingExtraError,
    NoGoodAnswerError,
    UnavailableError,
    UnknownNameError,
    UnreadableError,
    UnsupportedError,
    WorldlineError,
)
from worldline.planning.base import Chance, Goal
from worldline.planning.costs import AtMost, Change, KeepOut, Price, RequireInDistribution, Track, Within
from worldline.planning.planners.cem import CrossEntropy
from worldline.serve.http import serving
from worldline.testing import check_world
from worldline.testing.toys import Integrator
from worldline.world.base import PlanStatus, World
from worldline.world.calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld
from worldline.world.wire import CONTENT_TYPE, encode_answer, encode_error

PUSH = {"push": np.array([[0.5, 0.0], [-0.5, 1.0], [0.0, 0.0]], np.float32)}
GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})


@pytest.fixture(scope="module")
def remote(world: LocalWorld) -> Iterator[RemoteWorld]:
    with serving(world) as url, RemoteWorld(url) as found:
        yield found


def difference(one: object, other: object, where: str = "") -> str | None:
    """Where two answers differ to the bit; None where nowhere."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        alike = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        return None if alike else where
    if is_dataclass(one) and type(one) is type(other):
        pairs = [(item.name, vars(one)[item.name], vars(other)[item.name]) for item in fields(one)]
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(name, one[name], other[name]) for name in one]
    else:
        return None if type(one) is type(other) and repr(one) == repr(other) else where
    return next((found for name, *pair in pairs if (found := difference(*pair, f"{where}.{name}")) is not None), None)


COSTLY = replace(
    GOAL,
    tolerance={"position": 0.5},
    costs=(
        Price(signal="push", price=(0.1, -0.1)),
        Change(signal="push", tolerance=1.0),
        Track(signal="position", reference=np.zeros((8, 2)), tolerance=2.0),
        Within(signal="position", low=-np.inf, high=(1.0, 2.0), tolerance=1.0),
    ),
    discount=0.9,
)
RULES = (
    AtMost(signal="push", bound=0.9),
    Chance(constraint=AtMost(signal="position", bound=(3.0, np.inf)), level=0.8),
    KeepOut(low={"position": 4.0}, high={"position": 5.0}),
)
ASKED: dict[str, Callable[[World, History, Episode], object]] = {
    "describe": lambda world, history, episode: world.describe(),
    "predict": lambda world, history, episode: world.predict(history, PUSH, level=0.8),
    "samples": lambda world, history, episode: world.predict(history, PUSH, num_samples=5),
    "score": lambda world, history, episode: world.score(history, {"push": PUSH["push"][None]}, COSTLY, RULES),
    "plan": lambda world, history, episode: replace(
        world.plan(
            history,
            COSTLY,
            constraints=RULES,
            horizon=3,
            pending={"push": np.ones((1, 2), np.float32)},
            proposals={"push": PUSH["push"][None]},
            seed=3,
        ),
        elapsed_s=0.0,
    ),
    "refused plan": lambda world, history, episode: replace(
        world.plan(replace(history, observations={"position": history.observations["position"] * 99}), GOAL, horizon=3,
                   min_trust=0.5), elapsed_s=0.0,
    ),
    "what_if": lambda world, history, episode: world.what_if(episode, 4, PUSH),
    "surprise": lambda world, history, episode: world.surprise(episode),
}  # fmt: skip


def test_conforms(remote: RemoteWorld, world: LocalWorld, fresh: list[Episode]) -> None:
    assert world.calibration is not None
    check_world(remote, fresh[:60], GOAL, num_calibration=world.calibration.num_episodes)


def test_conforms_with_pictures_wind_and_gaps() -> None:
    toy = Integrator(noise=0.2)
    engine = Persistence.fit(toy.episodes(10, 20, seed=0), toy.schema)
    calibration = calibrate(engine, toy.episodes(132, 12, seed=1), horizon=4, num_windows=1, seed=0)
    with serving(LocalWorld(engine, calibration, CrossEntropy())) as url, RemoteWorld(url) as remote:
        check_world(remote, toy.episodes(60, 12, seed=2), GOAL, num_calibration=calibration.num_episodes)


@pytest.mark.parametrize("verb", ASKED)
def test_every_verb_answers_as_the_world_itself(
    verb: str, remote: RemoteWorld, world: LocalWorld, history: History, fresh: list[Episode]
) -> None:
    ask = ASKED[verb]
    assert difference(ask(remote, history, fresh[0]), ask(world, history, fresh[0])) is None


def test_a_batch_is_answered_as_by_the_world_itself(remote: RemoteWorld, world: LocalWorld, histories: History) -> None:
    pushes = {"push": np.zeros((3, 2, 2), np.float32)}
    goal = Goal(targets={"position": np.zeros((3, 2), np.float32)})
    plans = {"push": np.zeros((3, 4, 2, 2), np.float32)}
    for ask in (
        lambda one: one.predict(histories, pushes),
        lambda one: one.score(histories, plans, goal, RULES),
        lambda one: replace(one.plan(histories, goal, horizon=2), elapsed_s=0.0),
    ):
        assert difference(ask(remote), ask(world)) is None


def test_eight_threads_get_what_one_gets(
    remote: RemoteWorld, world: LocalWorld, history: History, fresh: list[Episode]
) -> None:
    due = {verb: ask(world, history, fresh[0]) for verb, ask in ASKED.items()}

    def ask(number: int) -> tuple[str, str | None]:
        verb = list(ASKED)[number % len(ASKED)]
        return verb, difference(ASKED[verb](remote, history, fresh[0]), due[verb])

    with ThreadPoolExecutor(8) as pool:
        assert {found for found in pool.map(ask, range(8 * len(ASKED))) if found[1] is not None} == set()


def test_missing_confidence_survives(history: History) -> None:
    toy = Integrator(camera=False, wind=False)
    world = LocalWorld(Persistence.fit(toy.episodes(9, 20, seed=0), toy.schema), None, CrossEntropy())
    with serving(world) as url, RemoteWorld(url) as remote:
        found = remote.predict(history, PUSH)
        assert isinstance(found.trust, float)
        assert np.isnan(found.trust)
        assert found.signals["position"].low is None
        with pytest.raises(UnsupportedError, match="surprise needs a calibration"):
            remote.surprise(toy.episodes(1, 4, seed=1)[0])


@pytest.mark.parametrize(
    "ask",
    [
        lambda world, history: world.predict(history, {}),
        lambda world, history: world.predict(history, PUSH, level=2.0),
        lambda world, history: world.score(history, {"push": PUSH["push"][None]}, Goal()),
        lambda world, history: world.plan(history, GOAL, horizon=0),
        lambda world, history: world.plan(history, GOAL, horizon=2, budget_s=-1.0),
        lambda world, history: world.plan(history, GOAL, horizon=2, budget_s=float("nan")),
        lambda world, history: world.plan(history, GOAL, horizon=2, constraints=[AtMost(signal="psition", bound=1.0)]),
        lambda world, history: world.plan(history, GOAL, horizon=2, constraints=[RequireInDistribution()]),
    ],
)
def test_an_error_is_that_of_the_world_itself(
    ask: Callable[[World, History], object], remote: RemoteWorld, world: LocalWorld, history: History
) -> None:
    with pytest.raises(WorldlineError) as here:
        ask(world, history)
    with pytest.raises(WorldlineError) as there:
        ask(remote, history)
    assert type(there.value) is type(here.value)
    assert str(there.value) == str(here.value)


def test_a_request_that_is_too_large_for_the_server_is_refused(world: LocalWorld, history: History) -> None:
    with serving(world, limit_bytes=2000) as url, RemoteWorld(url) as remote:
        with pytest.raises(UnsupportedError, match=r"more than 2000 bytes\. Send fewer worlds"):
            remote.predict(history, {"push": np.zeros((3000, 2), np.float32)})
        assert remote.predict(history, PUSH).calibrated


class Scripted(World):
    """Does what it is told, and counts."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer, self.num_cards, self.budgets = answer, 0, list[float | None]()

    def describe(self) -> Card:
        self.num_cards += 1
        return self.answer()

    def answer_plan(self, history, request):
        self.budgets.append(request.budget_s)
        return self.answer()

    predict = score = what_if = surprise = None


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no"),
        DataError("it is torn", fix="Mend it.", signal="x"),
        UnknownNameError("signal", "psition", ["position"]),
        MissingExtraError("av", "video"),
        UnavailableError("the endpoint behind is gone."),
        NoGoodAnswerError("it made no sense."),
        EngineError("it returned nan.", 3),
        UnsupportedError("it has no head."),
        UnreadableError("it predicts another signal."),
        InputError("it is not finite."),
    ],
)
def test_errors_cross(error: WorldlineError) -> None:
    def fail() -> Card:
        raise error

    with serving(Scripted(fail)) as url, RemoteWorld(url) as remote, pytest.raises(type(error)) as raised:
        remote.describe()
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    assert vars(raised.value) == vars(error)


def test_a_fault_of_the_server_is_its_own() -> None:
    def fail() -> Card:
        raise ZeroDivisionError("inside")

    told = "the server failed with ZeroDivisionError at /v1/describe"
    with serving(Scripted(fail)) as url, RemoteWorld(url) as remote, pytest.raises(UnavailableError, match=told):
        remote.describe()


def test_the_card_is_asked_for_once(world: LocalWorld) -> None:
    scripted = Scripted(world.describe)
    with serving(scripted) as url, RemoteWorld(url) as remote, ThreadPoolExecutor(8) as pool:
        cards = list(pool.map(lambda _: remote.describe(), range(16)))
    assert scripted.num_cards == 1
    assert all(card is cards[0] for card in cards)
    assert cards[0] == world.describe()


def test_a_plan_passes_its_budget_on_and_counts_the_whole_wait(world: LocalWorld, history: History) -> None:
    due = world.plan(history, GOAL, horizon=2)
    scripted = Scripted(lambda: replace(due, status=PlanStatus.BUDGET_EXHAUSTED, elapsed_s=-1.0))
    with serving(scripted) as url, RemoteWorld(url) as remote:
        found = [remote.plan(history, GOAL, horizon=2, budget_s=budget_s) for budget_s in (0.25, None, float("inf"))]
    assert scripted.budgets == [0.25, None, float("inf")]
    assert all(plan.elapsed_s > 0 for plan in found)
    assert {plan.status for plan in found} == {PlanStatus.BUDGET_EXHAUSTED}


def test_code_is_refused_before_anything_is_sent(history: History) -> None:
    remote = RemoteWorld("http://127.0.0.1:1")  # where nobody listens
    with pytest.raises(UnsupportedError, match=r"plan\.request\.constraints\[0\].*<lambda>.*cannot be sent"):
        remote.plan(history, GOAL, horizon=2, constraints=[lambda rollout: np.zeros((1, 1))])


def test_a_server_that_is_gone_is_named(world: LocalWorld, history: History) -> None:
    with serving(world) as url:
        remote = RemoteWorld(url)
        remote.predict(history, PUSH)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=f"{url}/v1/predict cannot be reached.*worldline serve"):
            remote.predict(history, PUSH)
    assert issubclass(UnavailableError, ConnectionError)


def test_no_proxy_stands_between_a_machine_and_itself(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with serving(world) as url:
        for own in (url, url.replace("127.0.0.1", "LocalHost")):
            with RemoteWorld(own) as remote:
                assert remote.describe() == world.describe()


def test_a_server_that_takes_too_long_is_named(world: LocalWorld) -> None:
    go = threading.Event()

    def wait() -> Card:
        assert go.wait(30)
        return world.describe()

    with serving(Scripted(wait)) as url, RemoteWorld(url, timeout_s=0.05) as remote:
        with pytest.raises(UnavailableError, match=r"/v1/describe did not answer within 0\.05 s .*Raise timeout_s"):
            remote.describe()
        go.set()


@contextmanager
def answering(status: int, kind: str | None, body: bytes) -> Iterator[str]:
    """The URL of a server that says this to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            if kind is not None:
                self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *message: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "body", "told"),
    [
        (502, "text/html", b"<html>", "answered with status 502: expected application/msgpack, got text/html"),
        (200, None, b"", "got no content type"),
        (302, "text/plain", b"", "answered with status 302"),
        (200, CONTENT_TYPE, b"", "returned an invalid answer: the message is damaged"),
        (200, CONTENT_TYPE, b"\xdd\xff\xff\xff\xff", "returned an invalid answer"),
        (
            200,
            CONTENT_TYPE,
            msgspec.msgpack.encode({"worldline": 2, "answer": {}}),
            "expected message version 1, got 2",
        ),
        (200, CONTENT_TYPE, encode_answer({"name": 1}), "returned an invalid answer: Card"),
        (200, CONTENT_TYPE, bytes(2000), "answered more than 1000 bytes"),
        (503, CONTENT_TYPE, encode_error(UnavailableError("resting.")), "^resting.$"),
    ],
)
def test_a_bad_answer_is_one_error(status: int, kind: str | None, body: bytes, told: str) -> None:
    with (
        answering(status, kind, body) as url,
        RemoteWorld(url, limit_bytes=1000) as remote,
        pytest.raises(UnavailableError, match=told),
    ):
        remote.describe()


def test_a_url_may_have_a_path_and_a_password_that_no_error_shows() -> None:
    with answering(404, "text/html", b"") as url:
        secret = url.replace("http://", "http://me:secret@") + "/worlds/one/"
        with RemoteWorld(secret) as remote, pytest.raises(UnavailableError) as raised:
            remote.describe()
    assert f"{url}/worlds/one/v1/describe" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["", "greenhouse@prod", "ftp://host", "http://", "http://a:b:c", "http://host:port"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is not a URL"):
        RemoteWorld(url)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(timeout_s: float) -> None:
    with pytest.raises(InputError, match="timeout_s is"):
        RemoteWorld("http://127.0.0.1", timeout_s=timeout_s)


def test_connections_are_closed_with_the_world(world: LocalWorld) -> None:
    with serving(world) as url, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RemoteWorld(url).describe()
        gc.collect()  # an open socket would warn
        with RemoteWorld(url) as remote:
            remote.describe()
        remote.close()
    assert [str(one.message) for one in caught] == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on
def test_processes_that_are_forked_do_not_read_the_answers_of_others(world: LocalWorld, history: History) -> None:
    """Every process asks for predictions of its own push."""

    def ask(remote: RemoteWorld, push: float) -> list[float]:
        pushes = {"push": np.full((3, 2), push, np.float32)}
        return [float(remote.predict(history, pushes).signals["position"].mean[-1, 0]) for _ in range(30)]

    context = multiprocessing.get_context("fork")
    with serving(world) as url, RemoteWorld(url) as remote:
        expected = {push: ask(remote, push)[0] for push in (-0.5, 0.0, 0.5)}  # the connection is open before the fork
        answers = context.Queue()
        children = [
            context.Process(target=lambda push=push: answers.put((push, ask(remote, push)))) for push in (-0.5, 0.5)
        ]
        for child in children:
            child.start()
        assert ask(remote, 0.0) == [expected[0.0]] * 30
        for _ in children:
            push, found = answers.get(timeout=60)
            assert found == [expected[push]] * 30
        for child in children:
            child.join(10)
