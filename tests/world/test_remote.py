from __future__ import annotations

import gc
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.served_world import serving_world
from tests.world.test_wire import difference

from worldline.engines.base import Card
from worldline.episode import Episode, History
from worldline.errors import (
    ConfigError,
    EngineError,
    InputError,
    UnavailableError,
    UnknownNameError,
    UnreadableError,
    WorldlineError,
)
from worldline.planning.base import Chance, Goal
from worldline.planning.calls import PlanCall
from worldline.planning.costs import AtMost, Change, KeepOut, Price, RequireInDistribution, Track, Within
from worldline.serve.limits import Limits
from worldline.testing import check_world
from worldline.world.base import PlanStatus, World
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld

PUSH = {"push": np.array([[0.5, 0.0], [-0.5, 1.0], [0.0, 0.0]], np.float32)}
GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})


@pytest.fixture(scope="module")
def url(world: LocalWorld) -> Iterator[str]:
    with serving_world(world) as found:
        yield found


@pytest.fixture(scope="module")
def remote(url: str) -> Iterator[RemoteWorld]:
    with RemoteWorld(url) as found:
        yield found


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
    "plan of another planner": lambda world, history, episode: replace(
        world.plan(history, GOAL, horizon=3, proposals={"push": PUSH["push"][None]}, planner="first_proposal"),
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
    check_world(remote, fresh[:30], GOAL, num_calibration=world.calibration.num_episodes)


@pytest.mark.parametrize("verb", ASKED)
def test_every_verb_answers_as_the_world_itself(
    verb: str, remote: RemoteWorld, world: LocalWorld, history: History, fresh: list[Episode]
) -> None:
    ask = ASKED[verb]
    assert difference(ask(remote, history, fresh[0]), ask(world, history, fresh[0])) is None


@pytest.mark.parametrize("ask", [
    lambda world, history: world.predict(history, {}),
    lambda world, history: world.score(history, {"push": PUSH["push"][None]}, Goal()),
    lambda world, history: world.plan(history, GOAL, horizon=2, budget_s=float("nan")),
    lambda world, history: world.plan(history, GOAL, horizon=2, planner="psition"),
    lambda world, history: world.plan(history, GOAL, horizon=2, constraints=[AtMost(signal="psition", bound=1.0)]),
    lambda world, history: world.plan(history, GOAL, horizon=2, constraints=[RequireInDistribution()]),
])  # fmt: skip
def test_an_error_is_that_of_the_world_itself(
    ask: Callable[[World, History], object], remote: RemoteWorld, world: LocalWorld, history: History
) -> None:
    with pytest.raises(WorldlineError) as here:
        ask(world, history)
    with pytest.raises(WorldlineError) as there:
        ask(remote, history)
    assert type(there.value) is type(here.value)
    assert str(there.value) == str(here.value)


class Scripted(World):
    """Answers plans and surprises with `answer`; has the card of the world, and counts how often it is read."""

    def __init__(self, world: World, answer: Callable[[], Any]) -> None:
        self.card, self.script, self.num_cards, self.budgets = world.describe(), answer, 0, list[float | None]()

    def describe(self) -> Card:
        self.num_cards += 1
        return self.card

    def answer(self, call):
        if isinstance(call, PlanCall):
            self.budgets.append(call.budget_s)
        return self.script()


@pytest.mark.parametrize(("error", "seen"), [
    (UnknownNameError("signal", "psition", ["position"]), None),
    (EngineError("it returned nan.", 3), None),
    (UnreadableError("it predicts another signal."), None),
    (ConfigError("/secret/path"), "the world is not available.*request_id [a-z0-9-]+"),
    (UnavailableError("http://secret is gone."), "the world is not available.*request_id [a-z0-9-]+"),
    (ZeroDivisionError("secret"), "the server failed.*request_id [a-z0-9-]+"),
])  # fmt: skip
def test_errors_cross(error: Exception, seen: str | None, world: LocalWorld, fresh: list[Episode]) -> None:
    """Those of the caller with their values; those of the server as unavailable, without their text."""

    def fail() -> None:
        raise error

    kind = UnavailableError if seen else type(error)
    scripted = Scripted(world, fail)
    with serving_world(scripted) as url, RemoteWorld(url) as remote, pytest.raises(kind, match=seen) as raised:
        remote.surprise(fresh[0])
    assert type(raised.value) is kind
    if seen:
        assert "secret" not in str(raised.value)
    else:
        assert (str(raised.value), vars(raised.value)) == (str(error), vars(error))


def test_a_plan_passes_its_budget_on_and_counts_the_whole_wait(world: LocalWorld, history: History) -> None:
    expected = world.plan(history, GOAL, horizon=2)
    scripted = Scripted(world, lambda: replace(expected, status=PlanStatus.OUT_OF_TIME, elapsed_s=-1.0))
    with serving_world(scripted) as url, RemoteWorld(url) as remote:
        found = [remote.plan(history, GOAL, horizon=2, budget_s=budget_s) for budget_s in (0.25, None, float("inf"))]
    assert scripted.budgets == [0.25, Limits().plan_s, 0.8 * Limits().deadline_s]  # those of the service apply
    assert all(plan.elapsed_s > 0 for plan in found)
    assert {plan.status for plan in found} == {PlanStatus.OUT_OF_TIME}


def test_a_server_that_is_gone_is_named(world: LocalWorld, history: History) -> None:
    with serving_world(world) as url:
        remote = RemoteWorld(url)
        remote.predict(history, PUSH)
    for _ in range(2):
        with pytest.raises(UnavailableError, match=f"{url}:predict cannot be reached.*worldline serve"):
            remote.predict(history, PUSH)
    assert issubclass(UnavailableError, ConnectionError)


def test_no_proxy_stands_between_a_machine_and_itself(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with serving_world(world) as url:
        for own in (url, url.replace("127.0.0.1", "LocalHost")):
            with RemoteWorld(own) as remote:
                assert remote.describe() == world.describe()


def test_a_server_that_takes_too_long_is_named(world: LocalWorld, fresh: list[Episode]) -> None:
    go = threading.Event()
    scripted = Scripted(world, lambda: go.wait(30))
    with serving_world(scripted) as url, RemoteWorld(url, timeout_s=0.05) as remote:
        with pytest.raises(UnavailableError, match=r":surprise did not answer within 0\.05 s.*Raise timeout_s"):
            remote.surprise(fresh[0])
        go.set()


def test_connections_are_closed_with_the_world(world: LocalWorld, fresh: list[Episode]) -> None:
    with serving_world(world) as url, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RemoteWorld(url).describe()
        gc.collect()  # an open socket would warn
        with RemoteWorld(url) as remote:
            remote.describe()
        remote.close()
        with pytest.raises(InputError, match="is closed"):
            remote.surprise(fresh[0])
        gc.collect()
    assert [str(one.message) for one in caught] == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on
def test_processes_that_are_forked_do_not_read_the_answers_of_others(url: str, history: History) -> None:
    """Every process asks for predictions of its own push."""
    context, remote = multiprocessing.get_context("fork"), RemoteWorld(url)

    def ask(push: float) -> list[float]:
        answers = [remote.predict(history, {"push": np.full((3, 2), push, np.float32)}) for _ in range(20)]
        return [float(answer.signals["position"].mean[-1, 0]) for answer in answers]

    expected = {push: ask(push)[0] for push in (-0.5, 0.5, 0.0)}  # the connection is open before the fork
    answers = context.Queue()
    children = [context.Process(target=lambda push=push: answers.put((push, ask(push)))) for push in (-0.5, 0.5)]
    for child in children:
        child.start()
    assert ask(0.0) == [expected[0.0]] * 20
    for _ in children:
        push, found = answers.get(timeout=60)
        assert found == [expected[push]] * 20
    for child in children:
        child.join(10)
    remote.close()
