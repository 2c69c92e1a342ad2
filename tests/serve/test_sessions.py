from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from tests.serve.scripted import linear_world
from tests.serve.toy_sessions import ANN, BOB, SwitchedWorld, changing, opened, steps_of, toy_world

from worldline.errors import InputError, UnavailableError, UnsupportedError, WorldlineError
from worldline.planning.base import Goal
from worldline.planning.calls import PlanCall, PredictCall
from worldline.serve import problems
from worldline.serve import sessions as module
from worldline.serve.callers import Scope
from worldline.serve.database import Database
from worldline.serve.limits import Limits
from worldline.serve.sessions import ObservedStep, Sessions, SessionSettings, SessionView
from worldline.serve.tables import session_blobs, session_steps, sessions
from worldline.world.local import LocalWorld
from worldline.world.session import NO_HISTORY, Session
from worldline.world.wire import decode_answer

pytestmark = pytest.mark.anyio

SETTINGS = SessionSettings(num_kept=12, level=0.8, horizon=3, rate=0.1, patience=30.0)
AHEAD = {"push": np.full((2, 2), 0.5, np.float32)}
CALM = {"wind": np.zeros((2, 2), np.float32)}
GOAL = Goal(targets={"position": np.zeros(2)})
STEPS = steps_of(changing(40))
PREDICT = PredictCall(history=NO_HISTORY, actions=AHEAD, exogenous=CALM)
PLAN = PlanCall(history=NO_HISTORY, goal=GOAL, horizon=2, exogenous=CALM)


ON_A_FILE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests of what does not depend on the kind of database."""


async def add(found: Sessions, name: str, steps: list[ObservedStep], first: int = 0) -> SessionView:
    """Adds steps, the first of which has the number `first`."""
    for number, step in enumerate(steps, first):
        view = await found.observe(ANN, name, number, step)
        assert view.step == number + 1
    return view


def local(steps: list[ObservedStep], settings: SessionSettings = SETTINGS) -> Session:
    """A session in this process that sees the same."""
    session = Session(toy_world(), **vars(settings))
    for step in steps:
        session.observe(
            step.observations, actions=step.actions or None, exogenous=step.exogenous or None, observed=step.observed
        )
    return session


async def assert_same(found: Sessions, name: str, session: Session) -> None:
    """Whether the session of the service answers as this one."""
    ours = await found.ask(ANN, name, PREDICT)
    theirs = session.predict(AHEAD, exogenous=CALM)
    for part in ("mean", "low", "high"):
        one, other = (getattr(answer.signals["position"], part) for answer in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert ours.trust == pytest.approx(theirs.trust, rel=1e-3)
    ours = await found.ask(ANN, name, PLAN)
    theirs = session.plan(GOAL, horizon=2, exogenous=CALM)
    np.testing.assert_allclose(ours.actions["push"], theirs.actions["push"], atol=1e-4)
    view = await found.get(ANN, name)
    assert view.widening == pytest.approx(session.widening, rel=1e-6)
    assert view.alarms == session.alarms


def restarted(served: Sessions) -> Sessions:
    """Another process with the same database."""
    return Sessions(served._service, served._database)


def stored(served: Sessions, name: str) -> list[ObservedStep]:
    """The steps in the database, in their order."""
    rows = select(session_steps.c.body).where(session_steps.c.session_id == name).order_by(session_steps.c.step)
    bodies = served._database.read(lambda connection: connection.execute(rows).scalars().all())
    return [decode_answer(ObservedStep, body) for body in bodies]


@pytest.fixture
def served(database: Database) -> Iterator[Sessions]:
    with opened(database) as (_, sessions):
        yield sessions


def play(database: Database, run: Callable[[Sessions], Awaitable[None]]) -> None:
    """Runs a coroutine with a service."""
    with opened(database) as (_, served):
        asyncio.run(run(served))


@pytest.mark.parametrize("gaps", [False, True])
async def test_answers_are_those_of_a_local_session_also_after_a_restart(served: Sessions, gaps: bool) -> None:
    steps = steps_of(changing(40), gaps=gaps)

    name = (await served.create(ANN, "toy", SETTINGS)).id
    with pytest.raises(InputError, match="nothing was observed"):
        await served.ask(ANN, name, PREDICT)
    seen = 0
    for until in (1, 2, 20, 41):
        await add(served, name, steps[seen:until], seen)
        session, seen = local(steps[:until]), until
        for one in (served, restarted(served)):
            await assert_same(one, name, session)
        served = one  # goes on from what is stored
    assert session.alarms
    assert session.widening["position"] > 2


@ON_A_FILE
async def test_only_the_next_step_is_added_and_the_last_one_may_be_repeated(served: Sessions) -> None:
    name = (await served.create(ANN, "toy", SETTINGS)).id
    view = await add(served, name, STEPS[:3])
    for one in (served, restarted(served)):
        assert await one.observe(ANN, name, 2, STEPS[2]) == view
        for step, content in ((2, STEPS[3]), (1, STEPS[1]), (4, STEPS[3]), (-1, STEPS[0]), (2**70, STEPS[3])):
            with pytest.raises(problems.StepConflictError, match="expected 3"):
                await one.observe(ANN, name, step, content)
    await add(served, name, STEPS[3:5], 3)
    await assert_same(served, name, local(STEPS[:5]))


@ON_A_FILE
async def test_a_session_exists_for_its_token_only(served: Sessions) -> None:
    name = (await served.create(ANN, "toy", SETTINGS)).id
    await add(served, name, STEPS[:1])
    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda name: served.get(BOB, name),
        lambda name: served.observe(BOB, name, 1, STEPS[1]),
        lambda name: served.observe(BOB, name, 0, STEPS[0]),
        lambda name: served.ask(BOB, name, PREDICT),
        lambda name: served.ask(BOB, name, PLAN),
        lambda name: served.fork(BOB, name),
        lambda name: served.delete(BOB, name),
    ]
    for call in calls:
        for one in (name, "unknown"):
            with pytest.raises(problems.NotFoundError, match=f"^there is no session '{one}'.$"):
                await call(one)
    assert (await served.get(ANN, name)).step == 1


async def test_idempotency_keys(served: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await served.create(ANN, "toy", SETTINGS, key="k")
    await add(served, first.id, STEPS[:2])
    again = await served.create(ANN, "toy", SETTINGS, key="k")
    assert (again.id, again.step) == (first.id, 2)
    assert (await served.create(BOB, "toy", SETTINGS, key="k")).id != first.id
    assert (await served.create(ANN, "toy", SETTINGS)).id != first.id
    with pytest.raises(problems.ConflictError, match="Use another key"):
        await served.create(ANN, "toy", replace(SETTINGS, horizon=2), key="k")
    await assert_same(served, first.id, local(STEPS[:2]))
    copies = {(await served.fork(ANN, first.id, key=key)).id for key in ("k", "k", "l")}
    assert len(copies | {first.id}) == 3
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: first.expires + 1))
    with pytest.raises(problems.GoneError, match="Use another key"):
        await served.create(ANN, "toy", SETTINGS, key="k")


async def test_a_session_that_was_deleted_and_created_again_is_not_mixed_with_the_old_one(served: Sessions) -> None:
    other = restarted(served)
    name = (await served.create(ANN, "toy", SETTINGS, key="k")).id
    await add(served, name, STEPS[:4])
    await other.delete(ANN, name)
    assert (await other.create(ANN, "toy", SETTINGS, key="k")).id == name
    await add(other, name, [STEPS[0], *STEPS[20:23]])
    await assert_same(served, name, local([STEPS[0], *STEPS[20:23]]))


async def test_a_fork_goes_its_own_way(served: Sessions) -> None:
    name = (await served.create(ANN, "toy", SETTINGS)).id
    await add(served, name, STEPS[:20])
    fork = await served.fork(ANN, name)
    assert (fork.step, fork.world) == (20, "toy")
    await add(served, fork.id, STEPS[25:30], 20)
    await add(served, name, STEPS[20:25], 20)
    await assert_same(served, name, local(STEPS[:25]))
    await served.delete(ANN, name)
    with pytest.raises(problems.NotFoundError):
        await served.get(ANN, name)
    await assert_same(restarted(served), fork.id, local([*STEPS[:20], *STEPS[25:30]]))
    assert len(stored(served, name)) == 0


async def test_an_unused_session_expires_and_is_deleted(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))

    with opened(database, Limits(session_s=100, sessions=3)) as (_, served):
        names = [(await served.create(ANN, "toy", SETTINGS)).id for _ in range(3)]
        await add(served, names[0], STEPS[:1])
        now[0] += 80
        await served.ask(ANN, names[0], PREDICT)  # which is a use
        await served.observe(ANN, names[1], 0, STEPS[0])  # too
        assert (await served.get(ANN, names[2])).expires == pytest.approx(now[0] + 20)  # which is none
        with pytest.raises(problems.RateLimitedError, match="3 sessions are open"):
            await served.fork(ANN, names[0])
        now[0] += 50
        assert (await served.fork(ANN, names[0])).step == 1
        for call in (
            served.get(ANN, names[2]),
            served.observe(ANN, names[2], 0, STEPS[0]),
            served.ask(ANN, names[2], PREDICT),
            served.fork(ANN, names[2]),
        ):
            with pytest.raises(problems.GoneError):
                await call
        await served.clean()
        with pytest.raises(problems.GoneError):
            await served.get(ANN, names[2])
        assert (await served.get(ANN, names[1])).step == 1
        now[0] += module.KEPT_EXPIRED_S
        await served.clean()
        with pytest.raises(problems.NotFoundError):
            await served.get(ANN, names[2])
        assert (await served.create(ANN, "toy", SETTINGS)).step == 0


@ON_A_FILE
async def test_the_number_of_sessions_is_limited_per_token(database: Database) -> None:
    with opened(database, Limits(sessions=2)) as (_, served):
        names = [(await served.create(ANN, "toy", SETTINGS, key=key)).id for key in "ab"]
        with pytest.raises(problems.RateLimitedError, match="2 sessions are open"):
            await served.create(ANN, "toy", SETTINGS)
        assert (await served.create(ANN, "toy", SETTINGS, key="a")).id == names[0]
        assert (await served.create(BOB, "toy", SETTINGS)).step == 0
        await served.delete(ANN, names[0])
        assert (await served.create(ANN, "toy", SETTINGS)).step == 0


async def test_steps_that_are_no_longer_kept_are_deleted(served: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TRIM", 8)

    name = (await served.create(ANN, "toy", SETTINGS)).id
    most = 0
    for number, step in enumerate(STEPS):
        await served.observe(ANN, name, number, step)
        most = max(most, len(stored(served, name)))
    assert most < 12 + 8
    await assert_same(restarted(served), name, local(STEPS))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_kept": 0},
        {"num_kept": 10**9},
        {"horizon": 10**6},
        {"level": float("nan")},
        {"rate": -1.0},
        {"patience": 1.0},
    ],
)
@ON_A_FILE
async def test_settings_out_of_range_are_refused(served: Sessions, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        await served.create(ANN, "toy", SessionSettings(**wrong))
    with pytest.raises(problems.NotFoundError):
        await served.create(ANN, "nothing", SessionSettings())
    with pytest.raises(problems.NotFoundError, match=r"^there is no world 'tyo'\.$"):
        await served.create(replace(ANN, scopes=frozenset({Scope.SESSION})), "tyo", SessionSettings())
    rows = select(func.count()).select_from(sessions)
    assert served._database.read(lambda connection: connection.execute(rows).scalar()) == 0


@ON_A_FILE
async def test_a_refused_call_leaves_the_session_in_memory_as_it_was(served: Sessions) -> None:
    quota = replace(ANN, quota=5)

    name = (await served.create(quota, "toy", SETTINGS)).id
    await add(served, name, STEPS[:3])
    session = served._live[name].session
    wrong = replace(STEPS[3], observations={"position": np.zeros(3)})
    for call in (
        served.observe(ANN, name, 3, wrong),
        served.observe(ANN, name, 3, replace(STEPS[3], actions={})),
        served.observe(ANN, name, 3, replace(STEPS[3], exogenous={**STEPS[3].exogenous, "more": np.zeros(9)})),
        served.observe(ANN, name, 3, replace(STEPS[3], observed={"more": True})),
        served.ask(ANN, name, PredictCall(history=NO_HISTORY, actions={})),
        served.observe(quota, name, 3, STEPS[3]),
    ):
        with pytest.raises(WorldlineError):
            await call
        assert served._live[name].session is session
    assert len(stored(served, name)) == 3
    await add(served, name, STEPS[3:6], 3)
    await assert_same(served, name, local(STEPS[:6]))


@pytest.mark.parametrize("lost", ["deadline", "caller", "database"])
async def test_a_call_that_is_lost_on_its_way_adds_the_step_or_not_and_nothing_else(
    database: Database, served: Sessions, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    entered, go = threading.Event(), threading.Event()
    update = LocalWorld.update

    def held(self: LocalWorld, *arguments: Any) -> Any:
        entered.set()
        assert go.wait(60)
        return update(self, *arguments)

    name = (await served.create(ANN, "toy", SETTINGS)).id
    await add(served, name, STEPS[:5])
    with monkeypatch.context() as patch:
        if lost == "database":

            async def fails(*_: object) -> None:
                raise UnavailableError("the database is gone.")

            patch.setattr(Database, "write_async", fails)
            with pytest.raises(UnavailableError, match="is gone"):
                await served.observe(ANN, name, 5, STEPS[30])
        else:
            patch.setattr(LocalWorld, "update", held)
            deadline_s = 0.5 if lost == "deadline" else None
            call = asyncio.ensure_future(served.observe(ANN, name, 5, STEPS[30], deadline_s=deadline_s))
            await asyncio.to_thread(entered.wait, 60)
            if lost == "caller":
                call.cancel()
            with pytest.raises(problems.DeadlineError if lost == "deadline" else asyncio.CancelledError):
                await call
            go.set()  # the worker ends its work on the session after it was given up
    assert len(stored(served, name)) == 5
    await assert_same(served, name, local(STEPS[:5]))
    await add(served, name, STEPS[5:8], 5)
    await assert_same(served, name, local(STEPS[:8]))


@ON_A_FILE
async def test_few_sessions_are_in_memory_and_others_go_on(served: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIVE", 2)

    names = [(await served.create(ANN, "toy", SETTINGS)).id for _ in range(4)]
    assert len(served._live) == 2
    for number in range(6):
        await asyncio.gather(*(served.observe(ANN, name, number, STEPS[number]) for name in names))
        assert len(served._live) <= 2
    for name in names:
        await assert_same(served, name, local(STEPS[:6]))
    with pytest.raises(problems.NotFoundError):
        await served.get(BOB, names[0])
    assert len(served._live) <= 2


@pytest.mark.parametrize("number", [1, 2])
@ON_A_FILE
async def test_a_session_follows_the_alias_and_its_bands_start_anew(database: Database, number: int) -> None:
    """Also if another world with the same version number is served under the name."""
    hosted = SwitchedWorld(1, toy_world())

    with opened(database, hosted=hosted) as (_, served):
        name = (await served.create(ANN, "toy", SETTINGS)).id
        view = await add(served, name, STEPS[:25])
        assert (view.version, view.widening["position"]) == (1, pytest.approx(1, abs=2))
        other = restarted(served)
        hosted.version, hosted.world = number, toy_world(1)
        due = local(STEPS[:25])
        due.use(toy_world(1))
        ours = await served.ask(ANN, name, PREDICT)
        np.testing.assert_allclose(
            ours.signals["position"].high, due.predict(AHEAD, exogenous=CALM).signals["position"].high, rtol=1e-4
        )
        for one in (served, other) if number == 2 else (served,):  # a version that only the old row knows
            theirs = await one.ask(ANN, name, PREDICT)
            np.testing.assert_allclose(ours.signals["position"].high, theirs.signals["position"].high, rtol=1e-4)
        view = await add(served, name, STEPS[25:35], 25)
        for step in STEPS[25:35]:
            due.observe(step.observations, actions=step.actions, exogenous=step.exogenous)
        assert view.version == number
        assert view.widening == pytest.approx(due.widening, rel=1e-6)


def test_services_that_share_a_database_neither_lose_nor_repeat_a_step(database_url: str) -> None:
    """Clients of two services add to one session, each step under its own event loop; some leave on the way."""
    acknowledged, uncertain = dict[int, int](), set[int]()
    pushes = np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32)

    def content(number: int) -> ObservedStep:
        step = STEPS[1 + number % 40]
        return replace(step, actions={"push": pushes[number]})

    async def client(found: Sessions, name: str, numbers: list[int], rng: random.Random) -> None:
        for number in numbers:
            while True:
                await asyncio.sleep(rng.uniform(0, 0.01))
                step = (await found.get(ANN, name)).step
                leaves = rng.random() < 0.2
                call = asyncio.ensure_future(found.observe(ANN, name, step, content(number)))
                try:
                    await asyncio.wait([call], timeout=rng.uniform(0, 0.02) if leaves else None)
                    if call.cancel():
                        uncertain.add(number)
                    assert (await call).step == step + 1
                except problems.StepConflictError:
                    uncertain.discard(number)
                    continue
                except asyncio.CancelledError:
                    break
                uncertain.discard(number)
                acknowledged[number] = step
                break

    def process(name: str, first: int) -> None:
        async def run(found: Sessions) -> None:
            rngs = [random.Random(f"{first} {one}") for one in range(2)]
            await asyncio.gather(
                *(client(found, name, list(range(first + one, first + 40, 4)), rng) for one, rng in enumerate(rngs))
            )

        with Database(database_url) as database:
            play(database, run)

    names = list[str]()

    async def create(found: Sessions) -> None:
        names.append((await found.create(ANN, "toy", SessionSettings())).id)
        await found.observe(ANN, names[0], 0, STEPS[0])

    async def check(found: Sessions) -> None:
        steps = stored(found, names[0])
        pushed = [int(np.flatnonzero((pushes == step.actions["push"]).all(1))[0]) for step in steps[1:]]
        assert len(set(pushed)) == len(pushed)
        assert {number: 1 + place for place, number in enumerate(pushed) if number in acknowledged} == acknowledged
        assert set(pushed) <= set(acknowledged) | uncertain
        assert (await found.get(ANN, names[0])).step == len(steps)
        await assert_same(found, names[0], local(steps, SessionSettings(num_kept=128)))

    with Database(database_url) as database:
        play(database, create)
        threads = [threading.Thread(target=process, args=(names[0], first)) for first in (0, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(acknowledged) > 10
        play(database, check)


@pytest.mark.parametrize("again", [False, True])
@ON_A_FILE
async def test_a_value_that_the_model_cannot_hold_is_refused_and_the_session_goes_on(
    served: Sessions, again: bool
) -> None:
    name = (await served.create(ANN, "toy", SETTINGS)).id
    await add(served, name, STEPS[:3])
    if again:
        served = restarted(served)
    for position in ([3e38, 0.0], [0.0, -1e9]):
        wrong = replace(STEPS[3], observations={"position": np.array(position, np.float32)})
        with pytest.raises(UnsupportedError, match=r"position\[[01]\] is (3e\+38|-1e\+09) m. .* to ") as refused:
            await served.observe(ANN, name, 3, wrong)
        assert problems.problem_of(refused.value).status == 422
    await add(served, name, STEPS[3:6], 3)
    await assert_same(served, name, local(STEPS[:6]))
    missing = replace(STEPS[6], observations={"position": np.full(2, 3e38)}, observed={"position": False})
    await add(served, name, [missing], 6)


@pytest.mark.parametrize("live", [False, True])
@ON_A_FILE
async def test_a_session_whose_world_was_replaced_by_one_with_other_signals_is_gone(
    database: Database, live: bool
) -> None:
    hosted = SwitchedWorld(1, toy_world())

    with opened(database, hosted=hosted) as (_, served):
        name = (await served.create(ANN, "toy", SETTINGS)).id
        await add(served, name, STEPS[:3])
        hosted.version, hosted.world = 2, linear_world()
        after = served if live else restarted(served)
        for call in (after.observe(ANN, name, 3, STEPS[3]), after.ask(ANN, name, PREDICT), after.ask(ANN, name, PLAN)):
            with pytest.raises(problems.GoneError, match=r"exogenous signal 'wind' is missing.* Open a new session"):
                await call
        hosted.version, hosted.world = 1, toy_world()  # put back
        await add(after, name, STEPS[3:5], 3)


async def test_forks_share_large_observations_and_a_token_has_a_limit(
    served: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHARED_BYTES", 1)
    sizes = select(func.count(), func.coalesce(func.sum(session_blobs.c.size), 0))

    def total() -> tuple[int, int]:
        number, size = served._database.read(lambda connection: connection.execute(sizes).one())
        return number, size

    first = (await served.create(ANN, "toy", SETTINGS)).id
    await add(served, first, STEPS[:8])
    number, size = total()
    assert number == 8
    forks = [(await served.fork(ANN, first)).id for _ in range(5)]
    assert total() == (number, size)
    await served.delete(ANN, first)
    await add(served, forks[0], STEPS[8:12], 8)
    for name, seen in ((forks[0], 12), (forks[1], 8)):
        await assert_same(restarted(served), name, local(STEPS[:seen]))
    assert total()[0] == 12
    served._service.limits = replace(served._service.limits, session_bytes=total()[1] + 10)
    with pytest.raises(problems.RateLimitedError, match="Delete a session"):
        await served.observe(ANN, forks[1], 8, STEPS[8])
    bob = (await served.create(BOB, "toy", SETTINGS)).id
    await served.observe(BOB, bob, 0, STEPS[0])
    for name in forks:
        await served.delete(ANN, name)
    assert total()[0] == 1
    monkeypatch.setattr(module, "KEPT_EXPIRED_S", -1e9)
    await served.clean()
    assert total() == (0, 0)
