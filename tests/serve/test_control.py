"""/v1/control over uvicorn: one answer per observation, before its deadline, whatever the planner does."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from tests.serve.socket_server import OTHER, READER, TOKEN, Server, Slow, serving_sockets, toy
from tests.serve.waiting import wait_for
from tests.world.test_reward_goal import near_one, paid
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.planning.calls import Call, PredictCall, ScoreCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.serve.following import MAX_GAP, FollowedStep, Follower
from worldline.serve.problems import OverloadedError
from worldline.serve.scheduler import Lane
from worldline.testing.toys import Integrator
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

GOAL = {"targets": {"position": [1.0, 0.5]}, "tolerance": {"position": 0.1}}
SETTINGS: dict[str, Any] = {"goal": GOAL, "horizon": 4, "period_s": 20.0, "deadline_s": 10.0}
"""Deadlines that no machine misses."""
FILES = {"kind": "plan", "world": "world/", "horizon": 4, "goal": "goal.toml"}
"""A controller that names files, which no client may."""
REST: dict[str, Any] = {"kind": "schedule", "steps": [{"at_s": 0.0, "set": {}}]}
LARGE = REST | {"steps": 1000 * REST["steps"]}


def tell(client: ClientConnection, message: dict[str, Any]) -> dict[str, Any]:
    client.send(json.dumps(message))
    return dict(json.loads(client.recv(30)))


def step(number: int, position: Any = (0.0, 0.0), **more: Any) -> dict[str, Any]:
    return {"step": number, "observations": {"position": list(position)}, **more}


def closed(client: ClientConnection) -> tuple[str, int]:
    """The code of the last message, and the close code."""
    message = json.loads(client.recv(30))
    assert message["type"] == "error"
    assert message["request_id"]
    with pytest.raises(ConnectionClosed) as end:
        client.recv(30)
    return message["code"], end.value.rcvd.code


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving_sockets(toy()) as found:
        yield found


@pytest.fixture
def slow() -> Iterator[tuple[Server, Slow]]:
    world = Slow(toy())
    with serving_sockets(world) as found:
        yield found, world


def test_a_client_reaches_its_goal_and_then_another_one(server: Server) -> None:
    position = np.array([-1.0, -1.0])
    with connect(f"{server.url}/control?world=toy") as client:
        ready = tell(client, SETTINGS)
        assert (ready["type"], ready["protocol"], ready["world"], ready["version"]) == ("ready", 1, "toy", None)
        assert {one["name"]: (one["role"], one["shape"], one["unit"]) for one in ready["signals"]} == {
            "position": ("observation", [2], "m"),
            "push": ("action", [2], "m"),
        }
        for number in range(12):
            if number == 6:
                assert np.abs(position - (1.0, 0.5)).max() < 0.2
                changed = tell(client, {"goal": {"targets": {"position": [-0.5, 0.0]}, "tolerance": {"position": 0.1}}})
                assert changed == {"type": "goal", "after_step": 5}
            answer = tell(client, step(number, position))
            assert (answer["type"], answer["step"], answer["source"]) == ("action", number, "fresh")
            assert answer["planned_at_step"] == number
            assert answer["trust"] is None
            assert "late_ms" not in answer
            position = 0.9 * position + answer["actions"]["push"]
        assert np.abs(position - (-0.5, 0.0)).max() < 0.2


def test_a_controller_chooses_the_actions() -> None:
    """An integral action removes the offset that 10 % leakage leaves; the world must not plan."""
    loops = [{"reads": f"position.{n}", "acts": f"push.{n}", "gain": 0.3, "integral_s": 1.0} for n in (0, 1)]
    settings = SETTINGS | {"controller": {"kind": "pid", "loops": loops}}
    world, position = Slow(toy()), np.array([-1.0, -1.0])
    with serving_sockets(world) as server, connect(f"{server.url}/control?world=toy") as client:
        assert tell(client, settings)["type"] == "ready"
        assert "expected observations ['position']" in tell(client, {"step": 0, "observations": {}})["detail"]
        refused = tell(client, {"goal": {"reward": True}})
        assert (refused["type"], refused["code"]) == ("error", "invalid_request")
        for number in range(60):
            if number == 30:
                assert np.abs(position - (1.0, 0.5)).max() < 0.05
                tell(client, {"goal": {"targets": {"position": [-0.5, 0.0]}}})
            answer = tell(client, step(number, position))
            assert (answer["source"], answer["status"], answer["trust"]) == ("fresh", "searched", None)
            position = 0.9 * position + answer["actions"]["push"]
    assert np.abs(position - (-0.5, 0.0)).max() < 0.05
    assert not world.requests


def test_a_schedule_follows_the_numbers_of_the_steps() -> None:
    steps = [{"at_s": 0.1 * number, "set": {"push.0": 0.1 * number}} for number in range(9)]
    settings = SETTINGS | {"controller": {"kind": "schedule", "steps": steps}}
    del settings["goal"]
    with serving_sockets(toy()) as server, connect(f"{server.url}/control?world=toy") as client:
        tell(client, settings)
        pushes = [tell(client, step(number))["actions"]["push"][0] for number in (2, 3, 5, 8)]
    assert pushes == pytest.approx([0.0, 0.1, 0.3, 0.6])


def test_a_goal_may_be_a_reward() -> None:
    with serving_sockets(paid(near_one)) as server, connect(f"{server.url}/control?world=toy") as client:
        assert tell(client, SETTINGS | {"goal": {"reward": True}})["type"] == "ready"
        answer = tell(client, step(0))
        assert answer["source"] == "fresh"
        assert answer["actions"]["push"][0] == pytest.approx(1, abs=0.2)
    with serving_sockets(toy()) as server, connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS | {"goal": {"reward": True}})
        client.send(json.dumps(step(0)))
        assert "no reward head" in client.recv(30)


def test_the_program_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "howto" / "control.md").read_text()
    code, shown = re.findall(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", text, re.DOTALL)[0]
    rng, logs = np.random.default_rng(0), list[Episode]()
    for _ in range(6):
        power, path = rng.uniform(0, 2, (20, 1)), [rng.uniform(10, 25, 1)]
        for one in power:
            path.append(path[-1] + 0.5 * one - 0.04 * (path[-1] - 10))
        logs.append(Episode(observations={"temperature": np.array(path)}, actions={"power": power}))
    room = Schema(
        signals=(
            Signal(name="temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC"),
            Signal(name="power", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(2.0,)),
        )
    )
    with serving_sockets(LocalWorld(Linear.fit(logs, room), None, CrossEntropy()), name="room") as server:
        code = code.replace("ws://127.0.0.1:8000/v1", server.url).replace('"period_s": 0.2', '"period_s": 20.0')
        exec(code, {})  # noqa: S102 (the page's code is what is tested)
    assert capsys.readouterr().out == shown.replace("    ", "")


def test_messages_in_msgpack_get_equal_answers_in_msgpack(server: Server) -> None:
    found = list[Any]()
    array = {"dtype": "float32", "shape": [2], "data": np.array([0.25, 0.5], np.float32).tobytes()}
    for encode, decode, position in (
        (lambda message: json.dumps(message), json.loads, [0.25, 0.5]),
        (msgspec.msgpack.encode, msgspec.msgpack.decode, array),
    ):
        with connect(f"{server.url}/control?world=toy") as client:
            client.send(encode(SETTINGS))
            assert decode(client.recv(30))["type"] == "ready"
            client.send(encode({"step": 0, "observations": {"position": position}}))
            found.append(decode(client.recv(30)))
    assert found[0]["source"] == "fresh"
    assert found[0] == found[1]


def test_a_late_plan_is_replaced_by_the_last_one_and_used_later(slow: tuple[Server, Slow]) -> None:
    server, world = slow
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS | {"period_s": 0.5, "deadline_s": 0.4, "initial": {"push": [0.5, -0.5]}})
        first, at = tell(client, step(0)), 0
        while first["source"] == "fallback":  # the machine is busy
            assert at < 50
            at += 1
            first = tell(client, step(at))
        world.delays = [1.0]
        sent_s = time.monotonic()
        second = tell(client, step(at + 1))
        assert 0.2 < time.monotonic() - sent_s < 0.9
        assert (second["source"], second["status"], second["planned_at_step"]) == ("fallback", "late", at)
        assert second["actions"]["push"] != first["actions"]["push"]
        time.sleep(1.0)
        third = tell(client, step(at + 2))
    assert third["planned_at_step"] in (at + 1, at + 2)
    proposals = world.requests[-1].proposals
    shifted = proposals["push"][0]
    np.testing.assert_array_equal(shifted[-1], shifted[-2])  # the plan of step 1, held at its end


def test_without_a_plan_the_initial_action_is_sent(slow: tuple[Server, Slow]) -> None:
    server, world = slow
    for settings, expected in (({}, [0.0, 0.0]), ({"initial": {"push": [0.5, -0.5]}}, [0.5, -0.5])):
        world.delays = [0.5]
        with connect(f"{server.url}/control?world=toy") as client:
            tell(client, SETTINGS | {"period_s": 0.2, "deadline_s": 0.1} | settings)
            answer = tell(client, step(0))
        assert (answer["source"], answer["planned_at_step"]) == ("fallback", None)
        assert answer["actions"]["push"] == expected


def test_a_plan_is_followed_for_several_steps(slow: tuple[Server, Slow]) -> None:
    server, world = slow
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS | {"replan_every": 3})
        answers = [tell(client, step(number)) for number in range(6)]
    assert [one["planned_at_step"] for one in answers] == [0, 0, 0, 3, 3, 3]
    assert {one["source"] for one in answers} == {"fresh"}
    assert len(world.requests) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        step(1, [1.0]),
        step(1, [None, 0.0]),
        step(0),
        step(-1),
        {"step": 1, "observations": {"elsewhere": [0.0, 0.0]}},
        {"step": 1, "observations": {}},
        step(1, actions={"push": [0.0]}),
        step(1, observed={"elsewhere": True}),
        step(1, actions={}),
    ],
)
def test_an_observation_that_does_not_fit_is_an_error_of_its_step_only(server: Server, wrong: dict[str, Any]) -> None:
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS)
        assert tell(client, step(0))["type"] == "action"
        error = tell(client, wrong)
        assert (error["type"], error["code"], error["step"]) == ("error", "invalid_request", wrong["step"])
        assert tell(client, step(1))["source"] == "fresh"


def test_exogenous_inputs_are_held_or_forecast() -> None:
    world = Slow(toy(wind=True))
    with serving_sockets(world) as server, connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS | {"horizon": 3})
        assert "wind" in tell(client, step(0))["detail"]
        assert tell(client, step(0, exogenous={"wind": [0.5, 0.0]}))["source"] == "fresh"
        wind = [[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.4, 0.0]]
        assert tell(client, step(1, exogenous={"wind": [0.5, 0.0]}, forecast={"wind": wind}))["source"] == "fresh"
    held, given = (request.exogenous["wind"] for request in world.requests if request.exogenous)
    np.testing.assert_array_equal(held, [[0.5, 0.0]] * 3)
    np.testing.assert_array_equal(given, wind[:3])


def test_steps_without_an_observation_are_added_as_unobserved() -> None:
    world, follower = toy(), Follower()

    def follow(number: int, actions: list[list[float]]) -> None:
        found = {"push": np.array(actions, np.float32)}
        position = np.full(2, number, np.float32)
        follower.observe(
            world,
            FollowedStep(step=number, observations={"position": position}, observed={}, actions=found, exogenous={}),
        )

    follow(7, [])
    follow(10, [[0.1, 0.1], [0.2, 0.2]])
    follow(10, [[0.9, 0.9]])  # again, because a call was given up
    history = follower.session.history
    assert history.observed["position"].tolist() == [True, False, False, True]
    np.testing.assert_allclose(history.actions["push"][:, 0], [0.1, 0.2, 0.2])
    np.testing.assert_array_equal(history.observations["position"][:, 0][[0, 3]], [7.0, 10.0])
    follow(11 + MAX_GAP, [[0.0, 0.0]])
    assert follower.session.history.observations["position"].tolist() == [[11.0 + MAX_GAP] * 2]


@pytest.mark.parametrize("min_trust", [0.0, 0.05])
def test_trust_follows_the_action_unless_the_plan_depends_on_it(min_trust: float) -> None:
    known = Integrator(camera=False, wind=False, noise=0.01)
    engine = Linear.fit(known.episodes(9, 20, seed=0), known.schema)
    calibration = calibrate(
        engine, known.episodes(30, 20, seed=1), horizon=2, num_windows=1, seed=0, trust_steps=2, with_causes=False
    )
    world = LocalWorld(engine, calibration, CrossEntropy())
    with serving_sockets(world) as server, connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS | {"min_trust": min_trust})
        usual = [tell(client, step(number)) for number in range(3)]
        assert all(answer["source"] == "fresh" and answer["trust"] > 0.05 for answer in usual)
        jump, then = tell(client, step(3, [0.9, -0.9])), tell(client, step(4, [0.9, -0.9]))
    if min_trust:
        assert (jump["status"], jump["trust"] < 0.05) == ("refused", True)
    else:
        assert (jump["source"], jump["trust"] > 0.05) == ("fresh", True)
        assert (then["source"], then["trust"] < 0.05) == ("fresh", True)


def test_an_overloaded_service_loses_no_observation(slow: tuple[Server, Slow], monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: object, **__: object) -> None:
        raise OverloadedError("the queue is full")

    server, world = slow
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS)
        assert tell(client, step(0))["source"] == "fresh"
        with monkeypatch.context() as patch:
            patch.setattr(server.service.scheduler, "run", full)
            refused = tell(client, step(1, [0.5, 0.5]))
        assert (refused["source"], refused["status"], refused["planned_at_step"]) == ("fallback", "overloaded", 0)
        assert tell(client, step(2))["source"] == "fresh"
    assert world.histories[-1].observations["position"].tolist() == [[0.0, 0.0], [0.5, 0.5], [0.0, 0.0]]


def test_a_fault_of_the_planner_is_a_fallback_without_its_text(
    slow: tuple[Server, Slow], caplog: pytest.LogCaptureFixture
) -> None:
    server, world = slow
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS)
        world.fault = ZeroDivisionError("a secret")
        answer = tell(client, step(0))
        assert (answer["source"], answer["status"]) == ("fallback", "internal")
        assert "secret" not in json.dumps(answer)
        world.fault = None
        assert tell(client, step(1))["source"] == "fresh"
    assert any("ZeroDivisionError" in record.message for record in caplog.records)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("path", "headers", "message", "expected"),
    [
        ("control?world=toy", {}, "{", ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"horizon": 0}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"horizon": 10**6}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"period_s": 0}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"goal": {}}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"controller": {"kind": "pid"}}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"controller": FILES}), ("invalid_request", 4400)),
        (
            "control?world=toy",
            {},
            json.dumps(SETTINGS | {"controller": REST, "min_trust": 0.1}),
            ("invalid_request", 4400),
        ),
        (
            "control?world=toy",
            {},
            json.dumps(SETTINGS | {"controller": REST, "replan_every": 2}),
            ("invalid_request", 4400),
        ),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"controller": LARGE}), ("invalid_request", 4400)),
        ("control?world=toy", {}, json.dumps(SETTINGS | {"initial": {"push": [2.0, 0.0]}}), ("invalid_request", 4400)),
        ("control?world=toy", {"Origin": "http://elsewhere.org"}, None, ("forbidden", 4403)),
        ("control?world=other", {}, None, ("not_found", 4404)),
        ("control", {}, None, ("not_found", 4404)),
    ],
)
def test_a_refusal_has_a_code_and_a_close_code(
    server: Server, path: str, headers: dict[str, str], message: str | None, expected: tuple[str, int]
) -> None:
    with connect(f"{server.url}/{path}", additional_headers=headers) as client:
        if message is not None:
            client.send(message)
        assert closed(client) == expected


def test_a_token_with_the_scope_session_opens_a_connection_and_the_request_id_is_kept() -> None:
    with serving_sockets(toy(), tokens=True) as server:
        url = f"{server.url}/control?world=toy"
        for token, expected in (("wl_wrong", ("unauthorized", 4401)), (READER, ("forbidden", 4403))):
            with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as client:
                assert closed(client) == expected
        headers = {"Authorization": f"Bearer {TOKEN}", "Request-Id": "robot-7"}
        with connect(url.replace("toy", "tyo"), additional_headers=headers) as client:
            assert json.loads(client.recv(30))["detail"] == "there is no world 'tyo'."
        with connect(url, additional_headers=headers) as client:
            assert tell(client, SETTINGS)["request_id"] == "robot-7"


def test_a_page_that_rebinds_its_name_to_this_machine_is_refused(server: Server) -> None:
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with (
        socket.create_connection(("127.0.0.1", port)) as found,
        pytest.raises(InvalidStatus) as refused,
        connect("ws://evil.org/v1/control?world=toy", sock=found),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_connections_are_limited_in_number_and_idle_time() -> None:
    with serving_sockets(toy(), sockets=1, session_s=0.5) as server:
        url = f"{server.url}/control?world=toy"
        with connect(url) as client:
            tell(client, SETTINGS)
            with connect(url) as second:
                assert closed(second) == ("overloaded", 4429)
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{server.url}/openpi?world=toy")
            assert refused.value.response.status_code == 429
            assert closed(client) == ("request_timeout", 4408)
        with connect(url) as client:  # its place is free again
            assert tell(client, SETTINGS)["type"] == "ready"


class Held(Slow):
    """Holds calls over more than one step, except plans."""

    go = threading.Event()

    def answer(self, call: Call) -> Any:
        if isinstance(call, ScoreCall | PredictCall) and call.actions["push"].shape[-2] > 1:
            assert self.go.wait(60)
        return super().answer(call)


def test_calls_of_another_token_leave_the_workers_of_a_loop_free() -> None:
    world, past = Held(toy()), {"history": {"observations": {"position": [[0.0, 0.0]]}}}
    bodies = {"predict": {"actions": {"push": [[0.0, 0.0]] * 2}}, "score": {"actions": {"push": [[[0.0, 0.0]] * 2]}}}
    bodies["score"]["goal"] = GOAL
    with serving_sockets(world, tokens=True) as server, ThreadPoolExecutor() as threads:
        url, key = server.url.replace("ws", "http", 1), {"authorization": f"Bearer {OTHER}"}

        def post(verb: str) -> int:
            body = past | bodies[verb]
            path = f"{url}/worlds/toy:{verb}"
            return httpx.post(path, json=body, headers=key, timeout=60, trust_env=False).status_code

        calls = [threads.submit(post, verb) for verb in bodies]
        try:
            wait_for(lambda: any(server.service.scheduler.running(lane) for lane in Lane))
            own = {"Authorization": f"Bearer {TOKEN}"}
            with connect(f"{server.url}/control?world=toy", additional_headers=own) as client:
                tell(client, SETTINGS | {"period_s": 5.0, "deadline_s": 4.0})
                assert tell(client, step(0))["source"] == "fresh"
        finally:
            world.go.set()
        assert [call.result() for call in calls] == [200, 200]


def test_a_stop_closes_every_connection() -> None:
    with serving_sockets(toy()) as server, connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS)
        server.stop()
        with pytest.raises(ConnectionClosed) as end:
            client.recv(30)
        assert end.value.rcvd.code == 1012


def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    world = Slow(toy(), delays=[1.0])
    with serving_sockets(world, sockets=1) as server:
        vanish(server, world)

        kinds = list[str]()

        def answers() -> list[str]:
            with suppress(ConnectionClosed), connect(f"{server.url}/control?world=toy") as client:
                client.send(json.dumps(SETTINGS))
                kinds.append(json.loads(client.recv(30))["type"])
            return kinds

        wait_for(answers)
        assert kinds == ["ready"]  # its place is free again


def vanish(server: Server, world: Slow) -> None:
    """A client whose network fails while a plan is searched."""
    with connect(f"{server.url}/control?world=toy") as client:
        tell(client, SETTINGS)
        client.send(json.dumps(step(0)))
        wait_for(lambda: world.requests)
        client.socket.shutdown(socket.SHUT_RDWR)
