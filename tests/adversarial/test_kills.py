"""A service under load is killed at random moments: nothing that it acknowledged is lost, nothing refused appears."""

from __future__ import annotations

import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.serve.conftest import cluster, execute
from tests.serve.job_stub import FAIL, FINISH
from tests.serve.service_process import Nursery, ServiceProcess, step
from tests.serve.toy_sessions import AHEAD, BODY, publish
from tests.serve.waiting import wait_for

from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.sessions import ObservedStep
from worldline.serve.tables import session_steps
from worldline.serve.tokens import Tokens
from worldline.world.wire import decode_answer

START_S = 60.0
"""Longest time until a service answers, and until all jobs have ended; wide, for busy machines."""
JOB = {"kind": "learn", "logs": "toy", "name": "greenhouse"}


class Actor(ABC):
    """A client that keeps account of what the service acknowledged.

    Args:
        name: of the actor and its token.
        tokens: of the service, which the tests share.
        rng: of its choices.
    """

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        self.name, self.rng, self.tokens = name, rng, tokens
        self.token = tokens.create(name, Scope)
        self.pending: Any = None
        """What was sent and not yet acknowledged."""

    @abstractmethod
    def act(self, http: httpx.Client) -> None:
        """Makes a few calls; the service may be killed during each."""

    @abstractmethod
    def check(self, http: httpx.Client) -> None:
        """After a restart: checks everything that was acknowledged, and finds out what became of `pending`."""

    def check_stored(self, database: Database) -> None:
        """Checks the database after the last restart."""
        del database


class Observer(Actor):
    """Adds steps to one session; some are refused."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.url, self.values = "", list[float]()

    def act(self, http: httpx.Client) -> None:
        if not self.url:
            self._open(http)
        number, value, kind = len(self.values), self.rng.randrange(2**20) / 8, self.rng.random()
        if kind < 0.1:
            expect(http.post(f"{self.url}:observe", json=step(number + 1, value)), 409)
        elif kind < 0.2:
            wrong = {**step(number, value), "observations": {"position": [value] * 3}}
            expect(http.post(f"{self.url}:observe", json=wrong), 400)
        elif kind < 0.3 and number:
            expect(http.post(f"{self.url}:predict", json=AHEAD), 200)
        else:
            self.pending = value
            self._add(http)

    def _open(self, http: httpx.Client) -> None:
        found = expect(http.post("/v1/sessions", json={"world": "toy"}, headers={"idempotency-key": "k"}), 201)
        self.url = f"/v1/sessions/{found['id']}"

    def _add(self, http: httpx.Client) -> None:
        body = step(len(self.values), self.pending)
        found = expect(http.post(f"{self.url}:observe", json=body), 200)
        assert found["step"] == len(self.values) + 1
        self.values.append(self.pending)
        self.pending = None

    def check(self, http: httpx.Client) -> None:
        if not self.url:
            return
        found = expect(http.get(self.url), 200)["step"]
        assert found - len(self.values) in ((0,) if self.pending is None else (0, 1)), (found, len(self.values))
        if self.pending is not None:
            self._add(http)  # the same step again
        if self.values:
            expect(http.post(f"{self.url}:predict", json=AHEAD), 200)

    def check_stored(self, database: Database) -> None:
        name = self.url.rpartition("/")[2]
        rows = select(session_steps.c.body).where(session_steps.c.session_id == name).order_by(session_steps.c.step)
        bodies = database.read(lambda connection: connection.execute(rows).scalars().all())
        found = [float(decode_answer(ObservedStep, body).observations["position"][0]) for body in bodies]
        assert len(found) >= min(len(self.values), 128)
        assert found == self.values[-len(found) :]


class Opener(Actor):
    """Opens and ends sessions."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.opened, self.ended = list[str](), list[str]()

    def act(self, http: httpx.Client) -> None:
        if len(self.opened) < 5 or self.rng.random() < 0.3:
            self.pending = {"idempotency-key": str(self.rng.randrange(10**9))}
        else:
            self.pending = self.rng.choice(self.opened)
        self._finish(http, 204)

    def _finish(self, http: httpx.Client, *statuses: int) -> None:
        if isinstance(self.pending, dict):
            found = expect(http.post("/v1/sessions", json={"world": "toy"}, headers=self.pending), 201)
            self.opened.append(found["id"])
        else:
            expect(http.delete(f"/v1/sessions/{self.pending}"), *statuses)
            self.opened.remove(self.pending)
            self.ended.append(self.pending)
        self.pending = None

    def check(self, http: httpx.Client) -> None:
        if self.pending is not None:
            self._finish(http, 204, 404)
        for names, status in ((self.opened, 200), (self.ended[-20:], 404)):
            for name in names:
                expect(http.get(f"/v1/sessions/{name}"), status)


class Administrator(Actor):
    """Adds and removes worlds; some are refused."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.added, self.count = list[str](), 0

    def act(self, http: httpx.Client) -> None:
        wrong = {"name": f"wrong-{self.count}", "reference": "toy@none"}
        expect(http.post("/v1/worlds", json=wrong), 400)
        if self.added and self.rng.random() < 0.5:
            expect(http.post("/v1/worlds", json={"name": self.added[0], "reference": "toy@1"}), 409)
            expect(http.post("/v1/worlds", json={"name": self.added[0], "reference": "toy@prod"}), 200)
            self.pending = ("remove", self.rng.choice(self.added))
            expect(http.delete(f"/v1/worlds/{self.pending[1]}"), 204)
        else:
            self.count += 1
            self.pending = ("add", f"w{self.count}")
            expect(http.post("/v1/worlds", json={"name": self.pending[1], "reference": "toy@prod"}), 201)
        self._apply()
        time.sleep(0.05)

    def _apply(self) -> None:
        what, name = self.pending
        (self.added.append if what == "add" else self.added.remove)(name)
        self.pending = None

    def check(self, http: httpx.Client) -> None:
        found = {one["name"] for one in expect(http.get("/v1/worlds"), 200)["worlds"]} - {"toy"}
        if self.pending is not None and (self.pending[1] in found) == (self.pending[0] == "add"):
            self._apply()
        self.pending = None
        assert found == set(self.added)


class Publisher(Actor):
    """Moves the alias that calls and sessions follow."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.version = 1

    def act(self, http: httpx.Client) -> None:
        path = "/v1/worlds/toy/aliases/prod"
        expect(http.put(path, json={"version": 9}), 400)
        self.pending = self.rng.choice((1, 2))
        expect(http.put(path, json={"version": self.pending}), 200)
        self.version, self.pending = self.pending, None
        time.sleep(0.05)

    def check(self, http: httpx.Client) -> None:
        found = expect(http.get("/v1/worlds/toy"), 200)
        assert found["aliases"]["prod"] == found["version"]
        assert found["version"] in (self.version, self.pending)
        self.version, self.pending = found["version"], None


class Issuer(Actor):
    """Creates and revokes tokens, in another process than the service."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.valid, self.revoked = dict[str, str](), dict[str, str]()

    def act(self, http: httpx.Client) -> None:
        name = f"t{len(self.valid) + len(self.revoked)}"
        self.valid[name] = self.tokens.create(name, [Scope.READ])
        if self.rng.random() < 0.3:
            self.tokens.revoke(name)
            self.revoked[name] = self.valid.pop(name)
        time.sleep(0.02)

    def check(self, http: httpx.Client) -> None:
        for tokens, status in ((self.valid, 200), (self.revoked, 401)):
            for token in list(tokens.values())[-20:]:
                expect(http.get("/v1/worlds", headers={"authorization": f"Bearer {token}"}), status)


class Employer(Actor):
    """Begins jobs, each with an idempotency key; some fail, and some are refused."""

    def __init__(self, name: str, tokens: Tokens, rng: random.Random) -> None:
        super().__init__(name, tokens, rng)
        self.accepted = dict[str, str]()
        """Per job, in order, its end."""

    def act(self, http: httpx.Client) -> None:
        expect(http.post("/v1/jobs", json={**JOB, "logs": "none"}), 400)
        self.pending = (str(self.rng.randrange(10**9)), self.rng.choice((FINISH, FAIL)))
        self._begin(http)
        time.sleep(0.05)

    def _begin(self, http: httpx.Client) -> None:
        key, seed = self.pending
        answer = http.post("/v1/jobs", json={**JOB, "seed": seed}, headers={"idempotency-key": key})
        found = expect(answer, 202, 429)  # too many are not finished
        if answer.status_code == 202:
            self.accepted[found["id"]] = "done" if seed == FINISH else "failed"
        self.pending = None

    def check(self, http: httpx.Client) -> None:
        if self.pending is not None:
            self._begin(http)  # the same job again
        wait_for(lambda: {one["status"] for one in self._jobs(http)}.isdisjoint({"queued", "running"}), START_S)
        ends = [(one["id"], one["status"]) for one in reversed(self._jobs(http))]
        assert ends == list(self.accepted.items())[-100:]

    def _jobs(self, http: httpx.Client) -> list[dict[str, Any]]:
        return list(expect(http.get("/v1/jobs"), 200)["jobs"])


class Predictor(Actor):
    """Keeps the workers busy."""

    def act(self, http: httpx.Client) -> None:
        expect(http.post("/v1/worlds/toy:predict", json=BODY), 200)

    def check(self, http: httpx.Client) -> None:
        self.act(http)


ACTORS: Sequence[type[Actor]] = (*[Observer] * 3, Opener, Administrator, Publisher, Issuer, Employer, Predictor)


def expect(answer: httpx.Response, *statuses: int) -> Any:
    """The body of an answer with one of these statuses."""
    assert answer.status_code in statuses, (answer.request.url, answer.status_code, answer.text)
    return answer.json() if answer.content else None


def observed(actors: Sequence[Actor]) -> int:
    """Steps that the service acknowledged."""
    return sum(len(actor.values) for actor in actors if isinstance(actor, Observer))


def load(actors: Sequence[Actor], service: ServiceProcess, seconds: float) -> None:
    """All actors act for so long, and until one step was acknowledged; then the service is killed."""
    before, until_s = observed(actors), time.monotonic() + START_S
    stopping, failures = threading.Event(), list[Exception]()

    def run(actor: Actor) -> None:
        try:
            with service.client(actor.token) as http:
                while not stopping.is_set():
                    actor.act(http)
        except httpx.TransportError:
            pass  # it was killed
        except Exception as error:  # noqa: BLE001  # raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(actor,)) for actor in actors]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    while observed(actors) == before and not failures and time.monotonic() < until_s:
        time.sleep(0.01)
    service.kill()
    stopping.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def check(actors: Sequence[Actor], service: ServiceProcess) -> None:
    """Every actor finds what it was promised."""
    for actor in actors:
        with service.client(actor.token) as http:
            actor.check(http)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as found:
        yield found


def attack(nursery: Nursery, url: str, folder: Path, num_kills: int, seed: int) -> int:
    """Kills a service so many times, and checks after each start what it has; returns the number of observed steps."""
    rng, home = random.Random(seed), folder / "home"
    (folder / "logs" / JOB["logs"]).mkdir(parents=True)
    arguments = ["toy=toy@prod", "--data", str(folder / "logs")]
    print(f"seed {seed}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDLINE_HOME", str(home))
        publish(folder)
    with Database(url) as database:
        tokens = Tokens(database)
        actors = [kind(f"a{number}", tokens, random.Random(f"{seed} {number}")) for number, kind in enumerate(ACTORS)]
        port = None
        for number in range(num_kills + 1):
            began = time.monotonic()
            with ServiceProcess(nursery, url, home, folder / "log", *arguments, port=port) as service:
                port = service.port  # as after a restart by systemd
                service.wait()
                started_s = time.monotonic() - began
                print(f"started within {started_s:.1f} s")
                assert started_s < START_S
                check(actors, service)
                if number < num_kills:
                    seconds = rng.uniform(0.2, 1.0)
                    print(f"kill {number} after {seconds:.3f} s")
                    load(actors, service, seconds)
                else:
                    service.kill(signal.SIGTERM)
        for actor in actors:
            actor.check_stored(database)
    assert "Traceback" not in (folder / "log").read_text()
    return observed(actors)


@pytest.mark.parametrize(
    ("kind", "num_kills"),
    [
        ("sqlite", 1),
        ("postgresql", 1),
        pytest.param("sqlite", 25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("postgresql", 25, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_a_killed_service_loses_nothing_that_it_acknowledged(
    nursery: Nursery, kind: str, num_kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'service.sqlite'}"
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        execute(f"{server}/postgres", f"CREATE DATABASE kills_{num_kills}")
        url = f"{server}/kills_{num_kills}"
    assert attack(nursery, url, tmp_path, num_kills, seed=num_kills) >= num_kills
